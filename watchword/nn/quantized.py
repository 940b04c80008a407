"""Linears whose weights are stored in few bits.

Each stands where an `nn.Linear` stood, takes and gives its floating types, and learns nothing itself. Which
operator multiplies is the business of `nn.kernels`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from watchword.nn import oncard
from watchword.nn.dense import is_dense
from watchword.nn.kernels import INT8_PRODUCTS, MIDDLE, in_pieces, int8_product
from watchword.nn.layers import in_pieces as splits
from watchword.shapes import Float, Tensor, UInt8

PIECE = 256
"""Rows that go through linears together: what lies between two products then stays in the caches of a CPU,
and no large memory is mapped and given back each time (benchmarks/products.md)."""

TINY = 1e-30
"""The least scale, of rows of zeros."""


@dataclass(frozen=True)
class Rows:
    """Rows in 8 bits, each scaled to its own range, so that none depends on its neighbours.

    Attributes:
        codes: 1 to 255, where 128 stands for 0.
        scales: values ≈ (codes - 128) · scales. bfloat16 for bfloat16 rows, else float32.
    """

    codes: UInt8[Tensor, "N K"]
    scales: Float[Tensor, "N 1"]


def quantize_rows(x: Float[Tensor, "N K"]) -> Rows:
    """Rows to 8 bits; the largest value of a row becomes 127 steps, or up to 1 % less.

    A scale of bfloat16 rows is rounded up to bfloat16 and used so on both sides: dividing by a number and
    multiplying by a rounded one costs five times the error.
    """
    scales = largest(x).float().mul_(1 / (MIDDLE - 1))
    if x.dtype == torch.bfloat16:
        scales = scales.mul_(1 + torch.finfo(torch.bfloat16).eps).bfloat16()
    scales = scales.clamp_min_(TINY)
    wide = x.to(torch.float32, copy=True)  # first, for a product of two types takes ten times as long
    codes = (
        wide.mul_(scales.float().reciprocal()).round_().to(torch.int8).view(torch.uint8).bitwise_xor_(MIDDLE)
    )
    return Rows(codes, scales)


def largest(x: Float[Tensor, "N K"]) -> Float[Tensor, "N 1"]:
    """The largest magnitude of each row; NaN where there is one."""
    if x.dtype != torch.bfloat16:
        return x.abs().amax(dim=-1, keepdim=True)
    # without its sign a number of bfloat16 is a whole number in the same order, and those take half the time
    return (x.view(torch.int16) & 0x7FFF).amax(dim=-1, keepdim=True).view(torch.bfloat16)


class Int8Linear(nn.Module):
    """Weights of 8 bits, a scale for each output; rows are brought to 8 bits as they come.

    Relative error of the products against float32: 0.013 for normal values, half of it from the rows.

    Attributes:
        pack: False leaves the weights as they were loaded, perhaps a part of a mapped file. Results are the
            same to the bit, but for outputs whose weights lean so far to one side that the packed product,
            which sums unsigned rows, rounds a sum above 2^24.
        scale: float32; a weight is its code times the scale of its output.
        bias: in the type of the model.
    """

    form = "int8"
    stored = ("weight", "scale")

    def __init__(self, inner: int, outer: int, *, bias: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = inner, outer
        self.register_buffer("weight", torch.empty(outer, inner, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(outer, dtype=torch.float32))
        self.bias = nn.Parameter(torch.empty(outer), requires_grad=False) if bias else None
        self.pack = True
        self.packed: Tensor | None = None

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take weights that `int8_weights` made."""
        self.weight, self.scale, self.packed = state["weight"], state["scale"], None

    def settle(self) -> None:
        """Bring the weights into the layout of the product; the plain ones are given up where it differs."""
        if self.by_rows and self.packed is None and not self.weight.is_meta:
            product = INT8_PRODUCTS[self.operator]
            self.packed = product.pack(self.weight)
            self.weight = self.weight.new_empty(0) if self.packed is not self.weight else self.weight

    @property
    def nbytes(self) -> int:
        """What the weights take."""
        return self.in_features * self.out_features + self.scale.nbytes

    @property
    def operator(self) -> str:
        """The product in use."""
        return int8_product(self.scale.device.type, self.pack) if self.by_rows else "weights"

    def plain(self) -> Tensor:
        """The weights, output by output."""
        packed = self.packed
        return self.weight if packed is None else INT8_PRODUCTS[self.operator].plain(packed)

    def dense(self) -> Float[Tensor, "N K"]:
        """The weights that the products stand for, in float32."""
        return self.plain().float() * self.scale[:, None]

    @property
    def by_rows(self) -> bool:
        """Whether rows are brought to 8 bits too. A card multiplies them as they are: see `nn.oncard`."""
        return self.scale.device.type != "cuda"

    def forward(self, x: Float[Tensor, "... K"]) -> Float[Tensor, "... N"]:
        if self.by_rows or (torch.is_grad_enabled() and x.requires_grad):
            return together(x, self)[0]
        out = oncard.int8_product(x.flatten(0, -2), self.weight, self.scale)
        out = out if self.bias is None else out + self.bias
        return out.unflatten(0, x.shape[:-1])

    def product(self, rows: Rows) -> Float[Tensor, "N O"]:
        """The product of quantized rows without their scales and without the bias."""
        self.settle()
        return INT8_PRODUCTS[self.operator].run(rows.codes, self.packed, self.scale, rows.scales.dtype)

    def finish(self, out: Tensor, rows: Rows, into: Tensor) -> Tensor:
        """A product with the scales and the bias, written where it is wanted."""
        with torch.no_grad():  # a bias may learn, what is multiplied here never does
            torch.mul(out, rows.scales, out=into)
        return into if self.bias is None else into.add_(self.bias)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.plain()

    def __getstate__(self) -> dict:
        """For copies: what is packed cannot be copied."""
        buffers = dict(self._buffers) | {"weight": self.plain()}
        return super().__getstate__() | {"_buffers": buffers, "packed": None}

    def _apply(self, fn: Callable, recurse: bool = True) -> nn.Module:
        self.weight, self.packed = self.plain(), None  # packed again, as the new place wants it, when used
        scale = self.scale
        super()._apply(fn, recurse)
        self.scale = scale.to(self.weight.device)  # changes of type are for the bias alone
        return self

    def extra_repr(self) -> str:
        """For printing."""
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.form}"


