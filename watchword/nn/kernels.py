"""Operators that multiply quantized weights, and which of them this machine can use.

Each is probed once in a process, on small matrices against the dense definition: one that is missing, wrong
or far slower than the next falls away. None of them belongs to torch's stable surface. Figures:
benchmarks/products.md.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch.nn import functional as F

from watchword.shapes import Float, Tensor, UInt8

MIDDLE = 128
"""What stands for 0 in codes of 8 bits: the fast product takes unsigned rows and signed weights."""

FAR_SLOWER = 8.0
"""A right operator is left for the next only where it takes more than this many times as long: near ties must
not make two runs of a program differ."""

CLEARLY = 0.85
"""Share of the time of the usual way below which another one is taken, for the same reason."""

TOLERANCE = 0.01
"""Largest error of an operator, relative to the largest value: bfloat16 rounds to 0.004."""


@dataclass(frozen=True)
class Int8Product:
    """One way to multiply 8-bit rows with 8-bit weights.

    Attributes:
        pack: plain int8 weights N K to what the product reads.
        plain: and back.
        run: (codes M K, packed, scale N, type of the result) → (codes - 128) Wᵀ · scale, M N.
        as_stored: it reads weights as files hold them, and packing does nothing.
    """

    pack: Callable[[Tensor], Tensor]
    plain: Callable[[Tensor], Tensor]
    run: Callable[[UInt8[Tensor, "M K"], Tensor, Float[Tensor, "N"], torch.dtype], Tensor]
    as_stored: bool = True


def _onednn(codes: Tensor, packed: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    kind = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32  # it writes no float16
    zeros = _zeros(len(scale))
    rest = (None, 1.0, 0, kind, "none", [], "")
    out = torch.ops.onednn.qlinear_pointwise(codes, 1.0, MIDDLE, packed, scale, zeros, *rest)
    return out if kind == dtype else out.to(dtype)


@cache
def _zeros(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.int32)


def _int_mm(codes: Tensor, weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    signed = torch.bitwise_xor(codes, MIDDLE).view(torch.int8)
    if len(signed) == 1:  # weights times a column: with AMX a token takes 0.85 of the time
        sums = torch._int_mm(weight, signed.t()).t()
    else:
        sums = torch._int_mm(signed, weight.t())
    return sums.float().mul_(scale).to(dtype)


def _dense(codes: Tensor, weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    rows = codes.float() - MIDDLE
    parts = [F.linear(rows, some.float()) * factor for some, factor in in_pieces(weight, scale)]
    return torch.cat(parts, dim=-1).to(dtype)


def in_pieces(*tensors: Tensor, rows: int = 512) -> Iterator[tuple[Tensor, ...]]:
    """The tensors side by side, so many rows of each at a time: what is unpacked at once stays small."""
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)


INT8_PRODUCTS = {
    "onednn": Int8Product(
        lambda weight: torch.ops.onednn.qlinear_prepack(weight.contiguous(), None),
        lambda packed: packed.to_dense().t().contiguous(),
        _onednn,
        as_stored=False,
    ),
    "int_mm": Int8Product(torch.Tensor.contiguous, lambda weight: weight, _int_mm),
    "dense": Int8Product(torch.Tensor.contiguous, lambda weight: weight, _dense),
}
"""Fastest first; the last is the definition."""


@cache
def int8_product(device: str = "cpu", pack: bool = True) -> str:
    """Which of `INT8_PRODUCTS` to take on a kind of device; without packing, rather one that needs none."""
    if device != "cpu":
        return "dense"
    names = list(INT8_PRODUCTS)
    if not pack:
        names.sort(key=lambda name: (name == "dense", not INT8_PRODUCTS[name].as_stored))
    right = {name: INT8_PRODUCTS[name] for name in names if name == "dense" or _int8_is_right(name)}
    seconds = dict(zip(right, _int8_seconds(list(right.values())), strict=True))
    return next(name for name in right if seconds[name] <= FAR_SLOWER * min(seconds.values()))


def _int8_example(rows: int, inner: int, outer: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random codes and weights, and the extremes, which overflow 16 bits where an operator sums in them."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(1, 256, (rows, inner), generator=generator, dtype=torch.uint8)
    weight = torch.randint(-127, 128, (outer, inner), generator=generator, dtype=torch.int8)
    codes[0], weight[0], weight[1] = 255, 127, -127
    return codes, weight, torch.rand(outer, generator=generator) + 0.5


def _int8_is_right(name: str) -> bool:
    product = INT8_PRODUCTS[name]
    for rows in (1, 5, 33):
        codes, weight, scale = _int8_example(rows, 96, 80)
        wanted = (codes.double() - MIDDLE) @ weight.double().t() * scale
        try:
            packed = product.pack(weight)
            got = [product.run(codes, packed, scale, kind) for kind in (torch.float32, torch.bfloat16)]
            same = torch.equal(product.plain(packed), weight)
        except (RuntimeError, AttributeError, NotImplementedError, TypeError):
            return False
        if not same or any(far(one, wanted) for one in got):
            return False
    return True


def far(got: Tensor, wanted: Tensor) -> bool:
    """Whether a result is not the reference, beyond the rounding of bfloat16."""
    return not bool((got.double() - wanted).abs().max() <= TOLERANCE * wanted.abs().max())


def _int8_seconds(products: list[Int8Product]) -> list[float]:
    """What each takes: one row, where decoding is, and 64, where prompts are."""
    totals = [0.0] * len(products)
    for rows in (1, 64):
        codes, weight, scale = _int8_example(rows, 1024, 1024)
        packed = [one.pack(weight) for one in products]
        run = partial(_int8_run, codes, scale)
        ways = [partial(run, one, some) for one, some in zip(products, packed)]
        totals = [total + more for total, more in zip(totals, paces(*ways))]
    return totals


def _int8_run(codes: Tensor, scale: Tensor, product: Int8Product, packed: Tensor) -> Tensor:
    return product.run(codes, packed, scale, torch.float32)


def paces(*ways: Callable[[], object], rounds: int = 5, times: int = 3) -> list[float]:
    """Seconds of the fastest call of each way, tried by turns, for machines that are not steady."""
    taken = [[_fastest(way, times) for way in ways] for _ in range(rounds)]
    return [min(some) for some in zip(*taken)]


def _fastest(run: Callable[[], object], times: int) -> float:
    """Seconds of the fastest of a few calls; the first one warms up."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return min(taken)


def operator_rows() -> list[tuple[str, str]]:
    """What `watchword doctor` says about products: pairs of a format and the operator in use."""
    from watchword.nn import dense, nibbles  # late: they build on what is here

    slow = "dense, unpacked for every product: slow, for this machine or this torch has nothing faster"
    packed, stored = int8_product(), int8_product(pack=False)
    int8 = packed if packed == stored else f"{packed}; {stored} for weights that stay as stored"
    if nibbles.packing() is None:
        four = slow
    else:
        wide = str(nibbles.wide_type()).removeprefix("torch.")
        four = f"int4pack below {nibbles.crossing(4096, 1)} rows, from there unpacked for products of {wide}"
        four += "; slow, for this processor" if nibbles.is_slow() else ""
    turned = "weights times columns" if dense.turns() else "rows times weights"
    return [
        ("int8", slow if packed == "dense" else int8),
        ("int4, nf4, fp4", four),
        (f"bfloat16, up to {dense.FEW} rows", turned),
    ]
