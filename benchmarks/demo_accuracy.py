"""How many questions about unseen encoded clips the embedded model answers exactly.

    python benchmarks/demo_accuracy.py --clips 500 --seed 1 [--quantize int8]

Each clip is drawn from the seed, encoded as H.264, and asked one question through the front door, which
decodes, picks frames and resizes as for any other file. Kinds take turns. Wrong answers go to standard
error; the last line of the output is a JSON object with the shares.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from watchword import pipeline
from watchword.media.write import write_clip
from watchword.train import questions, shapes

FOLDER = Path(__file__).parents[1] / "watchword" / "demo" / "video-llava"
SIDES = (320, 360, 400)
QUALITIES = (20, 23, 26)
SEED_OFFSET = 1_000_000
"""Keeps every seed given here apart from the seeds of training, which are pairs."""


def draw(rng: np.random.Generator, kind: str) -> tuple[shapes.Scenes, questions.Asked]:
    """A scene that admits a question of that kind, and the question."""
    while True:
        scene = shapes.sample(rng, 1)
        asked = questions.ask(kind, scene.things(0), rng)
        if asked is not None:
            return scene, asked


def clip_file(scene: shapes.Scenes, rng: np.random.Generator, path: Path) -> None:
    """The scene as an encoded clip of one to four seconds."""
    times = shapes.frame_times(int(rng.integers(16, 49)))[None]
    frames = shapes.render(scene, times, int(rng.choice(SIDES)))[0][0]
    write_clip(
        path, frames.round().byte().permute(0, 2, 3, 1).contiguous(), quality=int(rng.choice(QUALITIES))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", default=FOLDER)
    parser.add_argument("--quantize", help="int8, int4 or nf4")
    options = parser.parse_args()
    rng = np.random.default_rng(SEED_OFFSET + options.seed)
    model = pipeline.load(options.model, quantize=options.quantize)
    right: dict[str, list[bool]] = defaultdict(list)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        for number in range(options.clips):
            kind = questions.MAIN[number % len(questions.MAIN)]
            scene, (question, expected) = draw(rng, kind)
            clip_file(scene, rng, path)
            text = model.ask(path, question).text
            right[kind].append(text == expected)
            if text != expected:
                print(f"{kind}: {question} {text!r}, expected {expected!r}", file=sys.stderr)
    print(f"{options.clips} clips in {time.perf_counter() - began:.0f} s")
    every = [good for values in right.values() for good in values]
    print(
        json.dumps(
            {
                "clips": options.clips,
                "seed": options.seed,
                "quantize": options.quantize,
                "overall": round(float(np.mean(every)), 4),
                "kinds": {kind: round(float(np.mean(values)), 4) for kind, values in right.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
