"""Many questions about one clip in one row, none of which sees another.

The clip's tokens dominate the cost of a row, so a dozen questions cost hardly more than one. Each question
stands behind the clip as if it were the only one: it attends to the opening and to itself, and its places
count on from the opening. So training sees exactly what a single question will be.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import torch

from watchword.hf.language import IGNORED
from watchword.nn.attention import Attended, Uncached, attention
from watchword.shapes import Bool, Int, Tensor
from watchword.train import questions, words

PIECES = 3
"""Questions stand in so many pieces of a row, and look for each other only within their own."""


class Packed(Uncached):
    """A cache without memory whose queries see the opening and their own question, nothing else.

    Args:
        seen: True where a query may see a key.
        cuts: where the opening ends, and each piece; without them every query is compared with every key.
    """

    def __init__(self, seen: Bool[Tensor, "B 1 L L"], cuts: Sequence[int] = ()) -> None:
        super().__init__()
        self.seen, self.lengths = seen, list[int]()
        if not cuts:
            return
        first = cuts[0]
        self.lengths = [first, *(b - a for a, b in pairwise(cuts))]
        self.masks = [
            torch.cat([seen[:, :, a:b, :first], seen[:, :, a:b, a:b]], dim=-1) for a, b in pairwise(cuts)
        ]

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float | None = None,
        bias: Tensor | None = None,
        window: int | None = None,
        dropout: float = 0.0,
        backend: str = "sdpa",
        want_weights: bool = False,
    ) -> Attended:
        """Attend from the opening to itself, and from each piece to the opening and the piece.

        Then in float32 whatever the rest is in: on CPUs the fused kernel learns twice as slowly in bfloat16.
        """
        if not self.lengths:
            seen = self.seen[..., -q.shape[2] :, :]
            return attention(
                q, k, v, mask=seen, scale=scale, bias=bias, dropout=dropout, backend=backend,
                want_weights=want_weights,
            )  # fmt: skip
        with torch.autocast(q.device.type, enabled=False):
            (q0, *qs), (k0, *ks), (v0, *vs) = (x.float().split(self.lengths, dim=2) for x in (q, k, v))
            out = [attention(q0, k0, v0, causal=True, scale=scale)[0]]
            for asking, keys, values, mask in zip(qs, ks, vs, self.masks):
                keys, values = torch.cat([k0, keys], dim=2), torch.cat([v0, values], dim=2)
                out.append(attention(asking, keys, values, mask=mask, scale=scale)[0])
        return torch.cat(out, dim=2).to(q.dtype), None


@dataclass
class Pack:
    """Rows of questions behind one opening of equal length; -100 in `labels` where nothing is to be
    learned."""

    ids: Int[Tensor, "B L"]
    labels: Int[Tensor, "B L"]
    positions: Int[Tensor, "B L"]
    part: Int[Tensor, "B L"]  # 0: the opening, from 1: a question with its answer, -1: padding
    cuts: tuple[int, ...]  # where the opening ends, and each piece: no question stands in two

    def scenes(self) -> list[int]:
        """Which scene each row is about."""
        return list(range(len(self.ids)))

    def mask(self) -> Bool[Tensor, "B 1 L L"]:
        """Who may see whom; padding sees itself, so that no row of the softmax is empty."""
        length = self.ids.shape[1]
        same = (self.part[:, :, None] == self.part[:, None, :]) | (self.part[:, None, :] == 0)
        return (same & same.new_ones(length, length).tril())[:, None]


def opening(ids: dict[str, int], marker: str, tokens: int) -> list[int]:
    """`<s> USER:` and the placeholders of a picture or clip."""
    return [ids["<s>"], *words.encode("USER:", ids), *([ids[marker]] * tokens)]


def pack(rows: Sequence[Sequence[questions.Asked]], start: Sequence[int], ids: dict[str, int]) -> Pack:
    """The questions of each row, with their answers, behind the opening `start`."""
    return pack_talks([[(asked,) for asked in row] for row in rows], start, ids)


def pack_talks(
    rows: Sequence[Sequence[Sequence[questions.Asked]]], start: Sequence[int], ids: dict[str, int]
) -> Pack:
    """The same with whole conversations, none of which sees another."""
    return laid_out([[labelled(talk, ids) for talk in row] for row in rows], start, ids)


Labelled = tuple[list[int], list[int]]
"""Ids, and what is to be said at each place; `IGNORED` where nothing is to be learned."""


def labelled(talk: Sequence[questions.Asked], ids: dict[str, int]) -> Labelled:
    """A conversation: `What moves? ASSISTANT: The red circle. USER: Which way? ASSISTANT: Left.</s>`

    After each answer the end is to be said, though within a conversation `USER` follows.
    """
    tokens: list[int] = []
    labels: list[int] = []
    for question, answer in talk:
        asks = words.encode(f"{'USER: ' if tokens else ''}{question} ASSISTANT:", ids)
        says = words.encode(answer, ids)
        labels += [IGNORED] * len(asks) + says
        if tokens:
            labels[len(tokens)] = ids["</s>"]
        tokens += asks + says
    return [*tokens, ids["</s>"]], [*labels, ids["</s>"]]


def laid_out(rows: Sequence[Sequence[Labelled]], start: Sequence[int], ids: dict[str, int]) -> Pack:
    """Rows of conversations behind one opening."""
    shared = [shares([len(tokens) for tokens, _ in row]) for row in rows]
    wide = [
        max(sum(len(talks[n][0]) for n in share[piece]) for talks, share in zip(rows, shared))
        for piece in range(PIECES)
    ]
    cuts = tuple(accumulate((len(start), *wide)))
    shape = (len(rows), cuts[-1])
    tokens, labels = np.full(shape, ids["<pad>"]), np.full(shape, IGNORED)
    positions, part = np.zeros(shape, int), np.full(shape, -1)
    tokens[:, : len(start)], part[:, : len(start)] = start, 0
    positions[:, : len(start)] = np.arange(len(start))
    for row, (talks, share) in enumerate(zip(rows, shared)):
        for piece, numbers in enumerate(share):
            at = cuts[piece]
            for number in numbers:
                said, wanted = talks[number]
                end = at + len(said)
                tokens[row, at:end], part[row, at:end], labels[row, at:end] = said, number + 1, wanted
                positions[row, at:end] = np.arange(len(start), len(start) + len(said))
                at = end
    return Pack(*(torch.from_numpy(x) for x in (tokens, labels, positions, part)), cuts)


def shares(lengths: Sequence[int]) -> list[list[int]]:
    """Which go into which piece: the longest first, each where least is."""
    found: list[list[int]] = [[] for _ in range(PIECES)]
    filled = [0] * PIECES
    for number in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        piece = filled.index(min(filled))
        found[piece].append(number)
        filled[piece] += lengths[number]
    return found


def answered(likely: Int[Tensor, "B L"], pack: Pack) -> list[list[bool]]:
    """For each row and question whether the most likely token is right all along: what greedy decoding
    would answer."""
    guess, target, part = likely[:, :-1], pack.labels[:, 1:], pack.part[:, 1:].clamp(min=0)
    wrong = (guess != target) & (target != IGNORED)
    mistakes = torch.zeros(len(part), int(part.max()) + 1, dtype=torch.long, device=part.device)
    mistakes.scatter_add_(1, part, wrong.long())
    return [
        [not bad for bad in row[1 : count + 1]]
        for row, count in zip(mistakes.tolist(), part.amax(dim=1).tolist())
    ]
