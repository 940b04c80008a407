"""The words of an answer, and which of its tokens each is made of."""

import unicodedata
from collections.abc import Sequence
from typing import Any

from watchword.prompt.detokenize import Detokenizer

__all__ = ["grouped"]


def grouped(tokenizer: Any, ids: Sequence[int]) -> list[tuple[str, tuple[int, ...]]]:
    """The words of an answer and the places of the tokens that hold their letters.

    Words stand between spaces, without the punctuation around them; in scripts without spaces each character
    is a word. A token with letters of two words belongs to both.
    """
    words: list[tuple[str, set[int]]] = [("", set())]
    for piece, places in pieces(tokenizer, ids):
        for letter in piece:
            alone = unicodedata.east_asian_width(letter) in "WF"
            if alone or letter.isspace():
                words.append(("", set()))
            text, held = words[-1]
            words[-1] = (text + letter, held.union(places) if letter.isalnum() else held)
            if alone:
                words.append(("", set()))
    stripped = [(strip_marks(text), tuple(sorted(held))) for text, held in words]
    return [(text, places) for text, places in stripped if text]


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[tuple[str, list[int]]]:
    """Text of complete characters with the tokens it came from, in order."""
    stream = Detokenizer(tokenizer, clean_up=False)
    found: list[tuple[str, list[int]]] = []
    waiting: list[int] = []
    for place, index in enumerate(ids):
        waiting.append(place)
        text = stream.push(index)
        if text:
            found.append((text, waiting))
            waiting = []
    rest = stream.finish()
    return [*found, (rest, waiting)] if rest else found


def strip_marks(text: str) -> str:
    """Without the punctuation around it."""
    inside = [place for place, letter in enumerate(text) if letter.isalnum()]
    return text[inside[0] : inside[-1] + 1] if inside else ""
