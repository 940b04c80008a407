"""How many questions about unseen encoded clips and pictures an embedded model answers exactly.

    python -m benchmarks.demo_accuracy --model video-llava --clips 1000 --seed 1 [--free] [--quantize int8]

Worlds are drawn from the seed and written as H.264 or JPEG; everything goes through the front door, which
decodes, picks frames and resizes as for any other file. Each clip is asked four questions, of the kinds that
it admits those asked least so far; one in five is talked about instead, three turns in a row. Video-LLaVA
sees a picture each fourth time. Wrong answers go to standard error; the last line of the output is a JSON
object with the shares.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from watchword import pipeline
from watchword.media.write import write_clip
from watchword.train import topics, wordings, world
from watchword.train.shapes import Thing, frame_times
from watchword.train.talks import talk

DEMO = Path(__file__).parents[1] / "watchword" / "demo"
SIDES = (320, 360, 400)
QUALITIES = (20, 23, 26)
"""Of H.264, as its crf."""
SEED_OFFSET = 1_000_000
"""Keeps every seed given here apart from the seeds of training, which are pairs."""
PICTURE_EACH = {"instructblip": 1, "instructblip-video": 0, "video-llava": 4}
"""Each so many media one is a picture; 0: none."""
ASKED, TALK_EACH, TURNS = 4, 5, 3
TOGETHER = 20
"""So many media are asked about at once."""


def admitting(rng: np.random.Generator, kind: str) -> tuple[world.World, topics.Asked]:
    """A world of clips that admits a question of that kind, and the question."""
    while True:
        found = world.sample(rng, 1)
        asked = topics.CLIPS[kind](found.things(0), rng)
        if asked is not None:
            return found, asked


def clip_file(scene: world.World, rng: np.random.Generator, path: Path) -> None:
    """The world as an encoded clip of one to four seconds."""
    times = frame_times(int(rng.integers(16, 49)))[None]
    write_clip(path, drawn(scene, times, rng), quality=int(rng.choice(QUALITIES)))


def picture_file(scene: world.World, rng: np.random.Generator, path: Path) -> None:
    """The world, in which nothing happens, as a JPEG."""
    from PIL import Image

    pixels = drawn(scene, np.zeros((1, 1)), rng)[0]
    Image.fromarray(pixels.numpy()).save(path, quality=int(rng.integers(80, 96)))


def drawn(scene: world.World, times: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """Frames as they go into a file."""
    frames = world.render(scene, times, int(rng.choice(SIDES)))[0][0]
    return frames.round().byte().permute(0, 2, 3, 1).contiguous()


@dataclass(frozen=True)
class Shown:
    """A file, what it shows, and what can be asked about it."""

    path: Path
    things: list[Thing]
    kinds: topics.Kinds
    mark: str = ""


Result = tuple[str, str, str, str]
"""A kind, the question, what was answered, and what is right."""


def shown(name: str, clips: int, rng: np.random.Generator, folder: Path) -> Iterator[Shown]:
    """What a model of that name is asked about, file by file."""
    each = PICTURE_EACH[name]
    for number in range(clips):
        picture = bool(each) and number % each == each - 1
        scene = world.sample(rng, 1, still=picture)
        path = folder / f"{number}.{'jpg' if picture else 'mp4'}"
        (picture_file if picture else clip_file)(scene, rng, path)
        kinds, mark = (topics.PICTURES, "picture ") if picture else (topics.CLIPS, "")
        yield Shown(path, scene.things(0), kinds, mark)


def results(model: Any, name: str, clips: int, seed: int, free: bool) -> Iterator[Result]:
    """Draw, ask and talk."""
    rng = np.random.default_rng(SEED_OFFSET + seed)
    asked: dict[str, int] = defaultdict(int)
    waiting: list[tuple[str, Path, str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, one in enumerate(shown(name, clips, rng, Path(folder)), start=1):
            if number % TALK_EACH:
                waiting += chosen(one, rng, asked, free)
            else:
                yield from talked(model, one, rng)
            if number % TOGETHER == 0 or number == clips:
                answers = model.ask_many([(path, question) for _, path, question, _ in waiting])
                yield from ((k, q, a.text, right) for (k, _, q, right), a in zip(waiting, answers))
                waiting.clear()


def chosen(
    one: Shown, rng: np.random.Generator, asked: dict[str, int], free: bool
) -> list[tuple[str, Path, str, str]]:
    """Questions of the kinds asked least so far, with their answers."""
    found = {kind: ask(one.things, rng) for kind, ask in one.kinds.items()}
    pairs = {f"{one.mark}{kind}": pair for kind, pair in found.items() if pair}
    some = sorted(pairs, key=lambda kind: asked[kind] + rng.random())[:ASKED]
    for kind in some:
        asked[kind] += 1
    reword = partial(wordings.reword, rng=rng) if free else str
    return [(kind, one.path, reword(pairs[kind][0]), pairs[kind][1]) for kind in some]


def talked(model: Any, one: Shown, rng: np.random.Generator) -> Iterator[Result]:
    """A conversation: each turn follows the model's own answers."""
    chat = model.chat(one.path)
    for question, expected in talk(one.things, rng, turns=TURNS, kinds=one.kinds):
        yield f"{one.mark}turns", question, chat.ask(question).text, expected


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="video-llava", choices=list(PICTURE_EACH))
    parser.add_argument(
        "--folder", type=Path, help="where its checkpoint is; that in watchword/demo unless told"
    )
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--free", action="store_true", help="in other words, half of the time")
    parser.add_argument("--quantize", help="int8, int4 or nf4")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = pipeline.load(given.folder or DEMO / given.model, quantize=given.quantize)
    right: dict[str, list[bool]] = defaultdict(list)
    began = time.perf_counter()
    for kind, question, answer, expected in results(model, given.model, given.clips, given.seed, given.free):
        right[kind].append(answer == expected)
        if answer != expected:
            print(f"{kind}: {question} {answer!r}, expected {expected!r}", file=sys.stderr)
    every = [good for values in right.values() for good in values]
    print(f"{given.clips} clips and pictures, {len(every)} answers in {time.perf_counter() - began:.0f} s")
    shares = {kind: round(float(np.mean(values)), 4) for kind, values in right.items()}
    for kind in sorted(shares):
        print(f"{kind:<20} {100 * shares[kind]:6.1f} % of {len(right[kind])}")
    told = {"model": given.model, "clips": given.clips, "seed": given.seed, "free": given.free,
            "quantize": given.quantize, "answers": len(every)}  # fmt: skip
    print(json.dumps(told | {"overall": round(float(np.mean(every)), 4), "kinds": shares}))


if __name__ == "__main__":
    main()
