"""Linears with weights of four bits from a code book, in blocks, as bitsandbytes has them: nf4 and fp4."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch.nn import functional as F

from watchword.nn import nibbles
from watchword.nn.fourbit import FourBitLinear, paired
from watchword.nn.nibbles import ZERO, Plane
from watchword.nn.quantized import TINY
from watchword.shapes import Float, Tensor, UInt8

BLOCK = 64
"""Values of a block in files of bitsandbytes, unless they say otherwise."""

CODES: Mapping[str, tuple[float, ...]] = {
    "nf4": (
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
        0.7229568362236023, 1.0,
    ),
    "fp4": (
        0.0, 0.0052083333, 0.6666666667, 1.0, 0.3333333333, 0.5, 0.1666666667, 0.25,
        0.0, -0.0052083333, -0.6666666667, -1.0, -0.3333333333, -0.5, -0.1666666667, -0.25,
    ),
}  # fmt: skip
"""What the sixteen codes stand for.

Source: Dettmers and others, QLoRA (2023), appendix E; the format of bitsandbytes.
"""


class BlockLinear(FourBitLinear):
    """Weights of 4 bits from a code book, a scale for each block of values, as bitsandbytes stores them.

    For the product each value of the book is written as the sum of two codes of 4 bits (error 0.0034 of the
    largest in its block), so that packed weights take 9 bits here and not 4.5: no operator of torch looks up
    values.

    Relative error of the products against float32: 0.10 for normal weights (nf4), 0.13 (fp4).

    Attributes:
        weight: two codes in a byte, the first in its high half, row after row without gaps.
        absmax: float32, the scale of each block of `block` values, row after row without gaps.
    """

    stored = ("weight", "absmax")

    def __init__(self, inner: int, outer: int, *, form: str = "nf4", block: int = BLOCK, bias: bool) -> None:
        super().__init__(inner, outer, bias=bias)
        self.form, self.block = form, block
        count = inner * outer
        self.register_buffer("weight", torch.empty(-(-count // 2), 1, dtype=torch.uint8))
        self.register_buffer("absmax", torch.empty(-(-count // block), dtype=torch.float32))

    @property
    def group(self) -> int:
        """Values of a row that share a scale wherever the row begins; 0 where blocks begin anywhere."""
        return next((g for g in nibbles.GROUPS[::-1] if self.block % g == 0 and self.in_features % g == 0), 0)

    @property
    def operator(self) -> str:
        """The product in use; on a GPU that of bitsandbytes, where it is installed."""
        theirs = self.weight.device.type == "cuda" and bitsandbytes() is not None
        return "bitsandbytes" if theirs else super().operator

    def multiply(self, x: Float[Tensor, "M K"]) -> Float[Tensor, "M N"]:
        """The product without the bias."""
        if self.card is not None or self.operator != "bitsandbytes":
            return super().multiply(x)
        library = bitsandbytes()
        state = library.functional.QuantState(
            absmax=self.absmax, shape=torch.Size((self.out_features, self.in_features)), dtype=x.dtype,
            code=code_book(self.form, x.device), blocksize=self.block, quant_type=self.form,
        )  # fmt: skip
        return library.matmul_4bit(x, self.weight.t(), quant_state=state)

    def plain(self) -> UInt8[Tensor, "half 1"]:
        """The codes, two in a byte."""
        layout = nibbles.packing()
        if self.planes is None or layout is None:
            return self.weight
        high, low = (nibbles.unpack_codes(plane, layout, self.out_features) for plane in self.planes)
        _, highs, lows = two_codes(self.form)
        table = torch.zeros(256, dtype=torch.uint8)
        table[highs.int() * 16 + lows] = torch.arange(16, dtype=torch.uint8)
        return high_first(table[high.flatten().int() * 16 + low.flatten()])

    def packed(self) -> list[Plane]:
        """For the product."""
        step, highs, lows = two_codes(self.form)
        codes = self._codes()
        starts = torch.arange(0, codes.numel(), self.group)
        scale = self.absmax[starts // self.block].unflatten(0, (self.out_features, -1)) * step
        return [nibbles.pack(highs[codes.int()], scale * 16), nibbles.pack(lows[codes.int()], scale)]

    def laid(self) -> tuple[Tensor, ...]:
        """For the product on a card; a block that several groups share comes once for each."""
        starts = torch.arange(0, self.in_features * self.out_features, self.group, device=self.absmax.device)
        scale = self.absmax if self.group == self.block else self.absmax[starts // self.block]
        book = code_book(self.form, self.weight.device)
        return self.weight.view(self.out_features, -1), scale.view(self.out_features, -1), book

    def rows(self):
        """The dense weights, some outputs at a time."""
        book = code_book(self.form, self.weight.device)
        flat = book[self._codes().flatten().int()]
        scale = self.absmax.repeat_interleave(self.block)[: flat.numel()]
        yield (flat * scale).unflatten(0, (self.out_features, -1))

    def _codes(self) -> UInt8[Tensor, "N K"]:
        plain = self.plain().flatten()
        codes = torch.stack((plain >> 4, plain & 15), dim=-1).flatten()
        return codes[: self.in_features * self.out_features].unflatten(0, (self.out_features, -1))


@cache
def code_book(form: str, device: torch.device) -> Float[Tensor, "16"]:
    """What the codes stand for, in float32."""
    return torch.tensor(CODES[form], device=device)


@cache
def bitsandbytes() -> Any:
    """The library, if it is installed."""
    try:
        import bitsandbytes as library
    except ImportError:
        return None
    return library


def high_first(codes: UInt8[Tensor, "N"]) -> UInt8[Tensor, "half 1"]:
    """Two codes in a byte, the first in the high half."""
    return paired(F.pad(codes, (0, codes.numel() % 2)).unflatten(0, (-1, 2)).flip(1)).contiguous()


def block_weights(
    weight: Float[Tensor, "N K"], form: str, *, block: int = BLOCK, double: bool = False
) -> dict[str, Tensor]:
    """Weights by a code book: the state of a `BlockLinear`.

    Args:
        form: a key of `CODES`.
        double: the scales go through 8 bits themselves, as `bnb_4bit_use_double_quant` of bitsandbytes asks;
            the values are the same as there, but nothing is saved, for the products want them whole.
    """
    book, order = torch.tensor(CODES[form]).sort()
    borders = (book[1:] + book[:-1]) / 2
    codes, scales = [], []
    for part in weight.flatten().split(2**22 // block * block):
        blocks = F.pad(part.float(), (0, -len(part) % block)).unflatten(0, (-1, block))
        absmax = blocks.abs().amax(1)
        near = torch.bucketize(blocks / absmax.clamp_min(TINY)[:, None], borders)
        codes.append(order[near].to(torch.uint8).flatten()[: len(part)])
        scales.append(absmax)
    absmax = torch.cat(scales)
    return {"weight": high_first(torch.cat(codes)), "absmax": twice_quantized(absmax) if double else absmax}


def twice_quantized(absmax: Float[Tensor, "N"], block: int = 256) -> Float[Tensor, "N"]:
    """Scales after their way through 8 bits: less their mean, in blocks, by a map that is finer near zero."""
    mean = absmax.mean()
    blocks = F.pad(absmax - mean, (0, -len(absmax) % block)).unflatten(0, (-1, block))
    top = blocks.abs().amax(1, keepdim=True).clamp_min(TINY)
    book = dynamic_map()
    near = torch.bucketize(blocks / top, (book[1:] + book[:-1]) / 2)
    return (book[near] * top).flatten()[: len(absmax)] + mean


@cache
def dynamic_map() -> Float[Tensor, "N"]:
    """The 256 values of dynamic tree quantization, ascending.

    Source: Dettmers and others, 8-bit Optimizers via Block-wise Quantization (2022), section 2.1.
    """
    found = [torch.zeros(1), torch.ones(1)]
    for bits in range(7):
        borders = torch.linspace(0.1, 1, 2**bits + 1)
        middles = (borders[1:] + borders[:-1]) / 2 * 10.0 ** (bits - 6)
        found += [middles, -middles]
    return torch.cat(found).sort().values


@cache
def two_codes(form: str) -> tuple[float, UInt8[Tensor, "codes"], UInt8[Tensor, "codes"]]:
    """A code book as sums of two codes: a value is ((high - 8) · 16 + low - 8) steps; step, highs, lows.

    The step is the one by which the worst value fits best.
    """
    book = torch.tensor(CODES[form], dtype=torch.float64)
    tried = torch.linspace(100, 119, 1901, dtype=torch.float64)[:, None]  # 119 is the most two codes make
    worst = ((book * tried).round() / tried - book).abs().amax(1)
    per_one = float(tried[worst.argmin()])
    steps = (book * per_one).round().int()
    highs = (steps + ZERO) // 16
    return 1 / per_one, (highs + ZERO).to(torch.uint8), (steps - highs * 16 + ZERO).to(torch.uint8)
