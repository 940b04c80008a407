"""What `padding`, `truncation` and `max_length` of a tokenizer call come to."""

import logging
from dataclasses import dataclass
from typing import Any

import tokenizers

from watchword.errors import RequestError

logger = logging.getLogger(__name__)

NO_LIMIT = int(1e20)
"""A `model_max_length` above this means that the tokenizer declares none."""

PADDINGS = ("longest", "max_length", "do_not_pad")
TRUNCATIONS = ("longest_first", "only_first", "only_second", "do_not_truncate")


@dataclass(frozen=True)
class Layout:
    """How long rows become, and which side is padded or cut."""

    pad: dict[str, Any] | None
    cut: dict[str, Any] | None

    def apply(self, backend: tokenizers.Tokenizer) -> None:
        """Set it on the backend for the next encoding."""
        if self.cut is None:
            backend.no_truncation()
        else:
            backend.enable_truncation(**self.cut)
        if self.pad is None:
            backend.no_padding()
        else:
            backend.enable_padding(**self.pad)


def resolve_layout(
    tokenizer: Any,
    padding: bool | str | None,
    truncation: bool | str | None,
    max_length: int | None,
    stride: int,
    multiple: int | None,
    side: str | None,
    verbose: bool,
) -> Layout:
    """Padding and truncation of one call, with the reference's defaults.

    Raises:
        RequestError: an unknown strategy or side, no pad token, or a `max_length` that contradicts the rest.
    """
    if max_length is not None and padding is False and truncation is None:
        truncation = "longest_first"  # max_length alone cuts, as in the reference
    pad = _strategy("padding", padding, "longest", "do_not_pad", PADDINGS)
    cut = _strategy("truncation", truncation, "longest_first", "do_not_truncate", TRUNCATIONS)
    limited = tokenizer.model_max_length <= NO_LIMIT
    if verbose and padding is True and max_length is not None and cut == "do_not_truncate":
        logger.warning(
            "max_length=%d has no effect with padding=True and no truncation; use padding='max_length'",
            max_length,
        )
    if max_length is None and not limited:
        if pad == "max_length":
            logger.warning(
                "padding='max_length' without max_length, and the tokenizer has no limit: rows are not padded"
            )
            pad = "do_not_pad"
        if cut != "do_not_truncate":
            logger.warning("truncation without max_length, and the tokenizer has no limit: rows are not cut")
            cut = "do_not_truncate"
    elif max_length is None and (pad == "max_length" or cut != "do_not_truncate"):
        max_length = tokenizer.model_max_length
    if (
        cut != "do_not_truncate"
        and pad != "do_not_pad"
        and multiple
        and max_length is not None
        and max_length % multiple
    ):
        raise RequestError(
            f"max_length={max_length} is not a multiple of pad_to_multiple_of={multiple}; make it one"
        )
    if max_length is not None and max_length < 0:
        raise RequestError(f"max_length={max_length}: expected 0 or more")
    return Layout(
        None
        if pad == "do_not_pad"
        else _padding(tokenizer, max_length if pad == "max_length" else None, multiple, side),
        None
        if cut == "do_not_truncate" or max_length is None
        else _truncation(tokenizer, max_length, stride, cut),
    )


def _strategy(name: str, value: bool | str | None, yes: str, no: str, known: tuple[str, ...]) -> str:
    if value is True:
        return yes
    if value is False or value is None:
        return no
    value = str(getattr(value, "value", value))  # the reference's enums work too
    if value not in known:
        raise RequestError(f"{name}={value!r}: expected True, False or one of {', '.join(known)}")
    return value


def _padding(tokenizer: Any, length: int | None, multiple: int | None, side: str | None) -> dict[str, Any]:
    side = tokenizer.padding_side if side is None else side
    if side not in ("left", "right"):
        raise RequestError(f"padding_side={side!r}: expected 'left' or 'right'")
    if tokenizer.pad_token is None or tokenizer.pad_token_id is None:
        raise RequestError(
            "padding was asked for and the tokenizer has no pad token; set one, for example "
            "tokenizer.pad_token = tokenizer.eos_token"
        )
    return {
        "length": length,
        "direction": side,
        "pad_id": tokenizer.pad_token_id,
        "pad_token": tokenizer.pad_token,
        "pad_type_id": tokenizer.pad_token_type_id,
        "pad_to_multiple_of": multiple,
    }


def _truncation(tokenizer: Any, length: int, stride: int, strategy: str) -> dict[str, Any]:
    if tokenizer.truncation_side not in ("left", "right"):
        raise RequestError(f"truncation_side={tokenizer.truncation_side!r}: expected 'left' or 'right'")
    framing = tokenizer.num_special_tokens_to_add()
    if stride and stride >= length - framing:
        raise RequestError(
            f"stride={stride} leaves no room in max_length={length} with {framing} special tokens; make it "
            "smaller"
        )
    return {
        "max_length": length,
        "stride": stride,
        "strategy": strategy,
        "direction": tokenizer.truncation_side,
    }
