"""Batches for training, drawn in a process of their own: frames, what they show, and questions about them.

A batch depends on the seed and its number alone, so a run that is resumed sees what it would have seen.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import IterableDataset

from watchword.shapes import Float, Tensor
from watchword.train import questions, topics, wordings, words, world
from watchword.train.dense import Lesson, lesson
from watchword.train.packing import Pack, opening, pack, pack_talks, quiz
from watchword.train.shapes import Scenes, Thing, frame_times, render, sample
from watchword.train.talks import Talk, talk
from watchword.train.world import World

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
SHOTS = (16, 49)
"""Clips have this many frames (the end left out), of which the model sees a few."""

EXTRA = ("does", "does", "happens", "size", "exists", "listing", "who", "stirs", "direction")
"""Kinds from which each clip gets three more questions, besides one of each kind that is measured."""
WIDE_PICTURE, WIDE_CLIP = 6, 11
"""Kinds of the wider world that a picture, or a clip, is asked by; some admit no question."""
FREE_EXTRA = (*EXTRA, "changes")
"""The same where questions are freely worded."""


@dataclass
class Batch:
    """One step's material. `pixels` are clips (B T 3 h w), or pictures where T is 1."""

    pixels: Float[Tensor, "B T 3 h w"]
    target: Lesson
    pack: Pack | None

    @property
    def is_video(self) -> bool:
        """False for a batch of pictures."""
        return self.pixels.shape[1] > 1


@dataclass(frozen=True)
class Look:
    """How the model sees, and what: side of the square frames, side of a patch, frames of a clip; the first
    world, or the wider one."""

    side: int = 56
    patch: int = 14
    frames: int = 8
    wide: bool = False

    @property
    def ids(self) -> dict[str, int]:
        """The vocabulary."""
        return words.vocabulary(wide=self.wide)

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
        free: questions are worded in more ways, and there is one more kind of them.
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
    ) -> None:
        self.seed, self.first, self.clips, self.look = seed, first, clips, look
        self.asks, self.pictures, self.free = asks, pictures, free

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        number = self.first
        while True:
            picture = bool(self.pictures) and number % self.pictures == self.pictures - 1
            yield self.batch(np.random.default_rng((self.seed, number)), picture)
            number += 1

    def batch(self, rng: np.random.Generator, picture: bool) -> Batch:
        """One batch, drawn from this generator."""
        # To learn to see, many different frames teach more than eight of a clip.
        single = picture or not self.asks
        number = self.clips * (2 if picture else 1 if self.asks else 4)
        wide = self.look.wide
        scenes = world.sample(rng, number, still=picture) if wide else sample(rng, number)
        if single:
            times = rng.random((len(scenes), 1))
        else:
            times = np.stack(
                [frame_times(int(frames), self.look.frames) for frames in rng.integers(*SHOTS, len(scenes))]
            )
        pixels, covered = (world.render if wide else render)(scenes, times, self.look.side)
        rows = self.questions(scenes, rng, picture) if self.asks else None
        return Batch(normalised(blemished(pixels, rng)), lesson(scenes, times, covered, self.look.grid), rows)

    def questions(self, scenes: Scenes | World, rng: np.random.Generator, picture: bool) -> Pack:
        """Questions for each scene, in an order that does not matter since none sees another."""
        ids = self.look.ids
        per_frame = self.look.grid**2
        start = (
            opening(ids, "<image>", per_frame)
            if picture
            else opening(ids, "<video>", self.look.frames * (per_frame + 1))
        )
        if self.look.wide:
            asked = [wide_quiz(scenes.things(row), rng, picture, self.free) for row in range(len(scenes))]
            return pack_talks(asked, start, ids)
        extra = FREE_EXTRA if self.free else EXTRA
        rows = []
        for row in range(len(scenes)):
            kinds = questions.STILL if picture else (*questions.MAIN, *rng.choice(extra, 3, replace=False))
            rows.append(quiz(scenes.things(row), kinds, rng, free=self.free))
        return pack(rows, start, ids)


def wide_quiz(things: list[Thing], rng: np.random.Generator, picture: bool, free: bool) -> list[Talk]:
    """Questions about the wider world, each of another kind, and a conversation if worded freely."""
    kinds = topics.PICTURES if picture else topics.CLIPS
    chosen = rng.permutation(list(kinds))[: WIDE_PICTURE if picture else WIDE_CLIP]
    found = [kinds[kind](things, rng) for kind in chosen]
    talks = [(one,) for one in found if one is not None]
    if free:
        talks = [((wordings.reword(ask, rng, wordings.WIDER), answer),) for ((ask, answer),) in talks]
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
