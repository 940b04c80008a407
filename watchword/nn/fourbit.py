"""Linears with weights of four bits: what they share, and int4 in groups."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from watchword.errors import ConfigError
from watchword.nn import nibbles, oncard
from watchword.nn.kernels import in_pieces
from watchword.nn.nibbles import ZERO, Plane
from watchword.nn.quantized import TINY, Through
from watchword.shapes import Float, Tensor, UInt8

WIDTHS = (64, 32, 16, 8)
"""Group sizes in the order they are tried; the last two have no fast product and serve small models."""


class FourBitLinear(nn.Module):
    """What linears of four bits share: packed for the product when first used, plain for files and copies.

    A subclass registers its plain tensors as buffers, names them in `stored`, and turns them into planes and
    back.
    """

    form: str
    stored: tuple[str, ...]

    def __init__(self, inner: int, outer: int, *, bias: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = inner, outer
        self.bias = nn.Parameter(torch.empty(outer), requires_grad=False) if bias else None
        self.planes: Sequence[Plane] | None = None
        self.card: tuple[Tensor, ...] | None = None

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take plain tensors."""
        self.planes = self.card = None
        for name in self.stored:
            setattr(self, name, state[name])

    def settle(self) -> None:
        """Pack, where this machine has a product for packed weights, and give up the plain codes; or lay them
        out for a card. Done with the first product, before any compiler looks."""
        if self.planes is not None or self.card is not None or self.weight.is_meta:
            return
        operator = self.operator
        if operator == "int4pack":
            self.planes = self.packed()
            self.weight = self.weight.new_empty(0)
        elif operator == "weights":
            self.card = self.laid()

    @property
    def operator(self) -> str:
        """The product in use: "int4pack" on a CPU, "weights" on a card, or "dense", which unpacks every
        time."""
        if self.weight.device.type == "cuda" and self.group:
            return "weights"
        fits = self.weight.device.type == "cpu" and self.group in nibbles.GROUPS
        return "int4pack" if fits and nibbles.packing() is not None else "dense"

    @property
    def nbytes(self) -> int:
        """What the weights take."""
        return sum(p.nbytes for p in self.planes or ()) + sum(getattr(self, n).nbytes for n in self.stored)

    def forward(self, x: Float[Tensor, "... K"]) -> Float[Tensor, "... N"]:
        if torch.is_grad_enabled() and x.requires_grad:
            return Through.apply(x, self)
        self.settle()
        flat = x.flatten(0, -2)
        out = self.multiply(flat)
        out = out if self.bias is None else out + self.bias
        return out.unflatten(0, x.shape[:-1])

    def multiply(self, x: Float[Tensor, "M K"]) -> Float[Tensor, "M N"]:
        """The product without the bias."""
        if self.planes is not None:
            return nibbles.product(x, self.planes)[:, : self.out_features]
        if self.card is not None:
            return oncard.four_bit_product(x, *self.card)
        parts = [F.linear(x, part.to(x.dtype)) for part in self.rows()]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def laid(self) -> tuple[Tensor, ...]:
        """Weights, scales and the code book, as `oncard.four_bit_product` takes them."""
        raise NotImplementedError

    def dense(self) -> Float[Tensor, "N K"]:
        """The weights that the products stand for, in float32."""
        return torch.cat(list(self.rows()))

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.plain()

    def __getstate__(self) -> dict:
        """For copies: what is packed belongs to this machine."""
        return super().__getstate__() | {
            "_buffers": dict(self._buffers) | {"weight": self.plain()},
            "planes": None,
            "card": None,
        }

    def _apply(self, fn: Callable, recurse: bool = True) -> nn.Module:
        self.weight, self.planes, self.card = self.plain(), None, None
        kept = {name: getattr(self, name) for name in self.stored}
        super()._apply(fn, recurse)
        for name, tensor in kept.items():  # changes of type are for the bias alone
            setattr(self, name, tensor.to(self._buffers[name].device))
        return self

    def extra_repr(self) -> str:
        """For printing."""
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.form}"


