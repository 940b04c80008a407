"""What learns, in float32: AdamW, the rate over time, clipping, and the optimizer's state as tensors.

Weights in bfloat16 have 8 bits of mantissa: a step of a thousandth of a weight would be rounded away. So each
that learns has a float32 master, which the optimizer changes and from which the weight is copied.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from watchword.errors import CheckpointError
from watchword.shapes import Tensor

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""What AdamW remembers of each parameter."""


class Masters:
    """The parameters that learn, their float32 masters and their optimizer.

    Args:
        learning: parameters by name. A float32 parameter is its own master.
        decay: weight decay of matrices; vectors have none.
        betas: AdamW's.
        slower: beginnings of names that learn at a share of the rate, and that share.
    """

    def __init__(
        self,
        learning: Mapping[str, nn.Parameter],
        *,
        decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
        slower: tuple[tuple[str, ...], float] = ((), 1.0),
    ) -> None:
        self.weights = dict(learning)
        self.masters = {
            name: one if one.dtype == torch.float32 else nn.Parameter(one.detach().float())
            for name, one in learning.items()
        }
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, one in self.masters.items():
            share = slower[1] if name.startswith(slower[0]) else 1.0
            groups.setdefault((decay if one.ndim > 1 else 0.0, share), []).append(one)
        self.fused = fusable(self.masters.values())
        self.optimizer = torch.optim.AdamW(
            [{"params": ones, "weight_decay": d, "share": share} for (d, share), ones in groups.items()],
            lr=1.0,
            betas=betas,
            fused=self.fused,
        )

    @property
    def half(self) -> bool:
        """Whether there are weights with a master beside them."""
        return any(self.masters[name] is not one for name, one in self.weights.items())

    def gather(self) -> None:
        """Move what the last backward pass left into the masters' gradients, in float32."""
        for name, one in self.weights.items():
            master = self.masters[name]
            if master is one or one.grad is None:
                continue
            grad = one.grad.float()
            master.grad = grad if master.grad is None else master.grad.add_(grad)
            one.grad = None

    def clip(self, most: float | None) -> float:
        """Scale the gradients so that their norm is at most this; returns what it was."""
        norm = nn.utils.clip_grad_norm_(self.masters.values(), math.inf if most is None else most)
        return float(full(norm))

    def step(self, rate: float) -> None:
        """Change the masters and the weights."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.spread()

    def spread(self) -> None:
        """Copy the masters into the weights."""
        with torch.no_grad():
            for name, one in self.weights.items():
                if self.masters[name] is not one:
                    one.copy_(self.masters[name])

    def state(self) -> dict[str, Tensor]:
        """Masters and moments by name, for a checkpoint."""
        found = {f"master.{name}": full(one.detach()) for name, one in self.masters.items()}
        for name, one in self.masters.items():
            for moment, value in self.optimizer.state.get(one, {}).items():
                found[f"{moment}.{name}"] = full(value)
        return found

    def load(self, state: Mapping[str, Tensor], where: str) -> None:
        """Take up a state again; the weights follow.

        Raises:
            CheckpointError: it is the state of other parameters.
        """
        wanted, given = set(self.masters), {name[7:] for name in state if name.startswith("master.")}
        if wanted != given:
            odd = sorted(wanted ^ given)
            raise CheckpointError(
                f"{where}: holds other parameters than those that learn ({len(odd)} differ: "
                f"{', '.join(odd[:5])}); go on with the model and the recipe that it was begun with"
            )
        with torch.no_grad():
            for name, one in self.masters.items():
                one.copy_(like(state[f"master.{name}"], one))
                moments = {key: state[f"{key}.{name}"] for key in MOMENTS if f"{key}.{name}" in state}
                if moments:
                    # a fused optimizer counts its steps where the parameter is, another one on the host
                    step = moments.pop("step").to(one.device if self.fused else "cpu", copy=True)
                    spread = {key: like(value, one) for key, value in moments.items()}
                    self.optimizer.state[one] = {"step": step, **spread}
        self.spread()


def fusable(tensors: Iterable[Tensor]) -> bool:
    """Whether AdamW can go over all of them in one pass; a sharded one it cannot."""
    return all(type(one) is nn.Parameter and one.device.type in ("cpu", "cuda") for one in tensors)


def full(tensor: Any) -> Tensor:
    """The whole of a tensor that may be spread over processes."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def like(value: Tensor, one: Tensor) -> Tensor:
    """A whole tensor as another is: on its device, spread as it is."""
    value = value.to(one.device, one.dtype)
    if not hasattr(one, "device_mesh"):
        return value.clone()
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, one.device_mesh, one.placements)


def rate_at(step: int, steps: int, peak: float, warm_up: int) -> float:
    """The learning rate of a step, counted from 0: a straight climb, then half a cosine down to nothing."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
