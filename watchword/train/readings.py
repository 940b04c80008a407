"""Questions for the embedded InstructBLIP models, laid out with the instructions that the Q-Former reads.

Their visual tokens depend on the instruction. Yet what the Q-Former tells for one question has to do for
others as well: in a conversation it reads "What colour is it?" alone. So a row may hold several questions
behind the tokens of one reading, as `packing` lays them out; the instruction is one of them, drawn by chance.
A row of one question is that question as it is asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from watchword.hf.language import IGNORED
from watchword.pipeline.families import Exchange, dialogue
from watchword.shapes import Int, Tensor
from watchword.train import words, world
from watchword.train.lessons import Lessons, quiz
from watchword.train.packing import Labelled, Pack, laid_out
from watchword.train.questions import Asked
from watchword.train.talks import Talk

LATER = 2
"""Turns of a conversation that are asked, besides its first."""


@dataclass
class Readings(Pack):
    """A pack whose rows are readings: of which clip, and with which instruction."""

    clip: Int[Tensor, "B"]
    told: Int[Tensor, "B l"]
    told_mask: Int[Tensor, "B l"]

    def scenes(self) -> list[int]:
        """The clip of each row."""
        return [int(clip) for clip in self.clip]


class ReadingLessons(Lessons):
    """The same batches with questions as `Readings`."""

    def questions(self, scenes: world.World, rng: np.random.Generator, picture: bool) -> Readings:
        """Questions for each scene, all behind one reading: that of whichever comes first."""
        rows = []
        for number in range(len(scenes)):
            asked = quiz(scenes.things(number), rng, picture, self.free, self.often)
            turns = [turn for talk in asked for turn in asked_turns(talk, rng)]
            rows.append([turns[at] for at in rng.permutation(len(turns))])
        frames = 1 if picture else self.look.frames
        return read(rows, range(len(rows)), frames * (self.look.grid**2 + 1), self.look.ids)


def asked_turns(talk: Talk, rng: np.random.Generator) -> list[Talk]:
    """A question alone, or some turns of a conversation, each with all that was said before."""
    if len(talk) == 1:
        return [talk]
    later = 1 + rng.permutation(len(talk) - 1)[:LATER]
    return [talk[: turn + 1] for turn in (0, *later)]


def read(rows: Sequence[Sequence[Talk]], clips: Sequence[int], visual: int, ids: dict[str, int]) -> Readings:
    """Rows of questions; the Q-Former reads the last question of each row's first.

    Args:
        clips: of each row the clip that it is about.
        visual: visual tokens in front of each row.
    """
    start = [*([ids["<video>"]] * visual), ids["<s>"]]
    whole = laid_out([[labelled(talk, ids) for talk in row] for row in rows], start, ids)
    asks = [[ids["<s>"], *words.encode(row[0][-1][0], ids)] for row in rows]
    told = torch.full((len(asks), max(map(len, asks))), ids["<pad>"])
    for row, ask in enumerate(asks):
        told[row, : len(ask)] = torch.tensor(ask)
    mask = torch.arange(told.shape[1]) < torch.tensor([len(ask) for ask in asks])[:, None]
    return Readings(**vars(whole), clip=torch.tensor(clips), told=told, told_mask=mask.long())


def texts(talk: Sequence[Asked]) -> tuple[str, str]:
    """The last question as a conversation puts it, and its answer."""
    return dialogue([Exchange(question, answer=answer) for question, answer in talk]), talk[-1][1]


def labelled(talk: Sequence[Asked], ids: dict[str, int]) -> Labelled:
    """The last question as a conversation puts it, with its answer, which alone is to be learned."""
    asks, says = (words.encode(text, ids) for text in texts(talk))
    end = ids["</s>"]
    return [*asks, *says, end], [*([IGNORED] * len(asks)), *says, end]