class Int4Linear(FourBitLinear):
    """Weights of 4 bits, a scale for each group of inputs of an output; rows stay as they are.

    Relative error of the products against float32: 0.10 for normal weights in groups of 64.

    Attributes:
        weight: two codes in a byte, the first in its low half; a weight is (code - 8) times its scale.
        scale: in bfloat16, as the products take it.
        group: how many values share one.
    """

    form = "int4"
    stored = ("weight", "scale")

    def __init__(self, inner: int, outer: int, *, group: int, bias: bool) -> None:
        super().__init__(inner, outer, bias=bias)
        self.group = group
        self.register_buffer("weight", torch.empty(outer, inner // 2, dtype=torch.uint8))
        self.register_buffer("scale", torch.empty(outer, inner // group, dtype=torch.bfloat16))

    def plain(self) -> UInt8[Tensor, "N half"]:
        """The codes, two in a byte."""
        layout = nibbles.packing()
        if self.planes is None or layout is None:
            return self.weight
        return paired(nibbles.unpack_codes(self.planes[0], layout, self.out_features))

    def packed(self) -> list[Plane]:
        """For the product."""
        layout = nibbles.packing()
        assert layout is not None  # else it is multiplied as it is
        return [nibbles.pack_pairs(self.weight, self.scale, layout)]

    def laid(self) -> tuple[Tensor, ...]:
        """For the product on a card."""
        return self.weight, self.scale

    def rows(self):
        """The dense weights, some outputs at a time."""
        for codes, scale in in_pieces(self.plain(), self.scale):
            steps = unpaired(codes).float().sub_(ZERO).unflatten(1, (-1, self.group))
            yield (steps * scale.float()[..., None]).flatten(1)


def int4_weights(weight: Float[Tensor, "N K"], group: int) -> dict[str, Tensor]:
    """Weights in groups of 4 bits: the state of an `Int4Linear`.

    The value farthest from zero becomes code 0, which is -8 steps; then the scale is the one by which these
    codes fit best.
    """
    codes, scales = [], []
    for (some,) in in_pieces(weight):
        wide = some.float().unflatten(1, (-1, group))
        top = wide.gather(-1, wide.abs().argmax(-1, keepdim=True))
        scale = torch.where(top == 0, TINY, top / -ZERO)
        steps = (wide / scale).round_().clamp_(-ZERO, ZERO - 1)
        best = (wide * steps).sum(-1, keepdim=True) / steps.square().sum(-1, keepdim=True).clamp_min(1)
        scale = torch.where(top == 0, TINY, best).bfloat16()
        steps = (wide / scale.float()).round_().clamp_(-ZERO, ZERO - 1)
        codes.append(paired((steps + ZERO).to(torch.uint8).flatten(1)))
        scales.append(scale.squeeze(-1))
    return {"weight": torch.cat(codes), "scale": torch.cat(scales)}


def group_of(inner: int, asked: int | None, where: str) -> int:
    """The group size for rows of that width.

    Raises:
        ConfigError: the size asked for does not divide it, or none of ours does.
    """
    fitting = [width for width in (*nibbles.GROUPS[::-1], *WIDTHS[2:]) if inner % width == 0]
    if asked is None and fitting:
        return next(width for width in WIDTHS if inner % width == 0)
    if asked is None or asked not in fitting:
        ours = ", ".join(map(str, fitting)) or "none of ours"
        raise ConfigError(
            f"{where}: group size {WIDTHS if asked is None else asked} does not divide its {inner} inputs; "
            f"those that do: {ours}"
        )
    return asked


def paired(codes: UInt8[Tensor, "N K"]) -> UInt8[Tensor, "N half"]:
    """Two codes in a byte, the first in the low half."""
    return codes[:, 0::2] | (codes[:, 1::2] << 4)


def unpaired(bytes_: UInt8[Tensor, "N half"]) -> UInt8[Tensor, "N K"]:
    """The inverse of `paired`."""
    return torch.stack((bytes_ & 15, bytes_ >> 4), dim=-1).flatten(1)
