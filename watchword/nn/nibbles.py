"""Weights of four bits: how torch packs them, products with few rows, and unpacking for products with many.

A packed matrix is read as fast as memory goes by torch's own product where rows are few. With many it is
poor, and a piece of the weights after the other is unpacked into a scratch for the product of bfloat16
(benchmarks/products.md). A value is (code - 8) · scale of its group; with two planes of codes it is the sum
of two such, and the first one's scale is 16 times the second's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch
from torch.nn import functional as F

from watchword.nn.kernels import CLEARLY, far, paces
from watchword.shapes import Float, Tensor, UInt8

ZERO = 8
"""The code that stands for 0."""

BLOCK = 64
"""Outputs are padded to a multiple of this."""

AT_ONCE = 512
"""Outputs that are unpacked together: their scratch stays in the cache."""

GROUPS = (32, 64, 128, 256)
"""Values with a scale of their own, as the packed product takes them."""

ROWS = (1, 5, 16, 32, 64, 128, 256)
"""Row counts at which the two ways are compared."""

SLOW = 4.0
"""Times as long as with weights of bfloat16, of which it reads a quarter, from which on a row by the packed
product is called slow."""


@dataclass(frozen=True)
class Layout:
    """How this machine packs: blocks of outputs; in each byte two codes, `apart` outputs from each other."""

    block: int
    apart: int


LAYOUTS = (Layout(64, 32), Layout(64, 16), Layout(32, 16), Layout(64, 1), Layout(32, 1), Layout(16, 1))


@dataclass(frozen=True)
class Plane:
    """Packed codes of a whole matrix, and a scale and a zero of each group.

    Attributes:
        packed: in torch's layout, outputs padded.
        scales: [..., 0] the scales; [..., 1] what is added, always 0.
        group: values that share a scale.
    """

    packed: UInt8[Tensor, "N half"]
    scales: Float[Tensor, "G N 2"]
    group: int

    @property
    def nbytes(self) -> int:
        """What a product with one row reads."""
        return self.packed.nbytes + self.scales.nbytes


def pack(codes: UInt8[Tensor, "N K"], scale: Float[Tensor, "N G"]) -> Plane:
    """Codes 0 to 15, and the scale of each group of a row; by torch's own operator."""
    parts = [
        torch.ops.aten._convert_weight_to_int4pack_for_cpu(
            F.pad(some, (0, 0, 0, -len(some) % BLOCK)).int(), 1
        )
        for some in codes.split(AT_ONCE)
    ]
    return _plane(torch.cat([part.view(torch.uint8) for part in parts]), scale)


