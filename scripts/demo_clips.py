"""Make the clips that `watchword demo` asks about: python scripts/demo_clips.py

They lie in watchword/demo/clips, so that an installed library has them; clips.json holds the questions to
each clip with their right answers.
"""

import json
from pathlib import Path

import numpy as np

from watchword.media.write import write_clip
from watchword.train import questions, shapes

ROOT = Path(__file__).parents[1]
CLIPS = ROOT / "watchword" / "demo" / "clips"
SEED = 12
SIDE, FRAMES = 320, 36
KINDS = (
    ("happens", "does", "colour"),
    ("happens", "count", "moves"),
    ("happens", "shape", "direction"),
    ("happens", "who", "exists"),
)
"""One clip each."""


def main() -> None:
    """Draw a scene for each row of kinds that admits them all, encode it, and keep what is asked."""
    rng = np.random.default_rng(SEED)
    CLIPS.mkdir(parents=True, exist_ok=True)
    asked = {}
    for number, kinds in enumerate(KINDS, start=1):
        while True:
            scene = shapes.sample(rng, 1)
            things = scene.things(0)
            pairs = [questions.ask(kind, things, rng) for kind in kinds]
            if all(pairs) and any(thing.action != "still" for thing in things):
                break
        name = f"shapes_{number}.mp4"
        frames = shapes.render(scene, shapes.frame_times(FRAMES)[None], SIDE)[0][0]
        write_clip(CLIPS / name, frames.round().byte().permute(0, 2, 3, 1).contiguous())
        asked[name] = dict(pairs)
    (CLIPS / "clips.json").write_text(json.dumps(asked, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
