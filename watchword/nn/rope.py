"""Rotary position embedding: angles from positions, with the scaling rules of LLaMA's configs."""

import math
from collections.abc import Mapping

import torch

from watchword.errors import ConfigError
from watchword.nn.layers import PIECE, in_pieces
from watchword.shapes import Float, Int, Tensor

SCALINGS = ("default", "linear", "dynamic", "llama3")


class Rotary:
    """cos and sin for given positions. Plain numbers only: nothing to load, no memory of a call.

    Args:
        head_dim: width d of one head; frequencies are theta^(-2j/d).
        theta: the base.
        scaling: the config's `rope_scaling` (`rope_type` and its numbers), or None.
        max_positions: trained length, in tokens; `dynamic` stretches beyond it.

    Raises:
        ConfigError: a scaling type that is not one of `SCALINGS`.
    """

    def __init__(self, head_dim: int, theta: float, scaling: Mapping | None, max_positions: int) -> None:
        self.head_dim = head_dim
        self.theta = theta
        self.scaling = dict(scaling or {})
        self.max_positions = max_positions
        self.kind = self.scaling.get("rope_type", self.scaling.get("type", "default"))
        if self.kind not in SCALINGS:
            raise ConfigError(
                f"rope_scaling: type {self.kind!r} is not implemented; known types are {', '.join(SCALINGS)}"
            )

    def __call__(
        self, positions: Int[Tensor, "B L"], dtype: torch.dtype
    ) -> tuple[Float[Tensor, "B 1 L d"], Float[Tensor, "B 1 L d"]]:
        """cos and sin, computed in float32 whatever the model's type, then cast."""
        frequencies = self.frequencies(positions)  # B|1 d/2
        angles = positions.float()[:, :, None] * frequencies[:, None, :]
        angles = torch.cat((angles, angles), dim=-1)[:, None]  # halves side by side, one set for all heads
        return angles.cos().to(dtype), angles.sin().to(dtype)

    def frequencies(self, positions: Int[Tensor, "B L"]) -> Float[Tensor, "b half"]:
        """Angle per position step: one row for all, or one for each row of `positions` (dynamic)."""
        even = torch.arange(0, self.head_dim, 2, device=positions.device, dtype=torch.float32) / self.head_dim
        if self.kind == "dynamic":
            # Per row, so that no neighbour's length changes an answer (the reference takes the longest).
            length = (positions.amax(dim=1, keepdim=True) + 1).clamp(min=self.max_positions).float()
            stretch = self.scaling["factor"] * length / self.max_positions - (self.scaling["factor"] - 1)
            return 1.0 / (self.theta * stretch ** (self.head_dim / (self.head_dim - 2))) ** even[None]
        plain = 1.0 / self.theta ** even[None]
        if self.kind == "linear":
            return plain / self.scaling["factor"]
        return self.stretch_long_waves(plain) if self.kind == "llama3" else plain

    def stretch_long_waves(self, plain: Float[Tensor, "1 half"]) -> Float[Tensor, "1 half"]:
        """llama3: short waves stay, long ones are divided by the factor, between them a smooth passage."""
        factor, low, high = (self.scaling[k] for k in ("factor", "low_freq_factor", "high_freq_factor"))
        turns = self.scaling["original_max_position_embeddings"] * plain / (2 * math.pi)
        blend = ((turns - low) / (high - low)).clamp(0, 1)  # 0: long wave, 1: short wave
        return (1 - blend) * plain / factor + blend * plain


def apply_rope(
    x: Float[Tensor, "B h L d"], cos: Float[Tensor, "b 1 L d"], sin: Float[Tensor, "b 1 L d"]
) -> Float[Tensor, "B h L d"]:
    """Rotate the pairs (x_j, x_{j+d/2}) by their angles."""
    if in_pieces(x, cos, sin):
        return rotated(x, cos, sin)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def rotated(
    x: Float[Tensor, "B h L d"], cos: Float[Tensor, "b 1 L d"], sin: Float[Tensor, "b 1 L d"]
) -> Float[Tensor, "B h L d"]:
    """The same products and sums, and so the same bits, piece by piece into one new tensor."""
    half = x.shape[-1] // 2
    out = torch.empty_like(x)
    for part, into, c, s in zip(*(side.split(PIECE, dim=2) for side in (x, out, cos, sin))):
        torch.mul(part, c, out=into)
        into[..., :half] -= part[..., half:] * s[..., :half]
        into[..., half:] += part[..., :half] * s[..., half:]
    return out
