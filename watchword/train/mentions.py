"""A temporary lesson in the text: where a question or an answer names a thing, which thing that is.

A small linear head reads the language model's states at "circle" of "the red circle": its colour and shape,
its size and place; and, a layer later, what it does, where it ends, and whether it acts first. Questions that
compare two things are learned late without it (docs/demo-training.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from watchword.hf.language import IGNORED
from watchword.shapes import Float, Int, Tensor
from watchword.train.dense import ORDERS, SPREAD
from watchword.train.packing import Pack
from watchword.train.shapes import ACTIONS, COLOURS, SHAPES, SIZES, Thing

NOUNS = ("object", "thing", "one", "shape")
"""What a thing may be called instead of its shape."""
LOOKS = (len(COLOURS), len(SHAPES), len(SIZES), 2)
DOES = (len(ACTIONS), ORDERS, 2)


@dataclass
class Mentions:
    """Where things are named in a pack, and what is true of each; M of them.

    Attributes:
        begins: where a name of an answer begins, at "The" of "The red circle": what comes is to be known
            there. -1 for names in questions, and for others.
    """

    row: Int[Tensor, "M"]
    column: Int[Tensor, "M"]
    begins: Int[Tensor, "M"]
    looks: Int[Tensor, "M 3"]  # colour, shape and size at the start
    does: Int[Tensor, "M 2"]  # action, and order
    places: Float[Tensor, "M 4"]  # of the centre, at the start and at the end

    @classmethod
    def of(cls, found: Sequence[tuple[int, int, int, Thing]]) -> "Mentions":
        """From rows, columns, where names begin, and things."""
        facts = [facts_of(thing) for *_, thing in found]
        rows, columns, begins = (torch.tensor([one[i] for one in found], dtype=torch.long) for i in range(3))
        places = [[(x - 0.5) / SPREAD for point in (t.path[0], t.path[-1]) for x in point] for *_, t in found]
        whole = torch.tensor(facts, dtype=torch.long).reshape(-1, 5)
        where = torch.tensor(places, dtype=torch.float32).reshape(-1, 4)
        return cls(rows, columns, begins, whole[:, :3], whole[:, 3:], where)

    def coming(self) -> "Mentions":
        """The names of answers, where they begin."""
        some = self.begins >= 0
        return Mentions(
            *(
                values[some]
                for values in (self.row, self.begins, self.begins, self.looks, self.does, self.places)
            )
        )


def facts_of(thing: Thing) -> tuple[int, int, int, int, int]:
    """Colour, shape, size, action and order as numbers."""
    return (
        tuple(COLOURS).index(thing.colour),
        SHAPES.index(thing.shape),
        SIZES.index(thing.size),
        ACTIONS.index(thing.action),
        thing.order,
    )


def mentioned(tokens: Sequence[str], things: Sequence[Thing]) -> list[tuple[int, Thing]]:
    """At which tokens a name ends that fits one of the things and no other."""
    small = [token.lower() for token in tokens]
    found = []
    for at, word in enumerate(small):
        colour = small[at - 1] if at and small[at - 1] in COLOURS else None
        if word not in SHAPES and not (word in NOUNS and colour):
            continue
        fits = [
            thing
            for thing in things
            if (word in NOUNS or thing.shape == word) and colour in (None, thing.colour)
        ]
        if len(fits) == 1:
            found.append((at, fits[0]))
    return found


def named(pack: Pack, things: Sequence[Sequence[Thing]], ids: Mapping[str, int]) -> Mentions | None:
    """Where the conversations of a pack name things, which are given for each row."""
    spelled = list(ids)  # ids count up from 0
    found = []
    for row, (said, numbers) in enumerate(zip(pack.ids.tolist(), pack.part.tolist())):
        answer = (pack.labels[row] != IGNORED).tolist()
        for number in range(1, max(numbers) + 1):
            columns = [at for at, one in enumerate(numbers) if one == number]
            small = [spelled[said[at]].lower() for at in columns]
            for at, thing in mentioned(small, things[row]):
                whole = at >= 2 and small[at - 1] in COLOURS and answer[columns[at - 1]]
                found.append((row, columns[at], columns[at - 2] if whole else -1, thing))
    return Mentions.of(found) if found else None


class MentionHeads(nn.Module):
    """Reads the language model's states where things are named.

    Args:
        does: tell what they do too, not only what they look like.
    """

    def __init__(self, width: int, *, does: bool = True) -> None:
        super().__init__()
        self.looks = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, sum(LOOKS)))
        self.does = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, sum(DOES))) if does else None

    def forward(
        self, early: Float[Tensor, "B L H"], late: Float[Tensor, "B L H"], target: Mentions, *, moving: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and the share of right answers.

        Args:
            early, late: states after one layer, and after a later one.
            moving: of clips; of pictures only what they show is taught.
        """
        colour, shape, size, start = self.looks(early[target.row, target.column]).split(LOOKS, dim=-1)
        told = {"colour": (colour, target.looks[:, 0]), "shape": (shape, target.looks[:, 1])}
        told["size"] = (size, target.looks[:, 2])
        loss = 2 * F.smooth_l1_loss(start, target.places[:, :2])
        if moving and self.does is not None:
            action, order, end = self.does(late[target.row, target.column]).split(DOES, dim=-1)
            told |= {"action": (action, target.does[:, 0]), "order": (order, target.does[:, 1])}
            loss = loss + 2 * F.smooth_l1_loss(end, target.places[:, 2:])
        loss = loss + sum(F.cross_entropy(scores, truth) for scores, truth in told.values())
        with torch.no_grad():
            right = {
                name: (scores.argmax(-1) == truth).float().mean() for name, (scores, truth) in told.items()
            }
        return loss, right
