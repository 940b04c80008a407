"""Exact answers of an embedded InstructBLIP by kind, on rendered pictures or clips that no batch holds; a
quick stand-in for encoded ones."""

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import torch

from watchword.train import topics, world
from watchword.train.blip_student import BlipStudent, reader
from watchword.train.lessons import SHOTS, Look, moved, normalised
from watchword.train.packing import answered
from watchword.train.readings import Readings, read
from watchword.train.shapes import frame_times
from watchword.train.talks import Talk, talk

ROWS = 128
"""Questions that are asked at once, for memory's sake."""


def examiner(
    look: Look, *, picture: bool, number: int = 60, seed: int = 99
) -> Callable[[BlipStudent], dict[str, float]]:
    """A function that measures a student: each kind's share of questions that it answers exactly.

    Every question stands alone behind what the Q-Former makes of it, so the most likely next tokens are what
    greedy decoding gives. `talk` is the last turn of a conversation.
    """
    rng = np.random.default_rng((seed, int(picture)))
    scenes = world.sample(rng, number, still=picture)
    times = np.zeros((number, 1)) if picture else np.stack(
        [frame_times(int(frames), look.frames) for frames in rng.integers(*SHOTS, number)]
    )  # fmt: skip
    pixels = normalised(world.render(scenes, times, look.side)[0])
    kinds = topics.PICTURES if picture else topics.CLIPS
    asked: list[tuple[str, int, Talk]] = []
    for clip in range(number):
        things = scenes.things(clip)
        alone = ((kind, ask(things, rng)) for kind, ask in kinds.items())
        asked += [(kind, clip, (pair,)) for kind, pair in alone if pair]
        asked.append(("talk", clip, talk(things, rng, turns=int(rng.integers(2, 5)), kinds=kinds)))
    asked.sort(key=lambda one: len(str(one[2])))
    parts = [asked[start : start + ROWS] for start in range(0, len(asked), ROWS)]
    visual = times.shape[1] * (look.grid**2 + 1)

    def packed(part: list[tuple[str, int, Talk]]) -> Readings:
        return read([[one] for _, _, one in part], [clip for _, clip, _ in part], visual, look.ids)

    @torch.no_grad()
    def examine(student: BlipStudent) -> dict[str, float]:
        student.eval()
        views = torch.split(pixels.to(student.device), ROWS)
        features = torch.cat([student.features(some)[1] for some in views])
        right: dict[str, list[bool]] = defaultdict(list)
        for part in parts:
            pack = moved(packed(part), student.device)
            hidden, _ = student.answers(pack, student.read(pack, features))
            likely = reader(student.model).logits(hidden).argmax(-1)
            for (kind, _, _), (good,) in zip(part, answered(likely, pack)):
                right[kind].append(good)
        student.train()
        name = "picture" if picture else "exact"
        return {f"{name}_{kind}": float(np.mean(values)) for kind, values in right.items()} | {
            f"{name}_overall": float(np.mean([good for values in right.values() for good in values]))
        }

    return examine
