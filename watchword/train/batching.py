"""Rows and media of some examples as tensors.

Rows are padded on the right. A decoder-only model sees nothing behind itself, so such rows need no mask; only
questions side by side do, and T5's encoder.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from watchword.hf.language import IGNORED
from watchword.shapes import Bool, Int, Tensor
from watchword.train.encoding import Row
from watchword.train.examples import Kind


@dataclass(frozen=True)
class Seen:
    """One medium of a batch: pixels (T 3 H W), or the tower's features of each frame (T P C)."""

    kind: Kind
    values: Tensor
    is_features: bool = False


@dataclass(frozen=True)
class Batch:
    """What one forward pass takes.

    Attributes:
        ids: padded with 0.
        labels: -100 where nothing is learned; for T5 the answers' ids.
        lengths: of each row, padding left out.
        positions, sees: of questions side by side, else None.
        told, told_mask: the instructions for the Q-Former; None for families without one.
        media: what the rows look at, each once.
        shown: of each row the numbers of its media.
        front: visual tokens in front of each row's ids.
        numbers: of each row the number of its example.
    """

    ids: Int[Tensor, "B L"]
    labels: Int[Tensor, "B A"]
    lengths: Int[Tensor, "B"]
    positions: Int[Tensor, "B L"] | None
    sees: Bool[Tensor, "B 1 L L"] | None
    told: Int[Tensor, "B l"] | None
    told_mask: Int[Tensor, "B l"] | None
    media: tuple[Seen, ...]
    shown: tuple[tuple[int, ...], ...]
    front: tuple[int, ...]
    numbers: tuple[int, ...]

    @property
    def learned(self) -> int:
        """Ids that are learned."""
        return int((self.labels != IGNORED).sum())

    def to(self, device: torch.device, dtype: torch.dtype) -> "Batch":
        """On a device; media as the tower's type."""
        moved = {one.name: value.to(device, non_blocking=True) for one in fields(self)
                 if isinstance(value := getattr(self, one.name), Tensor)}  # fmt: skip
        media = tuple(
            replace(one, values=one.values.to(device, dtype, non_blocking=True)) for one in self.media
        )
        return replace(self, **moved, media=media)


def collate(
    rows: Sequence[tuple[int, Row]], media: Sequence[Seen], owners: Sequence[Sequence[int]], *, blip: bool
) -> Batch:
    """A batch.

    Args:
        rows: the number of the example and the row.
        media: what there is to see.
        owners: of each row the places of its example's media among `media`.
        blip: the family has a Q-Former, which reads the instruction.
    """
    each = [row for _, row in rows]
    ids = padded((row.ids for row in each), 0)
    positions, sees = None, None
    if any(row.parts is not None for row in each):
        parts = padded((row.parts or [0] * len(row.ids) for row in each), -1)
        positions, sees = apart_positions(parts), apart_mask(parts)
    told = padded((list(row.told) for row in each), 0) if blip else None
    told_mask = None if told is None else padded(([1] * len(row.told) for row in each), 0)
    return Batch(
        ids=ids,
        labels=padded((row.labels for row in each), IGNORED),
        lengths=torch.tensor([len(row.ids) for row in each]),
        positions=positions,
        sees=sees,
        told=told,
        told_mask=told_mask,
        media=tuple(media),
        shown=tuple(tuple(own[k] for k in row.media) for row, own in zip(each, owners, strict=True)),
        front=tuple(row.front for row in each),
        numbers=tuple(number for number, _ in rows),
    )


def padded(lists: Iterable[Any], fill: int) -> Int[Tensor, "B L"]:
    """Lists of numbers as rows of one length."""
    return pad_sequence([torch.tensor(one, dtype=torch.long) for one in lists], True, fill)


def apart_mask(parts: Int[Tensor, "B L"]) -> Bool[Tensor, "B 1 L L"]:
    """Each place sees what comes before it in its part and in part 0; padding (-1) sees itself."""
    same = (parts[:, :, None] == parts[:, None, :]) | (parts[:, None, :] == 0)
    length = parts.shape[1]
    return (same & torch.ones(length, length, dtype=torch.bool).tril())[:, None]


def apart_positions(parts: Int[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    """Places counted on from the opening, for each part anew."""
    opening = (parts == 0).sum(dim=1, keepdim=True)
    places = torch.arange(parts.shape[1]).expand_as(parts)
    first = torch.ones_like(parts, dtype=torch.bool)
    first[:, 1:] = parts[:, 1:] != parts[:, :-1]
    begins = torch.where(first, places, 0).cummax(dim=1).values
    return torch.where(parts == 0, places, opening + places - begins)
