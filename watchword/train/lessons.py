"""Batches for training, drawn in a process of their own: frames, what they show, and questions about them.

A batch depends on the seed and its number alone, so a run that is resumed sees what it would have seen.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import count
from typing import TypeVar

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import IterableDataset, get_worker_info

from watchword.shapes import Float, Tensor
from watchword.train import topics, wordings, words, world
from watchword.train.dense import Lesson, lesson
from watchword.train.mentions import Mentions, named
from watchword.train.packing import Pack, opening, pack_talks
from watchword.train.shapes import Thing, frame_times
from watchword.train.talks import Talk, talk
from watchword.train.world import World

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
SHOTS = (16, 49)
"""Clips have this many frames (the end left out), of which the model sees a few."""

PICTURE_ASKED, CLIP_ASKED = 6, 9
"""Questions to a picture, and to a clip."""
OFTEN = {"happens": 4.0, "does": 2.0, "who": 3.0, "becomes": 2.0, "first": 4.0, "earlier": 4.0, "before": 5.0,
         "moment": 3.0, "beside": 3.0, "side": 3.0, "neighbour": 4.0, "listing": 2.0, "moves": 2.0,
         "number": 1.5}  # fmt: skip
"""How much more often kinds are asked than others: those that few clips admit, and those that are learned
late, which compare two things or two times."""


@dataclass
class Batch:
    """One step's material. `pixels` are clips (B T 3 h w), or pictures where T is 1."""

    pixels: Float[Tensor, "B T 3 h w"]
    target: Lesson
    pack: Pack | None
    mentions: Mentions | None = None

    @property
    def is_video(self) -> bool:
        """False for a batch of pictures."""
        return self.pixels.shape[1] > 1

    def to(self, device: torch.device) -> "Batch":
        """The same on that device."""
        return moved(self, device)


C = TypeVar("C")


def moved(holder: C, device: torch.device) -> C:
    """A dataclass with all its tensors, and those of the dataclasses in it, on that device."""
    if isinstance(holder, Tensor):
        return holder.to(device, non_blocking=True)
    if not is_dataclass(holder):
        return holder
    values = {f.name: moved(getattr(holder, f.name), device) for f in fields(holder)}
    return replace(holder, **values)  # type: ignore[type-var, return-value]


@dataclass(frozen=True)
class Look:
    """How the model sees: side of the square frames, side of a patch, frames of a clip."""

    side: int = 56
    patch: int = 14
    frames: int = 8

    @property
    def ids(self) -> dict[str, int]:
        """The vocabulary."""
        return words.vocabulary()

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.side // self.patch


class Lessons(IterableDataset[Batch]):
    """Batches number `first`, `first + 1`, ... of the course with that seed.

    Args:
        clips: clips in a batch; a batch of pictures has twice as many, or four times where nothing is asked.
        asks: False leaves the questions out.
        pictures: each so many batches one is of pictures; 0: none.
        often: how much more often kinds are asked than others.
        free: questions are worded in more ways, and there are conversations.
        busy: more happens than elsewhere, mostly one thing after the other.
    """

    def __init__(
        self,
        seed: int,
        first: int,
        *,
        clips: int,
        look: Look,
        asks: bool,
        pictures: int = 0,
        free: bool = False,
        busy: bool = False,
        often: Mapping[str, float] = OFTEN,
    ) -> None:
        self.seed, self.first, self.clips, self.look = seed, first, clips, look
        self.asks, self.pictures, self.free, self.busy, self.often = asks, pictures, free, busy, often

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        mine, step = (worker.id, worker.num_workers) if (worker := get_worker_info()) else (0, 1)
        for number in count(self.first + mine, step):  # a loader asks its workers in turn
            picture = bool(self.pictures) and number % self.pictures == self.pictures - 1
            yield self.batch(np.random.default_rng((self.seed, number)), picture)

    def batch(self, rng: np.random.Generator, picture: bool) -> Batch:
        """One batch, drawn from this generator."""
        # To learn to see, many different frames teach more than eight of a clip.
        single = picture or not self.asks
        number = self.clips * (2 if picture else 1 if self.asks else 4)
        scenes = world.sample(rng, number, still=picture, busy=self.busy)
        if single:
            times = rng.random((len(scenes), 1))
        else:
            times = np.stack(
                [frame_times(int(frames), self.look.frames) for frames in rng.integers(*SHOTS, len(scenes))]
            )
        pixels, covered = world.render(scenes, times, self.look.side)
        rows = self.questions(scenes, rng, picture) if self.asks else None
        target = lesson(scenes, times, covered, self.look.grid)
        names = None
        if rows is not None:
            names = named(rows, [scenes.things(row) for row in rows.scenes()], self.look.ids)
        return Batch(normalised(blemished(pixels, rng)), target, rows, names)

    def questions(self, scenes: World, rng: np.random.Generator, picture: bool) -> Pack:
        """Questions for each scene, in an order that does not matter since none sees another."""
        ids = self.look.ids
        per_frame = self.look.grid**2
        start = (
            opening(ids, "<image>", per_frame)
            if picture
            else opening(ids, "<video>", self.look.frames * (per_frame + 1))
        )
        asked = [quiz(scenes.things(row), rng, picture, self.free, self.often) for row in range(len(scenes))]
        return pack_talks(asked, start, ids)


def quiz(
    things: list[Thing], rng: np.random.Generator, picture: bool, free: bool, often: Mapping[str, float]
) -> list[Talk]:
    """Questions, each of another kind, and a conversation if worded freely."""
    kinds = topics.PICTURES if picture else topics.CLIPS
    talks: list[Talk] = []
    # The first to ring is asked first; kinds that few worlds admit, or that are learned late, ring early.
    rings = rng.exponential(size=len(kinds)) / [often.get(kind, 1.0) for kind in kinds]
    for kind in np.array(list(kinds))[rings.argsort()]:
        asked = kinds[kind](things, rng)
        talks += [(asked,)] if asked else []
        if len(talks) == (PICTURE_ASKED if picture else CLIP_ASKED):
            break
    if free:
        talks = [((wordings.reword(ask, rng), answer),) for ((ask, answer),) in talks]
        talks.append(talk(things, rng, turns=int(rng.integers(2, 5)), kinds=kinds))
    return [tuple((wordings.roughen(ask, rng), answer) for ask, answer in one) for one in talks]


def blemished(pixels: Float[Tensor, "B T 3 h w"], rng: np.random.Generator) -> Float[Tensor, "B T 3 h w"]:
    """With a little of what cameras, codecs and resizing do: brightness, contrast, a cast, soft or hard
    edges, noise."""
    noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
    b = len(pixels)
    gain = 1 + 0.04 * torch.randn(b, 1, 1, 1, 1, generator=noise)
    shift = 3 * torch.randn(b, 1, 3, 1, 1, generator=noise)
    edge = 0.45 * (2 * torch.rand(b, 1, 1, 1, 1, generator=noise) - 1)
    soft = F.avg_pool2d(pixels.flatten(0, 1), 3, stride=1, padding=1, count_include_pad=False).view_as(pixels)
    pixels = torch.lerp(pixels, soft, edge) * gain + shift
    grain = torch.randn(pixels.shape, generator=noise) * (2.5 * torch.rand(b, 1, 1, 1, 1, generator=noise))
    return (pixels + grain).clamp_(0, 255)


def normalised(pixels: Float[Tensor, "B T 3 h w"]) -> Float[Tensor, "B T 3 h w"]:
    """Grey levels to what the processor gives."""
    return (pixels / 255 - MEAN) / STD
