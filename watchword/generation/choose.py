"""From scores to one token per row."""

import torch

from watchword.shapes import Float, Int, Tensor


def greedy(scores: Float[Tensor, "N V"]) -> Int[Tensor, "N"]:
    """The best token; the first of equals."""
    return scores.argmax(dim=-1)


def sample(scores: Float[Tensor, "N V"], generator: torch.Generator | None = None) -> Int[Tensor, "N"]:
    """One draw per row, from torch's global generator when there is no other.

    Rows that have ended are drawn too: the numbers a row gets do not depend on when its neighbours end.
    """
    return scores.softmax(dim=-1).multinomial(1, generator=generator)[:, 0]
