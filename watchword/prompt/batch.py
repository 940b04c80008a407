"""What a tokenizer call gives back: a mapping whose entries are also attributes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Encoding

from watchword.errors import RequestError

TENSOR_TYPES = ("pt", "np")


class TextBatch(dict):
    """Lists or tensors by name (`input_ids`, `attention_mask`, ...), as `batch["input_ids"]` or
    `batch.input_ids`."""

    __slots__ = ("__dict__", "encodings")

    def __new__(cls, *args: object, **kwargs: object) -> "TextBatch":
        """Entries and attributes share one store, so that they cannot disagree."""
        self = super().__new__(cls)
        self.__dict__ = self
        self.encodings = []
        return self

    def __init__(
        self, data: Mapping[str, Any] | Sequence[tuple[str, Any]] = (), encodings: Sequence[Encoding] = ()
    ) -> None:
        super().__init__(data)
        self.encodings = list(encodings)

    def tokens(self, row: int = 0) -> list[str]:
        """The pieces of one row as strings."""
        return self.encodings[row].tokens

    def char_to_token(self, row: int, char: int) -> int | None:
        """Index of the token that covers a character of the row's text; None for one that no token covers."""
        return self.encodings[row].char_to_token(char)

    def to(self, device: str | int | torch.device, *, non_blocking: bool = False) -> "TextBatch":
        """Move all tensors to a device; returns itself."""
        for name, value in self.items():
            if isinstance(value, torch.Tensor):
                self[name] = value.to(device, non_blocking=non_blocking)
        return self

    def convert_to_tensors(self, tensor_type: str | None) -> "TextBatch":
        """Turn lists into torch tensors ("pt") or numpy arrays ("np"); None leaves them.

        Raises:
            RequestError: an unknown tensor type, or rows of unequal length with "pt".
        """
        if tensor_type is None:
            return self
        if tensor_type not in TENSOR_TYPES:
            raise RequestError(f"return_tensors={tensor_type!r}: expected 'pt', 'np' or None")
        for name, value in self.items():
            if isinstance(value, torch.Tensor | np.ndarray):
                continue
            self[name] = _torch_tensor(name, value) if tensor_type == "pt" else _numpy_array(value)
        return self


def _torch_tensor(name: str, value: list) -> torch.Tensor:
    try:
        return torch.tensor(value)
    except (ValueError, TypeError) as error:
        lengths = sorted({len(row) for row in value if isinstance(row, list)})
        raise RequestError(
            f"return_tensors='pt': rows of {name} have lengths {lengths}, and one tensor needs equal "
            "lengths; "
            "pass padding=True (and truncation=True with max_length)"
        ) from error


def _numpy_array(value: list) -> np.ndarray:
    """Rows of unequal length become an array of arrays, as the reference's tokenizers give them."""
    rows = [np.asarray(row) for row in value]
    if len({row.shape for row in rows}) <= 1:
        return np.asarray(value)
    ragged = np.empty(len(rows), dtype=object)
    ragged[:] = rows
    return ragged
