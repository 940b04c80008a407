"""Ask the embedded model about a clip; name a folder or hub id in `load` for a model that knows the world."""

from pathlib import Path

import watchword

clip = Path(watchword.__file__).parent / "demo/clips/shapes_4.mp4"
model = watchword.load()
answer = model.ask(clip, "What happens?")
print(answer.text)
print("looked at frames", *answer.frames, "at seconds", *answer.times)
