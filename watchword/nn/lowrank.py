"""A frozen linear and a low-rank difference beside it as one step, for training.

Written out as products, a factor and a sum, the difference costs more passes over the widest tensors than
arithmetic; here each of the two directions writes its result once and adds to it in place.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from watchword.nn.dense import is_dense
from watchword.shapes import Float, Tensor


class Beside(torch.autograd.Function):
    """x Wᵀ + bias + scale · (x Aᵀ) Bᵀ; gradients for x, A and B."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "N I"],
        weight: Float[Tensor, "O I"],
        bias: Float[Tensor, "O"] | None,
        down: Float[Tensor, "r I"],
        up: Float[Tensor, "O r"],
        scale: float,
    ) -> Float[Tensor, "N O"]:
        """The product; x and the narrow x Aᵀ are kept for the way back."""
        narrow = F.linear(x, down)
        ctx.save_for_backward(x, weight, down, up, narrow)
        ctx.scale = scale
        return F.linear(x, weight, bias).addmm_(narrow, up.t(), alpha=scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "N O"]) -> tuple[Tensor | None, ...]:
        """What learns is the narrow side, so only it is multiplied by the scale."""
        x, weight, down, up, narrow = ctx.saved_tensors
        inner = (gradient @ up).mul_(ctx.scale)
        back = (gradient @ weight).addmm_(inner, down) if ctx.needs_input_grad[0] else None
        return back, None, None, inner.t() @ x, (gradient.t() @ narrow).mul_(ctx.scale), None


def fits(x: Float[Tensor, "... I"], base: nn.Module, down: Float[Tensor, "r I"]) -> bool:
    """Whether a difference learns beside a frozen dense linear of its own type."""
    if not is_dense(base) or not (torch.is_grad_enabled() and down.requires_grad):
        return False
    frozen = not any(one.requires_grad for one in base.parameters())
    return frozen and x.dtype == base.weight.dtype == down.dtype


def beside(
    x: Float[Tensor, "... I"],
    base: nn.Linear,
    down: Float[Tensor, "r I"],
    up: Float[Tensor, "O r"],
    scale: float,
) -> Float[Tensor, "... O"]:
    """The linear's output with the difference, where that `fits`."""
    out = Beside.apply(x.reshape(-1, x.shape[-1]), base.weight, base.bias, down, up, scale)
    return out.view(*x.shape[:-1], -1)
