"""Ids to text while they are being generated, and stop strings."""

from collections.abc import Iterable, Sequence
from typing import Any

from watchword.errors import RequestError
from watchword.prompt.text import check_text

UNFINISHED = "\ufffd"
"""What decoding shows for bytes that are no complete character, or not yet."""

WINDOW = 16
"""Tokens decoded again with each new one once the text before them is settled."""


class Detokenizer:
    """Text of one growing row of ids, in pieces of complete characters.

    The joined pieces, `finish()` included, are what `tokenizer.decode` gives for all ids at once.

    Args:
        tokenizer: ours or the reference's.
        skip_special_tokens: leave special tokens out.
        clean_up: as `clean_up_tokenization_spaces` of decode; pieces then end at words.
    """

    def __init__(
        self, tokenizer: Any, *, skip_special_tokens: bool = True, clean_up: bool | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.skip = skip_special_tokens
        self.clean = tokenizer.clean_up_tokenization_spaces if clean_up is None else clean_up
        self.ids: list[int] = []
        added = tokenizer.added_tokens_decoder.items()
        self._silent = {index for index, token in added if token.special} if skip_special_tokens else set()
        self._start = 0  # first id of the window
        self._shown = ""  # text of the window that is settled
        self._held = ""  # settled, but cleaning up may still change it

    def push(self, index: int) -> str:
        """Add an id; returns the text that is now settled, often one word, sometimes nothing."""
        self.ids.append(int(index))
        if self.ids[-1] in self._silent:
            return ""
        window = self._decode(self.ids[self._start :])
        if window.endswith(UNFINISHED) or self._is_byte(self.ids[-1]):
            return ""
        new, self._shown = window[len(self._shown) :], window
        if len(self.ids) - self._start > 2 * WINDOW:
            self._move_window()
        return self._emit(new)

    def finish(self) -> str:
        """What is left at the end, half characters included."""
        window = self._decode(self.ids[self._start :])
        new, self._shown = window[len(self._shown) :], window
        return self._emit(new, last=True)

    def _decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(
            list(ids), skip_special_tokens=self.skip, clean_up_tokenization_spaces=False
        )

    def _is_byte(self, index: int) -> bool:
        """A piece such as <0xE4>: a run of them is decoded as a whole, so it is settled only when it has
        ended."""
        piece = self.tokenizer.convert_ids_to_tokens(index) or ""
        return len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")

    def _move_window(self) -> None:
        """Forget settled ids. Decoding may drop a space in front of its first piece, so one with text must
        stay."""
        start = len(self.ids) - WINDOW
        if self._is_byte(self.ids[start - 1]) or self.ids[start - 1] in self._silent:
            return
        window = self._decode(self.ids[start:])
        if window.strip() and UNFINISHED not in window:
            self._start, self._shown = start, window

    def _emit(self, new: str, last: bool = False) -> str:
        if not self.clean:
            return new
        self._held += new
        cut = len(self._held) if last else _safe_cut(self._held)
        ready, self._held = self._held[:cut], self._held[cut:]
        return self.tokenizer.clean_up_tokenization(ready)


def _safe_cut(text: str) -> int:
    """Last place where the two sides can be cleaned up apart: before a space, and not inside " ' " or "
    n't"."""
    for cut in range(len(text) - 1, 0, -1):
        if text[cut] == " " and text[cut - 1] not in " 'n":
            return cut
    return 0


class StopStrings:
    """Says for a row of ids whether one of some strings has just been completed.

    Args:
        tokenizer: decodes the row's end.
        strings: a string or several.
    """

    def __init__(self, tokenizer: Any, strings: str | Iterable[Any]) -> None:
        self.tokenizer = tokenizer
        self.strings = [strings] if isinstance(strings, str) else list(strings)
        if not self.strings or not all(isinstance(text, str) and text for text in self.strings):
            raise RequestError(
                f"stop_strings={strings!r}: expected a string or a list of strings, none of them empty"
            )
        for text in self.strings:
            check_text("stop string", text)
        self.reach = max(len(text.encode()) for text in self.strings) + 8
        """Tokens to look at: every token but a few has at least one byte of text."""

    def __call__(self, ids: Iterable[int]) -> bool:
        """Whether a stop string occurs in the row's text and ends within the last token."""
        return self.found(ids) is not None

    def found(self, ids: Iterable[int]) -> str | None:
        """The stop string that ends within the row's last token; None if there is none."""
        tail = [int(index) for index in ids][-self.reach :]
        if not tail:
            return None
        before, text = self._text(tail[:-1]), self._text(tail)
        for string in self.strings:
            if string in text[max(0, len(before) - len(string) + 1) :]:
                return string
        return None

    def _text(self, ids: Sequence[int]) -> str:
        text = self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text.rstrip(UNFINISHED)
