"""The arguments and results of a tokenizer call."""

from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers

from watchword.errors import RequestError, refuse_unknown

NOT_SUPPORTED = ("text_pair", "text_target", "text_pair_target", "is_split_into_words")
CALL_OPTIONS = (
    "add_special_tokens",
    "padding",
    "truncation",
    "max_length",
    "stride",
    "pad_to_multiple_of",
    "padding_side",
    "return_tensors",
    "return_token_type_ids",
    "return_attention_mask",
    "return_overflowing_tokens",
    "return_special_tokens_mask",
    "return_offsets_mapping",
    "return_length",
    "verbose",
    "split_special_tokens",
)
"""The keyword arguments of a call."""


def refuse(given: Mapping[str, Any]) -> None:
    """Name what a call cannot do, and what it does not know."""
    refuse_unknown("tokenizer", given, (*CALL_OPTIONS, *NOT_SUPPORTED))
    for name, value in given.items():
        if value:
            raise RequestError(f"tokenizer: {name} is not supported; join the texts into one string per row")


def columns(groups: Sequence[Sequence[tokenizers.Encoding]], wanted: Mapping[str, bool]) -> dict[str, list]:
    """Rows by name, in the reference's order."""
    read = {
        "input_ids": lambda row: row.ids,
        "token_type_ids": lambda row: row.type_ids,
        "attention_mask": lambda row: row.attention_mask,
        "special_tokens_mask": lambda row: row.special_tokens_mask,
        "offset_mapping": lambda row: row.offsets,
        "length": lambda row: len(row.ids),
    }
    return {
        name: [value(row) for group in groups for row in group]
        for name, value in read.items()
        if wanted.get(name, True)
    }


def ids(ids: Any) -> list[int]:
    """A row of ids from whatever holds it."""
    ids = ids.tolist() if hasattr(ids, "tolist") else ids
    ids = [ids] if isinstance(ids, int) else list(ids)
    if not all(isinstance(index, int) for index in ids):
        try:
            return [int(index) for index in ids]
        except (TypeError, ValueError) as error:
            raise RequestError(
                f"decode: a row holds {kind(ids[0])}, expected ids; use batch_decode for several rows"
            ) from error
    return ids


def kind(value: Any) -> str:
    """What something is, for an error."""
    inner = (
        next((type(entry).__name__ for entry in value if not isinstance(entry, str)), "str")
        if isinstance(value, list | tuple)
        else ""
    )
    return f"a {type(value).__name__}" + (f" of {inner}" if inner else "")
