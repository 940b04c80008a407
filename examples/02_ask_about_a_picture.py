"""Ask about a picture: a path, a Pillow image, or an array as here."""

from pathlib import Path

import watchword

clip = watchword.media.read_frames(Path(watchword.__file__).parent / "demo/clips/shapes_1.mp4")
model = watchword.load()
print(model.ask(clip.frames[0], "How many objects are there?").text)
