"""Make the clips and pictures that `watchword demo` asks about: python scripts/demo_clips.py

They lie in watchword/demo/clips, so that an installed library has them; clips.json holds the questions to
each with their right answers, talks.json conversations.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from watchword.media.write import write_clip
from watchword.train import topics, world
from watchword.train.shapes import frame_times
from watchword.train.talks import talk

ROOT = Path(__file__).parents[1]
CLIPS = ROOT / "watchword" / "demo" / "clips"
SEED = 12
SIDE, FRAMES, TURNS = 320, 36, 3
ASKED = {
    "shapes_1.mp4": ("happens", "first", "becomes"),
    "shapes_2.mp4": ("happens", "count", "moves"),
    "shapes_3.mp4": ("happens", "beside", "before"),
    "shapes_4.mp4": ("happens", "who", "moment"),
    "shapes_5.jpg": ("listing", "neighbour", "number"),
    "shapes_6.jpg": ("count", "side", "shape"),
}
"""The kinds that each is asked by."""
TALKED = ("shapes_3.mp4", "shapes_5.jpg")
"""What there is a conversation about."""


def main() -> None:
    """For each row of kinds draw a world that admits them all, write it, and keep what is asked."""
    rng = np.random.default_rng(SEED)
    CLIPS.mkdir(parents=True, exist_ok=True)
    asked, talks = {}, {}
    for name, kinds in ASKED.items():
        picture = name.endswith(".jpg")
        found = topics.PICTURES if picture else topics.CLIPS
        while True:
            scene = world.sample(rng, 1, still=picture)
            things = scene.things(0)
            pairs = [found[kind](things, rng) for kind in kinds]
            if all(pairs) and (picture or any(thing.action != "still" for thing in things)):
                break
        frames = world.render(scene, frame_times(1 if picture else FRAMES)[None], SIDE)[0][0]
        pixels = frames.round().byte().permute(0, 2, 3, 1).contiguous()
        if picture:
            Image.fromarray(pixels[0].numpy()).save(CLIPS / name, quality=90)
        else:
            write_clip(CLIPS / name, pixels)
        asked[name] = dict(pairs)
        if name in TALKED:
            while not any(" it" in question for question, _ in talks.get(name, ())):
                talks[name] = talk(things, rng, turns=TURNS, kinds=found)
    for file, held in (("clips.json", asked), ("talks.json", talks)):
        (CLIPS / file).write_text(json.dumps(held, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
