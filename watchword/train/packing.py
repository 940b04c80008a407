"""Many questions about one clip in one row, none of which sees another.

The clip's tokens dominate the cost of a row, so a dozen questions cost hardly more than one. Each question
stands behind the clip as if it were the only one: it attends to the opening and to itself, and its places
count on from the opening. So training sees exactly what a single question will be.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from watchword.hf.language import IGNORED
from watchword.nn.attention import Attended, Uncached, attention
from watchword.shapes import Bool, Int, Tensor
from watchword.train import questions, wordings, words
from watchword.train.shapes import Thing


class Packed(Uncached):
    """A cache without memory whose queries see the opening and their own question, nothing else.

    Args:
        seen: True where a query may see a key.
    """

    def __init__(self, seen: Bool[Tensor, "B 1 L L"]) -> None:
        super().__init__()
        self.seen = seen

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
        """Attend under the mask given at the start."""
        return attention(
            q,
            k,
            v,
            mask=self.seen[..., -q.shape[2] :, :],
            scale=scale,
            bias=bias,
            dropout=dropout,
            backend=backend,
            want_weights=want_weights,
        )


@dataclass
class Pack:
    """Rows of questions behind one opening of equal length; -100 in `labels` where nothing is to be
    learned."""

    ids: Int[Tensor, "B L"]
    labels: Int[Tensor, "B L"]
    positions: Int[Tensor, "B L"]
    part: Int[Tensor, "B L"]  # 0: the opening, from 1: a question with its answer, -1: padding

    def mask(self) -> Bool[Tensor, "B 1 L L"]:
        """Who may see whom; padding sees itself, so that no row of the softmax is empty."""
        length = self.ids.shape[1]
        same = (self.part[:, :, None] == self.part[:, None, :]) | (self.part[:, None, :] == 0)
        return (same & torch.ones(length, length, dtype=torch.bool).tril())[:, None]


def opening(ids: dict[str, int], marker: str, tokens: int) -> list[int]:
    """`<s> USER:` and the placeholders of a picture or clip."""
    return [ids["<s>"], *words.encode("USER:", ids), *([ids[marker]] * tokens)]


def pack(rows: Sequence[Sequence[questions.Asked]], start: Sequence[int], ids: dict[str, int]) -> Pack:
    """The questions of each row, with their answers, behind the opening `start`."""
    return laid_out([[labelled([asked], ids) for asked in row] for row in rows], start, ids)


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
    longest = len(start) + max(sum(len(tokens) for tokens, _ in row) for row in rows)
    shape = (len(rows), longest)
    tokens, labels = np.full(shape, ids["<pad>"]), np.full(shape, IGNORED)
    positions, part = np.zeros(shape, int), np.full(shape, -1)
    tokens[:, : len(start)], part[:, : len(start)] = start, 0
    positions[:, : len(start)] = np.arange(len(start))
    for row, talks in enumerate(rows):
        at = len(start)
        for number, (said, wanted) in enumerate(talks, start=1):
            end = at + len(said)
            tokens[row, at:end], part[row, at:end], labels[row, at:end] = said, number, wanted
            positions[row, at:end] = np.arange(len(start), len(start) + len(said))
            at = end
    return Pack(*(torch.from_numpy(x) for x in (tokens, labels, positions, part)))


def quiz(
    things: Sequence[Thing], kinds: Sequence[str], rng: np.random.Generator, *, free: bool = False
) -> list[questions.Asked]:
    """One question of each kind that the scene admits, worded as people type; in more ways if `free`."""
    asked = list(filter(None, (questions.ask(kind, things, rng) for kind in kinds)))
    if free:
        asked = [(wordings.reword(question, rng), answer) for question, answer in asked]
    return [(wordings.roughen(question, rng), answer) for question, answer in asked]


def answered(logits: Tensor, pack: Pack) -> list[list[bool]]:
    """For each row and question whether the most likely token is right all along: what greedy decoding
    would answer."""
    guess, target = logits[:, :-1].argmax(-1), pack.labels[:, 1:]
    wrong = (guess != target) & (target != IGNORED)
    part = pack.part[:, 1:]
    return [
        [not bool(wrong[row][part[row] == number].any()) for number in range(1, int(part[row].max()) + 1)]
        for row in range(len(part))
    ]
