"""Tokens, their ids, and ids as text."""

from collections.abc import Iterable, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken

from watchword.errors import RequestError, refuse_unknown
from watchword.prompt.backend import set_frame
from watchword.prompt.calls import ids as row_of_ids

CLEAN_UP = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


class Vocabulary:
    """What a tokenizer knows apart from cutting text into pieces.

    A class that inherits this has `_backend`, the special tokens, and `clean_up_tokenization_spaces`.
    """

    _backend: tokenizers.Tokenizer

    # ---- ids to words ----------------------------------------------------------------------------

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **unknown: Any,
    ) -> str:
        """The text of one row of ids (a list, a tensor, an array, or one id).

        Args:
            skip_special_tokens: leave special tokens out.
            clean_up_tokenization_spaces: remove the spaces before punctuation; None means the tokenizer's own
                setting.
        """
        refuse_unknown("decode", unknown, ("skip_special_tokens", "clean_up_tokenization_spaces"))
        ids = row_of_ids(token_ids)
        if any(index < 0 for index in ids):
            raise RequestError(
                f"decode: negative id {min(ids)}; ids are positions in the vocabulary (labels use -100 for "
                "positions that "
                "do not count: remove them first)"
            )
        text = self._backend.decode(ids, skip_special_tokens=skip_special_tokens)
        clean = (
            self.clean_up_tokenization_spaces
            if clean_up_tokenization_spaces is None
            else clean_up_tokenization_spaces
        )
        return self.clean_up_tokenization(text) if clean else text

    def batch_decode(
        self,
        sequences: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **unknown: Any,
    ) -> list[str]:
        """The texts of several rows of ids."""
        return [
            self.decode(row, skip_special_tokens, clean_up_tokenization_spaces, **unknown)
            for row in sequences
        ]

    @staticmethod
    def clean_up_tokenization(text: str) -> str:
        """Without the spaces that tokenization put before English punctuation and contractions."""
        for piece, short in CLEAN_UP:
            text = text.replace(piece, short)
        return text

    # ---- vocabulary ------------------------------------------------------------------------------

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """Id of a token (the unknown token's if it is not in the vocabulary), or ids of several."""
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        index = self._backend.token_to_id(tokens)
        if index is None and self.unk_token is not None:
            index = self._backend.token_to_id(self.unk_token)
        return index

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Token of an id, or tokens of several."""
        if isinstance(ids, int):
            return self._backend.id_to_token(ids)
        skipped = set(self.all_special_ids) if skip_special_tokens else set()
        return [self._backend.id_to_token(index) for index in row_of_ids(ids) if index not in skipped]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Pieces joined the way decoding joins them."""
        return (
            " ".join(tokens) if self._backend.decoder is None else self._backend.decoder.decode(list(tokens))
        )

    def add_tokens(
        self, new_tokens: str | AddedToken | Sequence[str | AddedToken], special_tokens: bool = False
    ) -> int:
        """Add tokens to the vocabulary, those that are there already excepted; returns how many are new."""
        tokens = [new_tokens] if isinstance(new_tokens, str | AddedToken) else list(new_tokens)
        add = self._backend.add_special_tokens if special_tokens else self._backend.add_tokens
        return add(tokens) if tokens else 0

    def get_vocab(self) -> dict[str, int]:
        """Token to id, added tokens included."""
        return self._backend.get_vocab(with_added_tokens=True)

    def get_added_vocab(self) -> dict[str, int]:
        """Added token to id, in order of ids."""
        return {token.content: index for index, token in sorted(self.added_tokens_decoder.items())}

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Id to added token."""
        return self._backend.get_added_tokens_decoder()

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary without added tokens; `len(tokenizer)` counts those too."""
        return self._backend.get_vocab_size(with_added_tokens=False)

    def __len__(self) -> int:
        return self._backend.get_vocab_size(with_added_tokens=True)

    def __bool__(self) -> bool:
        return True

    @property
    def backend_tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer of the `tokenizers` library."""
        return self._backend

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many tokens framing adds to a text."""
        return self._backend.num_special_tokens_to_add(pair)

    # ---- framing ---------------------------------------------------------------------------------

    @property
    def add_bos_token(self) -> bool:
        """Whether texts begin with the BOS token; settable where the class knows it (LLaMA)."""
        return self._add_bos

    @add_bos_token.setter
    def add_bos_token(self, value: bool) -> None:
        self._add_bos = value
        self._frame()

    @property
    def add_eos_token(self) -> bool:
        """Whether texts end with the EOS token; settable like `add_bos_token`."""
        return self._add_eos

    @add_eos_token.setter
    def add_eos_token(self, value: bool) -> None:
        self._add_eos = value
        self._frame()

    def _frame(self) -> None:
        """Frame texts as the LLaMA class of the reference does, whatever tokenizer.json says."""
        for wanted, name in ((self._add_bos, "bos"), (self._add_eos, "eos")):
            if wanted and getattr(self, f"{name}_token") is None:
                raise RequestError(
                    f"tokenizer.add_{name}_token = True: there is no {name}_token; set it first"
                )
        bos = (self.bos_token, self.bos_token_id) if self._add_bos else None
        eos = (self.eos_token, self.eos_token_id) if self._add_eos else None
        set_frame(self._backend, bos, eos)
