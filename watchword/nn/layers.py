"""Norms, activations and the few blocks that several architectures share."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from watchword.errors import ConfigError, RequestError
from watchword.shapes import Float, Int, Tensor

PIECE = 128
"""Rows that elementwise work goes through at a time: what it needs in between stays in the cores' caches, and
no large memory is mapped for it (9 times faster for 2,087 rows of 4096, benchmarks/attention.md)."""


FEW = 2**15
"""Numbers below which one pass after the other is as fast."""


def in_pieces(x: Tensor, *others: Tensor) -> bool:
    """Whether to go through `x` piece by piece: much of it, on a CPU, outside training and compilers, and all
    of one type, so that results can be written into memory that is there."""
    sides = (x, *others)
    alike = x.device.type == "cpu" and all(side.dtype == x.dtype for side in others)
    training = torch.is_grad_enabled() and any(side.requires_grad for side in sides)
    return alike and x.numel() > FEW and not training and not torch.compiler.is_compiling()


def quick_gelu(x: Tensor) -> Tensor:
    """x · sigmoid(1.702 x), CLIP's approximation."""
    if not in_pieces(x):
        return x * torch.sigmoid(1.702 * x)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    width = x.shape[-1]
    for part, into in zip(x.reshape(-1, width).split(PIECE), out.view(-1, width).split(PIECE)):
        torch.mul(part, 1.702, out=into)
        into.sigmoid_().mul_(part)
    return out


def gelu_new(x: Tensor) -> Tensor:
    """The tanh approximation of GELU."""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": gelu_new,
    "gelu_pytorch_tanh": gelu_new,
    "quick_gelu": quick_gelu,
    "relu": F.relu,
    "selu": F.selu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}


def activation(name: str | Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The activation function of that config name; a function is returned as it is."""
    if callable(name):
        return name
    if name not in ACTIVATIONS:
        raise ConfigError(f"activation {name!r}: not implemented; known are {', '.join(sorted(ACTIVATIONS))}")
    return ACTIVATIONS[name]


class RMSNorm(nn.Module):
    """Root-mean-square norm in float32, cast back before the weight (LLaMA's order)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        if in_pieces(x, self.weight):
            out = torch.empty_like(x, memory_format=torch.contiguous_format)
            width = x.shape[-1]
            for part, into in zip(x.reshape(-1, width).split(PIECE), out.view(-1, width).split(PIECE)):
                self.write(part, into)
            return out
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)  # cast first: Source: LlamaRMSNorm.forward

    def write(self, x: Float[Tensor, "n D"], into: Float[Tensor, "n D"]) -> None:
        """The same steps, and so the same bits, into memory that is there."""
        wide = x.to(torch.float32, copy=True)
        wide.mul_(wide.pow(2).mean(-1, keepdim=True).add_(self.eps).rsqrt_())
        into.copy_(wide)
        into.mul_(self.weight)


def check_heads(width: int, heads: int, where: str) -> None:
    """The width of one head is a whole number.

    Raises:
        ConfigError: it is not.
    """
    if width % heads:
        raise ConfigError(
            f"{where}: hidden_size {width} is not a multiple of num_attention_heads {heads}; "
            "check the folder's config.json"
        )


def looked_up(
    embed: Callable[[Tensor], Tensor], ids: Int[Tensor, "B L"], table: nn.Module, name: str, hint: str
) -> Float[Tensor, "B L D"]:
    """What `embed` makes of ids by a table.

    Raises:
        RequestError: an id that it does not have (on a CPU; a card says so itself, later).
    """
    try:
        return embed(ids)
    except IndexError as error:
        size = getattr(table, "num_embeddings", None)
        if size is None:
            raise
        raise RequestError(
            f"{name}: from {int(ids.min())} to {int(ids.max())}; expected ids from 0 to {size - 1}, for the "
            f"vocabulary has {size}; {hint}"
        ) from error


def split_heads(x: Float[Tensor, "B L D"], heads: int) -> Float[Tensor, "B h L d"]:
    """Width into heads, heads in front of length."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x: Float[Tensor, "B h L d"]) -> Float[Tensor, "B L D"]:
    """The inverse of `split_heads`."""
    return x.transpose(1, 2).flatten(2)


def run_layer(stack: nn.Module, layer: nn.Module, *args, **kwargs):
    """One layer of a stack; recomputed in the backward pass if the stack's `gradient_checkpointing` is on.

    That is for training; a frozen stack in evaluation mode that gradients go through says so by `recomputes`.
    """
    asked = stack.training or getattr(stack, "recomputes", False)
    if asked and getattr(stack, "gradient_checkpointing", False):
        return checkpoint(layer, *args, use_reentrant=False, **kwargs)
    return layer(*args, **kwargs)
