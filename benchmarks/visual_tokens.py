"""Fewer visual tokens: what merging costs in accuracy and saves in time.

    python -m benchmarks.visual_tokens accuracy --clips 500 --seed 1
    python -m benchmarks.visual_tokens speed FOLDER --rounds 3

`accuracy` asks the embedded model about the clips of benchmarks/demo_accuracy.py, with all of its 136 visual
tokens, with half and a quarter of them, and, to compare, with 4 and 2 frames in full. `speed` asks a folder
(benchmarks.folders makes one of the real shapes) about 8 frames of noise; without one, the embedded model.
The last line of the output is a JSON object.
"""

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

import watchword
from benchmarks.demo_accuracy import SEED_OFFSET, admitting, clip_file
from watchword.bench import ours
from watchword.train import topics

WAYS = (
    {},
    {"visual_tokens": 0.5},
    {"visual_tokens": 0.25},
    {"frames": 4},
    {"frames": 2},
)  # fmt: skip


def told(way: dict) -> str:
    """A way as a name."""
    return " ".join(f"{name}={value}" for name, value in way.items()) or "all"


def accuracy(clips: int, seed: int) -> dict:
    """Share of exact answers, by way and by kind of question."""
    model = watchword.load()
    rng = np.random.default_rng(SEED_OFFSET + seed)
    right: dict = {told(way): defaultdict(list) for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        for number in range(clips):
            kind = list(topics.CLIPS)[number % len(topics.CLIPS)]
            scene, (question, expected) = admitting(rng, kind)
            clip_file(scene, rng, path)
            for way in WAYS:
                right[told(way)][kind].append(model.ask(path, question, **way).text == expected)
    return {
        name: {"all": round(float(np.mean([one for some in kinds.values() for one in some])), 4)}
        | {kind: round(float(np.mean(some)), 4) for kind, some in kinds.items()}
        for name, kinds in right.items()
    }


def speed(folder: str | None, rounds: int, tokens: int) -> dict:
    """Median seconds to the first token and per further token, by way, all ways in turn."""
    model = watchword.load(folder)
    side = model.model.config.vision_config.image_size
    found: dict = {told(way): [] for way in WAYS}
    for number in range(rounds + 1):
        for way in WAYS:
            media = ours.random_media(way.get("frames", 8), side)
            merging = {name: value for name, value in way.items() if name != "frames"}
            model.cache.clear()
            answer = model.ask(
                media, "What happens?", max_new_tokens=tokens, min_new_tokens=tokens, **merging
            )
            first = answer.seconds["first_token"]
            step = (answer.seconds["total"] - first) / (tokens - 1)
            if number:
                found[told(way)].append((first, step, answer.seconds["vision"], answer.tokens["visual"]))
    names = ("first_token", "step", "vision", "visual_tokens")
    return {way: {name: statistics.median(one[at] for one in some) for at, name in enumerate(names)}
            for way, some in found.items()}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["accuracy", "speed"])
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.what == "accuracy":
        found = accuracy(given.clips, given.seed)
    else:
        found = speed(given.folder, given.rounds, given.tokens)
    for way, numbers in found.items():
        print(f"{way:<20}", ", ".join(f"{name} {value:.4g}" for name, value in numbers.items()))
    print(json.dumps({"threads": given.threads, "torch": torch.__version__, **found}))


if __name__ == "__main__":
    main()
