"""Exact answers by kind, on rendered clips and pictures that no training batch holds; a quick stand-in for
encoded ones."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from watchword.shapes import Float, Tensor
from watchword.train import topics, world
from watchword.train.lessons import SHOTS, Look, moved, normalised
from watchword.train.packing import Pack, answered, opening, pack_talks
from watchword.train.shapes import frame_times
from watchword.train.student import Student, reader
from watchword.train.talks import talk

TURNS = 3


@dataclass(frozen=True)
class Sheet:
    """Clips, or pictures, what each is asked, and of which kinds that is."""

    pixels: Float[Tensor, "B T 3 h w"]
    rows: Pack
    kinds: list[list[str]]


def examiner(look: Look, *, clips: int = 200, seed: int = 99) -> Callable[[Student], dict[str, float]]:
    """A function that measures a student: each kind's share of questions that it answers exactly, and of
    conversations that it holds without a mistake.

    Every question stands behind the clip as the only one, so the most likely next tokens are what greedy
    decoding gives.
    """
    rng = np.random.default_rng((seed, 0))
    sheets = [sheet(rng, look, clips, picture) for picture in (False, True)]

    @torch.no_grad()
    def examine(student: Student) -> dict[str, float]:
        right: dict[str, list[bool]] = defaultdict(list)
        student.eval()
        for one in sheets:
            rows = moved(one.rows, student.device)
            hidden, _ = student.read(rows, student.features(one.pixels.to(student.device))[1])
            likely = reader(student.model).logits(hidden).argmax(-1).cpu()
            for names, good in zip(one.kinds, answered(likely, one.rows)):
                for kind, value in zip(names, good):
                    right[kind].append(value)
        student.train()
        return {f"exact_{kind}": float(np.mean(values)) for kind, values in right.items()}

    return examine


def sheet(rng: np.random.Generator, look: Look, clips: int, picture: bool) -> Sheet:
    """Each is asked one question of every kind that it admits; and there is a talk besides."""
    scenes = world.sample(rng, clips, still=picture)
    times = np.zeros((clips, 1))
    if not picture:
        times = np.stack([frame_times(int(frames), look.frames) for frames in rng.integers(*SHOTS, clips)])
    pixels, _ = world.render(scenes, times, look.side)
    asks = topics.PICTURES if picture else topics.CLIPS
    mark = "picture_" if picture else ""
    asked, kinds = [], []
    for row in range(clips):
        things = scenes.things(row)
        pairs = {f"{mark}{kind}": ask(things, rng) for kind, ask in asks.items()}
        talks = {kind: (pair,) for kind, pair in pairs.items() if pair}
        talks[f"{mark}talk"] = talk(things, rng, turns=TURNS, kinds=asks)
        asked.append(list(talks.values()))
        kinds.append(list(talks))
    marker, tokens = ("<image>", look.grid**2) if picture else ("<video>", look.frames * (look.grid**2 + 1))
    start = opening(look.ids, marker, tokens)
    return Sheet(normalised(pixels), pack_talks(asked, start, look.ids), kinds)
