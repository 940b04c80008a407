"""Products with weights of few bits on a graphics card: weights alone are in few bits, rows stay as they are.

A step has one row and is bound by reading weights: they are unpacked within the product, which torch's
compiler fuses into one kernel that reads the packed weights and nothing else. Many rows are bound by
arithmetic: there the weights are unpacked once, into the type of the rows, for the card's own product.
"""

import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.nn import functional as F

from watchword.nn.nibbles import ZERO
from watchword.shapes import Float, Tensor, UInt8


def int8_product(x: Float[Tensor, "M K"], weight: Tensor, scale: Float[Tensor, "N"]) -> Float[Tensor, "M N"]:
    """x Wᵀ for int8 weights N K, a scale for each output."""
    if len(x) == 1:
        return fused(int8_row)(x, weight, scale)
    return F.linear(x, weight.to(x.dtype)) * scale.to(x.dtype)


def four_bit_product(
    x: Float[Tensor, "M K"],
    weight: UInt8[Tensor, "N half"],
    scale: Float[Tensor, "N G"],
    book: Float[Tensor, "16"] | None = None,
) -> Float[Tensor, "M N"]:
    """x Wᵀ for two weights in a byte, a scale for each group of a row.

    Args:
        book: what the codes stand for, the first of two in the high half of its byte, as `BlockLinear` keeps
            them; without it code - 8 and the low half, as `Int4Linear` does.
    """
    if len(x) == 1:
        return fused(four_bit_row)(x, weight, scale, book)
    return F.linear(x, fused(four_bit_dense)(weight, scale, book, x.dtype))


def int8_row(x: Float[Tensor, "1 K"], weight: Tensor, scale: Float[Tensor, "N"]) -> Float[Tensor, "1 N"]:
    """One row: products and their sum in float32, without a matrix in between once this is compiled."""
    return ((weight.float() * x.float()).sum(-1) * scale).to(x.dtype)[None]


def four_bit_row(
    x: Float[Tensor, "1 K"],
    weight: UInt8[Tensor, "N half"],
    scale: Float[Tensor, "N G"],
    book: Float[Tensor, "16"] | None,
) -> Float[Tensor, "1 N"]:
    """The same for two weights in a byte: the even inputs meet the first of them, the odd ones the second."""
    shape = (len(weight), scale.shape[1], -1)
    sides = (x[0, 0::2].view(1, *shape[1:]), x[0, 1::2].view(1, *shape[1:]))
    sums = sum(side.float() * half.view(shape) for side, half in zip(sides, halves(weight, book)))
    return (sums * scale.float()[..., None]).sum((-1, -2)).to(x.dtype)[None]


def four_bit_dense(
    weight: UInt8[Tensor, "N half"],
    scale: Float[Tensor, "N G"],
    book: Float[Tensor, "16"] | None,
    dtype: torch.dtype,
) -> Float[Tensor, "N K"]:
    """The weights in the type of the rows."""
    steps = torch.stack(halves(weight, book), dim=-1).view(*scale.shape, -1)
    return (steps * scale.float()[..., None]).to(dtype).view(len(weight), -1)


def halves(
    weight: UInt8[Tensor, "N half"], book: Float[Tensor, "16"] | None
) -> tuple[Float[Tensor, "N half"], Float[Tensor, "N half"]]:
    """The first and the second value of each byte, without their scales."""
    low, high = weight & 15, weight >> 4
    if book is None:
        return low.float() - ZERO, high.float() - ZERO
    return book[high.int()], book[low.int()]


def fused(product: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The product, compiled for itself unless it is part of something that is being compiled."""
    return product if torch.compiler.is_compiling() or not has_compiler() else _compiled(product)


@cache
def _compiled(product: Callable[..., Tensor]) -> Any:
    return torch.compile(product, dynamic=False)


@cache
def has_compiler() -> bool:
    """Whether torch can compile for a card here."""
    return importlib.util.find_spec("triton") is not None
