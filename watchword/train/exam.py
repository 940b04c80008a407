"""Exact answers by kind, on rendered clips that no training batch holds; a quick stand-in for encoded
ones."""

from collections.abc import Callable

import numpy as np
import torch

from watchword.train import questions, topics, world
from watchword.train.lessons import SHOTS, Look, normalised
from watchword.train.packing import answered, opening, pack
from watchword.train.shapes import frame_times, render, sample
from watchword.train.student import Student


def examiner(look: Look, *, clips: int = 200, seed: int = 99) -> Callable[[Student], dict[str, float]]:
    """A function that measures a student: each kind's share of clips whose question it answers exactly.

    Every question stands behind the clip as the only one, so the most likely next tokens are what greedy
    decoding gives.
    """
    rng = np.random.default_rng((seed, 0))
    scenes = world.sample(rng, clips) if look.wide else sample(rng, clips)
    asks = topics.CLIPS if look.wide else questions.KINDS
    times = np.stack([frame_times(int(frames), look.frames) for frames in rng.integers(*SHOTS, clips)])
    pixels, _ = (world.render if look.wide else render)(scenes, times, look.side)
    ids = look.ids
    asked, kinds = [], []
    for row in range(clips):
        pairs = [(kind, ask(scenes.things(row), rng)) for kind, ask in asks.items()]
        asked.append([pair for _, pair in pairs if pair])
        kinds.append([kind for kind, pair in pairs if pair])
    start = opening(ids, "<video>", look.frames * (look.grid**2 + 1))
    rows, clip_pixels = pack(asked, start, ids), normalised(pixels)

    @torch.no_grad()
    def examine(student: Student) -> dict[str, float]:
        student.eval()
        logits, _ = student.answers(rows, student.features(clip_pixels)[1])
        student.train()
        right: dict[str, list[bool]] = {kind: [] for kind in asks}
        for names, good in zip(kinds, answered(logits, rows)):
            for kind, value in zip(names, good):
                right[kind].append(value)
        return {f"exact_{kind}": float(np.mean(values)) for kind, values in right.items()}

    return examine
