"""`stop_strings` of the documented `generate`: rows end when their text does."""

from collections.abc import Sequence
from typing import Any

import torch

from watchword.errors import RequestError
from watchword.prompt import detokenize
from watchword.shapes import Bool, Int, Tensor


class StopStrings:
    """Ends each row of a batch as soon as a stop string overlaps its last token.

    Args:
        strings: one or several.
        tokenizer: the model's, for its `decode`.

    Raises:
        RequestError: no tokenizer, or an empty stop string.
    """

    def __init__(self, strings: str | Sequence[str], tokenizer: Any) -> None:
        if tokenizer is None:
            raise RequestError(f"generate: stop_strings={strings!r} without a tokenizer; pass tokenizer= too")
        self.row = detokenize.StopStrings(tokenizer, strings)

    def __call__(self, ids: Int[Tensor, "N S"], scores: object = None) -> Bool[Tensor, "N"]:
        """Rows that have just written a stop string."""
        return torch.tensor([self.row(row) for row in ids[:, -self.row.reach :].tolist()], device=ids.device)
