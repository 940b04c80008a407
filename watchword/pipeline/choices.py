"""Answers that are given from outside: as ids behind a prompt, and as the only ones to generate."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from watchword.errors import RequestError
from watchword.prompt.detokenize import StopStrings
from watchword.shapes import Bool, Int, Tensor

Tree = dict[int, Any]


class Choices:
    """Allows no token that does not go on with one of some answers.

    Args:
        answers: their ids, without end tokens.
        end: the end token.
        start: where the answer begins in the ids.
    """

    def __init__(self, answers: Sequence[Sequence[int]], end: int, start: int) -> None:
        self.end, self.start = end, start
        self.longest = 1 + max(len(answer) for answer in answers)
        self._tree: Tree = {}
        for answer in answers:
            place = self._tree
            for one in (*answer, end):
                place = place.setdefault(one, {})

    def __call__(self, row: int, ids: Int[Tensor, "S"]) -> list[int]:
        """The ids that may come next."""
        place = self._tree
        for one in ids[self.start :].tolist():
            place = place.get(one, {})
        return list(place) or [self.end]  # beams without any answer left are impossible already


class TextStop:
    """Ends rows whose answer has just completed one of some strings.

    Args:
        tokenizer: decodes the answer.
        strings: the strings.
        start: where the answer begins in the ids; a prompt may hold what it likes.
    """

    def __init__(self, tokenizer: Any, strings: Sequence[str], start: int) -> None:
        self._found, self._start = StopStrings(tokenizer, strings), start

    def __call__(self, ids: Int[Tensor, "N S"], scores: object = None) -> Bool[Tensor, "N"]:
        """Which rows end."""
        rows = ids[:, self._start :].tolist()
        return torch.tensor([self._found(row) for row in rows], device=ids.device)


def answer_ids(
    where: str, texts: Sequence[str], follow: Callable[[str], list[int]], decode: Callable[[list[int]], str]
) -> list[tuple[int, ...]]:
    """Each answer as ids behind the prompt.

    Raises:
        RequestError: one that has no tokens, that the tokenizer cannot spell, or that equals another.
    """
    found: list[tuple[int, ...]] = []
    for text in texts:
        ids = tuple(follow(text))
        told = decode(list(ids)).strip()
        if not ids or told != text.strip():
            raise RequestError(
                f"{where}: {text!r} becomes {told!r} in this tokenizer's words; use words that it can spell"
            )
        if ids in found:
            raise RequestError(f"{where}: {text!r} and {texts[found.index(ids)]!r} have the same tokens")
        found.append(ids)
    return found
