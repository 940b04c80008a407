"""Dense linears that multiply few rows the way this machine does it fastest.

One token, a few beams or a short prompt leave a product with nothing to do but read the weights. Where
bfloat16 is multiplied in tiles (AMX), the product that a linear asks for reads them at 60 % of the speed that
the same product the other way round reaches; elsewhere it is the other way round (docs/log.md).
"""

from functools import cache

import torch
from torch import nn
from torch.nn import functional as F

from watchword.nn.kernels import CLEARLY, far, paces
from watchword.shapes import Float, Tensor

FEW = 64
"""Rows up to which reading the weights is most of the work."""


class Linear(nn.Linear):
    """An `nn.Linear` in everything but the order in which few rows of bfloat16 are multiplied on a CPU."""

    def forward(self, x: Float[Tensor, "... K"]) -> Float[Tensor, "... N"]:
        few = x.dtype == self.weight.dtype == torch.bfloat16 and x.numel() <= FEW * self.in_features
        if not few or x.device.type != "cpu" or torch.compiler.is_compiling() or not turns():
            return F.linear(x, self.weight, self.bias)
        if torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad):
            return F.linear(x, self.weight, self.bias)
        out = turned(x.flatten(0, -2), self.weight).unflatten(0, x.shape[:-1])
        return out if self.bias is None else out + self.bias


def is_dense(module: nn.Module) -> bool:
    """Whether it is a linear and nothing more: no adapter, no few bits, nobody's subclass."""
    return type(module) in (nn.Linear, Linear)


def turned(x: Float[Tensor, "M K"], weight: Float[Tensor, "N K"]) -> Float[Tensor, "M N"]:
    """x Wᵀ as (W xᵀ)ᵀ."""
    if len(x) == 1:
        return torch.mv(weight, x[0])[None]
    return torch.mm(weight, x.t()).t().contiguous()


_agreed: list[bool] = []


def agree(verdict: bool) -> None:
    """Let this process multiply as others that compute the same do, for the last bits depend on it."""
    _agreed[:] = [verdict]


def turns() -> bool:
    """Whether few rows are multiplied the other way round: as agreed, or as tried once in a process."""
    return _agreed[0] if _agreed else pays()


@cache
def pays() -> bool:
    """Whether the other way round is right and clearly faster here.

    The time is that of one row: with more of them it is the same machines that gain.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(128, 256, generator=generator).bfloat16()
    for rows in (1, 5):
        x = torch.randn(rows, 256, generator=generator).bfloat16()
        if far(turned(x, weight), x.double() @ weight.double().t()):
            return False
    wide = torch.ones(4096, 4096, dtype=torch.bfloat16)  # more than the cores' own caches hold
    x = torch.ones(1, 4096, dtype=torch.bfloat16)
    other, usual = paces(lambda: turned(x, wide), lambda: F.linear(x, wide))
    return other < CLEARLY * usual