def pack_pairs(pairs: UInt8[Tensor, "N half"], scale: Float[Tensor, "N G"], layout: Layout) -> Plane:
    """The same from two codes in a byte, the first in its low half, four times as fast as by torch."""
    pairs = F.pad(pairs, (0, 0, 0, -len(pairs) % BLOCK))
    half, apart = pairs.shape[1], layout.apart
    sides = layout.block // (2 * apart)
    packed = torch.empty(len(pairs) // layout.block, half, 2, sides, apart, dtype=torch.uint8)
    outputs = pairs.view(len(packed), sides, 2, apart, half)
    for some, out in zip(outputs.split(AT_ONCE // layout.block), packed.split(AT_ONCE // layout.block)):
        first, second = some.permute(2, 0, 4, 1, 3).contiguous()
        out[:, :, 0] = (first & 15) | (second << 4)
        out[:, :, 1] = (first >> 4) | (second & 0xF0)
    return _plane(packed.view(len(pairs), half), scale)


def _plane(packed: UInt8[Tensor, "N half"], scale: Float[Tensor, "outer G"]) -> Plane:
    """With the scales as the product takes them, for padded outputs 0."""
    outer, groups = scale.shape
    scales = scale.new_zeros(groups, len(packed), 2, dtype=torch.bfloat16)
    scales[:, :outer, 0] = scale.t()
    return Plane(packed, scales, 2 * packed.shape[1] // groups)


def unpack_codes(plane: Plane, layout: Layout, outer: int) -> UInt8[Tensor, "N K"]:
    """The codes that were packed."""
    inner = plane.packed.shape[1] * 2
    parts = []
    for some in plane.packed.split(AT_ONCE):
        scratch = torch.empty(inner, len(some), dtype=torch.uint8)
        _spread(some, layout, scratch)
        parts.append(scratch.t())
    return torch.cat(parts)[:outer].contiguous()


def _spread(packed: Tensor, layout: Layout, out: Tensor, less: int = 0) -> None:
    """Both codes of each byte, less a number, to their places in K × N."""
    inner, apart = len(out), layout.apart
    blocks = len(packed) // layout.block
    shape = (blocks, inner, layout.block // (2 * apart), apart)
    bytes_ = packed.reshape(shape).permute(1, 0, 2, 3)
    places = out.view(inner, blocks, shape[2], 2, apart)
    half = torch.empty(shape, dtype=torch.uint8).permute(1, 0, 2, 3)
    codes = half.view(torch.int8)
    torch.bitwise_and(bytes_, 15, out=half)
    places[:, :, :, 0] = codes.sub_(less)
    torch.bitwise_right_shift(bytes_, 4, out=half)
    places[:, :, :, 1] = codes.sub_(less)


def values(planes: Sequence[Plane], layout: Layout, start: int, stop: int, dtype: torch.dtype) -> Tensor:
    """The weights of some outputs, K × (stop - start)."""
    last = planes[-1]
    inner = last.packed.shape[1] * 2
    steps, more = (torch.empty(inner, stop - start, dtype=dtype) for _ in range(2))
    _spread(planes[0].packed[start:stop], layout, steps, ZERO)
    for plane in planes[1:]:
        _spread(plane.packed[start:stop], layout, more, ZERO)
        steps.mul_(16).add_(more)  # whole numbers up to 256 are exact in bfloat16
    scale = (
        last.scales[:, start:stop, 0].to(dtype).contiguous().unsqueeze(1)
    )  # side by side: ten times as fast
    steps.view(inner // last.group, last.group, -1).mul_(scale)
    return steps


def few_rows(x: Float[Tensor, "M K"], planes: Sequence[Plane]) -> Float[Tensor, "M N"]:
    """The packed product, in bfloat16: it is slow in float32."""
    rows = x.to(torch.bfloat16).contiguous()
    parts = [torch.ops.aten._weight_int4pack_mm_for_cpu(rows, p.packed, p.group, p.scales) for p in planes]
    return parts[0] if len(parts) == 1 else sum(parts[1:], parts[0])


def many_rows(x: Float[Tensor, "M K"], planes: Sequence[Plane], layout: Layout) -> Float[Tensor, "M N"]:
    """Weights unpacked piece by piece, and the product of the type that is fast here."""
    kind = wide_type()
    rows = x.to(kind)
    outer = len(planes[0].packed)
    out = torch.empty(len(x), outer, dtype=kind)
    for start, stop in pairwise([*range(0, outer, AT_ONCE), outer]):
        torch.mm(rows, values(planes, layout, start, stop, kind), out=out[:, start:stop])
    return out


def product(x: Float[Tensor, "M K"], planes: Sequence[Plane]) -> Float[Tensor, "M N"]:
    """x Wᵀ in the type of x, outputs padded, by whichever way is faster for so many rows."""
    layout = packing()
    assert layout is not None
    few = len(x) < crossing(x.shape[1] // 2048 * 2048 or 512, len(planes))
    return (few_rows(x, planes) if few else many_rows(x, planes, layout)).to(x.dtype)


@cache
def packing() -> Layout | None:
    """How this machine packs; None where it cannot, does it in an unknown way, or multiplies wrongly."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 16, (2 * BLOCK, 128), generator=generator, dtype=torch.uint8)
    scale = torch.rand(2 * BLOCK, 2, generator=generator).bfloat16()
    x = torch.randn(33, 128, generator=generator).bfloat16()
    weights = (codes.double() - ZERO) * scale.double().repeat_interleave(64, dim=1)
    wanted = x.double() @ weights.t()
    try:
        plane, wide = pack(codes, scale), pack(codes, scale * 16)
        found = next(
            (one for one in LAYOUTS if torch.equal(unpack_codes(plane, one, len(codes)), codes)), None
        )
        if found is None:
            return None
        for planes, factor in (([plane], 1), ([wide, plane], 17)):
            results = (few_rows(x[:5], planes), wanted[:5]), (many_rows(x, planes, found), wanted)
            if any(far(got, factor * right) for got, right in results):
                return None
        return found
    except (RuntimeError, AttributeError, NotImplementedError, TypeError):
        return None


@cache
def wide_type() -> torch.dtype:
    """bfloat16, but where its products are clearly slower than those of float32."""
    x, weight = torch.randn(64, 1024), torch.randn(1024, 512)
    half, half_weight = x.bfloat16(), weight.bfloat16()
    single, other = paces(lambda: torch.mm(x, weight), lambda: torch.mm(half, half_weight))
    return torch.float32 if single < CLEARLY * other else torch.bfloat16


@cache
def crossing(inner: int, planes: int) -> int:
    """From how many rows on unpacking is clearly faster; measured once for a width, on a piece of outputs."""
    layout = packing()
    assert layout is not None
    both = [_example(inner)] * planes
    for rows in ROWS:
        x = torch.zeros(rows, inner, dtype=torch.bfloat16)
        few, many = paces(lambda x=x: few_rows(x, both), lambda x=x: many_rows(x, both, layout))
        if many < CLEARLY * few:
            return rows
    return ROWS[-1] * 2


@cache
def is_slow() -> bool:
    """Whether the packed product is one that this processor has no fast code for."""
    plane, dense = _example(4096), torch.zeros(AT_ONCE, 4096, dtype=torch.bfloat16)
    x = torch.zeros(1, 4096, dtype=torch.bfloat16)
    ours, theirs = paces(lambda: few_rows(x, [plane]), lambda: F.linear(x, dense))
    return ours > SLOW * theirs


def _example(inner: int) -> Plane:
    """One piece of outputs, to measure with."""
    return pack(torch.zeros(AT_ONCE, inner, dtype=torch.uint8), torch.ones(AT_ONCE, inner // 64))