def int8_weights(weight: Float[Tensor, "N K"]) -> dict[str, Tensor]:
    """Weights in 8 bits, each output with its own scale: the state of an `Int8Linear`."""
    codes, scales = torch.empty(weight.shape, dtype=torch.int8, device=weight.device), []
    for some, out in in_pieces(weight, codes):
        wide = some.to(torch.float32, copy=True)
        scales.append((wide.abs().amax(dim=1) / 127).clamp_min(TINY))
        out.copy_(wide.div_(scales[-1][:, None]).round_())
    return {"weight": codes, "scale": torch.cat(scales)}


def together(x: Float[Tensor, "... K"], *linears: nn.Module) -> list[Float[Tensor, "... N"]]:
    """The same rows through several linears; brought to 8 bits once where all of them want that."""
    if torch.is_grad_enabled() and x.requires_grad and all(isinstance(one, Int8Linear) for one in linears):
        return [Through.apply(x, linear) for linear in linears]
    if not by_rows(*linears):
        return [linear(x) for linear in linears]

    def run(part: Tensor, outs: Sequence[Tensor]) -> None:
        rows = quantize_rows(part)
        for linear, out in zip(linears, outs):
            linear.finish(linear.product(rows), rows, out)

    return _by_piece(x, run, [linear.out_features for linear in linears])


def by_rows(*linears: nn.Module) -> bool:
    """Whether all of them multiply rows of 8 bits."""
    return all(isinstance(linear, Int8Linear) and linear.by_rows for linear in linears)


def gated(
    x: Float[Tensor, "... K"],
    gate: nn.Module,
    up: nn.Module,
    down: nn.Module,
    act: Callable[[Tensor], Tensor],
) -> Float[Tensor, "... N"]:
    """down(act(gate x) · up x), rows brought to 8 bits once for gate and up.

    The scales of the rows that go up are left out of the product and put into those of the next rows, which
    saves a pass over the widest values there are.
    """
    if not by_rows(gate, up, down) or up.bias is not None or (torch.is_grad_enabled() and x.requires_grad):
        dense = all(is_dense(linear) for linear in (gate, up, down))
        if dense and x.dtype == torch.bfloat16 and splits(x, gate.weight):
            # what lies between for 2,087 rows would be 46 MB, four times over and mapped anew in every layer
            def whole(part: Tensor, outs: Sequence[Tensor]) -> None:
                outs[0].copy_(down(act(gate(part)).mul_(up(part))))

            return _by_piece(x, whole, [down.out_features])[0]
        opened, raised = together(x, gate, up)
        return down(multiplied(act, opened, raised))

    def run(part: Tensor, outs: Sequence[Tensor]) -> None:
        rows = quantize_rows(part)
        opened = gate.product(rows)
        wide = act(gate.finish(opened, rows, opened)).mul_(up.product(rows))
        inner = quantize_rows(wide)
        down.finish(down.product(inner).mul_(rows.scales), inner, outs[0])

    return _by_piece(x, run, [down.out_features])[0]


def fed(
    x: Float[Tensor, "... K"], first: nn.Module, act: Callable[[Tensor], Tensor], second: nn.Module
) -> Float[Tensor, "... N"]:
    """second(act(first x)); with rows of 8 bits a piece goes through both before the next one begins."""
    if not by_rows(first, second) or (torch.is_grad_enabled() and x.requires_grad):
        return second(act(first(x)))

    def run(part: Tensor, outs: Sequence[Tensor]) -> None:
        rows = quantize_rows(part)
        opened = first.product(rows)
        inner = quantize_rows(act(first.finish(opened, rows, opened)))
        second.finish(second.product(inner), inner, outs[0])

    return _by_piece(x, run, [second.out_features])[0]


def multiplied(act: Callable[[Tensor], Tensor], opened: Tensor, raised: Tensor) -> Tensor:
    """act(opened) · raised; many rows piece by piece and in place, for 2,087 of them are 46 MB."""
    if not splits(opened, raised):
        return act(opened) * raised
    rows = (side.view(-1, side.shape[-1]).split(PIECE) for side in (opened, raised))
    for part, other in zip(*rows):
        other.mul_(act(part))
    return raised


def _by_piece(
    x: Tensor, run: Callable[[Tensor, Sequence[Tensor]], None], widths: Sequence[int]
) -> list[Tensor]:
    """What `run` writes for the rows, so many of them at a time."""
    flat = x.flatten(0, -2)
    outs = [x.new_empty(len(flat), width) for width in widths]
    for at in range(0, len(flat), PIECE):
        piece = slice(at, at + PIECE)
        run(flat[piece], [out[piece] for out in outs])
    return [out.unflatten(0, x.shape[:-1]) for out in outs]


class Through(torch.autograd.Function):
    """For training what is before or beside a quantized linear: gradients pass, as if rows were exact."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: nn.Module) -> Tensor:
        """The linear's own product."""
        ctx.linear = linear
        return linear(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Back through the weights that the product stands for."""
        return gradient @ ctx.linear.dense().to(gradient.dtype), None
