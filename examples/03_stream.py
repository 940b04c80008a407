"""Words as they come, then what the answer took."""

from pathlib import Path

import watchword

clip = Path(watchword.__file__).parent / "demo/clips/shapes_3.mp4"
stream = watchword.load().stream(clip, "What happens?")
for piece in stream:
    print(piece, end="", flush=True)
print()
print(stream.answer.tokens)
