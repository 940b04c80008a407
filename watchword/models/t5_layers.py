"""The layers of T5: norms, attentions, feed-forwards, and the blocks made of them.

What is unlike the other text models: positions enter as a bias on the scores, learned once per stack in its
first block and shared by all; scores are not scaled; nothing else has a bias; and in float16 the `wo` layers
stay in float32, from where on the residual stream is float32 as well.
"""

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from watchword.config import T5Config
from watchword.errors import RequestError
from watchword.nn.attention import Attended, LayerCache, attention
from watchword.nn.dense import Linear
from watchword.nn.layers import activation, join_heads, split_heads
from watchword.shapes import Float, Int, Tensor

Attend = Callable[..., Attended]
"""attend(queries, keys, **how), where `keys()` gives keys and values: plain, through a cache, or cross."""

Weights = Tensor | None
"""Attention weights B h L S, when asked for."""


class T5Norm(nn.Module):
    """Root-mean-square norm with the variance in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """To mean square 1, then times the weight, in the weight's type where that is a half type."""
        x = x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + self.eps)
        if self.weight.dtype in (torch.float16, torch.bfloat16):
            x = x.to(self.weight.dtype)  # a float32 stream becomes half again. Source: T5LayerNorm.forward
        return self.weight * x


class T5Attention(nn.Module):
    """The projections of one attention. The first of each stack (`relative`) also owns the position bias."""

    def __init__(self, config: T5Config, *, backend: str, relative: bool = False) -> None:
        super().__init__()
        self.heads = config.num_heads
        inner = config.num_heads * config.d_kv
        self.q = Linear(config.d_model, inner, bias=False)
        self.k = Linear(config.d_model, inner, bias=False)
        self.v = Linear(config.d_model, inner, bias=False)
        self.o = Linear(inner, config.d_model, bias=False)
        if relative:
            self.relative_attention_bias = nn.Embedding(config.relative_attention_num_buckets, self.heads)
            self.farthest = config.relative_attention_max_distance
        self.dropout = config.dropout_rate
        self.backend = backend

    def forward(
        self,
        x: Float[Tensor, "B L D"],
        source: Float[Tensor, "B S D"] | None,
        attend: Attend,
        want_weights: bool,
    ) -> tuple[Float[Tensor, "B L D"], Weights]:
        """Attend from `x` to `source`, which may be None where a cache already holds its keys and values."""

        def keys() -> tuple[Tensor, Tensor]:
            if source is None:
                raise RequestError(
                    "T5 decoder: states is None and the cache holds no cross-attention keys; expected the "
                    "encoder's states on the first call; run encode() and pass its result as states="
                )
            return split_heads(self.k(source), self.heads), split_heads(self.v(source), self.heads)

        out, weights = attend(
            split_heads(self.q(x), self.heads),
            keys,
            scale=1.0,
            backend=self.backend,
            dropout=self.dropout if self.training else 0.0,
            want_weights=want_weights,
        )
        return self.o(join_heads(out)), weights

    def position_bias(
        self, places: Int[Tensor, "b L"], keys: int, *, bidirectional: bool
    ) -> Float[Tensor, "b h L S"]:
        """The learned bias for queries at these places that face keys at places 0 to keys - 1."""
        table = self.relative_attention_bias
        relative = torch.arange(keys, device=places.device) - places[..., None]
        found = buckets(relative, table.num_embeddings, self.farthest, bidirectional=bidirectional)
        return table(found).permute(0, 3, 1, 2).contiguous()  # b h L S; fused kernels want neighbouring keys


class SelfLayer(nn.Module):
    """Norm, self-attention, residual."""

    def __init__(self, config: T5Config, *, backend: str, relative: bool) -> None:
        super().__init__()
        self.SelfAttention = T5Attention(config, backend=backend, relative=relative)
        self.layer_norm = T5Norm(config.d_model, config.layer_norm_epsilon)
        self.dropout = config.dropout_rate

    def forward(
        self, x: Float[Tensor, "B L D"], attend: Attend, want_weights: bool
    ) -> tuple[Float[Tensor, "B L D"], Weights]:
        """The stream after the layer, and the attention's weights."""
        normed = self.layer_norm(x)
        out, weights = self.SelfAttention(normed, normed, attend, want_weights)
        return clamp_half(x + F.dropout(out, self.dropout, self.training)), weights


class CrossLayer(nn.Module):
    """Norm, attention to the encoder's states, residual."""

    def __init__(self, config: T5Config, *, backend: str) -> None:
        super().__init__()
        self.EncDecAttention = T5Attention(config, backend=backend)
        self.layer_norm = T5Norm(config.d_model, config.layer_norm_epsilon)
        self.dropout = config.dropout_rate

    def forward(
        self,
        x: Float[Tensor, "B L D"],
        states: Float[Tensor, "B M D"] | None,
        attend: Attend,
        want_weights: bool,
    ) -> tuple[Float[Tensor, "B L D"], Weights]:
        """The stream after the layer, and the attention's weights."""
        out, weights = self.EncDecAttention(self.layer_norm(x), states, attend, want_weights)
        return clamp_half(x + F.dropout(out, self.dropout, self.training)), weights


class PlainDense(nn.Module):
    """wo(act(wi x))."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.wi = Linear(config.d_model, config.d_ff, bias=False)
        self.wo = Linear(config.d_ff, config.d_model, bias=False)
        self.act = activation(config.dense_act_fn)
        self.dropout = config.dropout_rate

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """Up, activation, down."""
        return project(F.dropout(self.act(self.wi(x)), self.dropout, self.training), self.wo)


class GatedDense(nn.Module):
    """wo(act(wi_0 x) · wi_1 x)."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.wi_0 = Linear(config.d_model, config.d_ff, bias=False)
        self.wi_1 = Linear(config.d_model, config.d_ff, bias=False)
        self.wo = Linear(config.d_ff, config.d_model, bias=False)
        self.act = activation(config.dense_act_fn)
        self.dropout = config.dropout_rate

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """Up twice, one way gating the other, down."""
        return project(F.dropout(self.act(self.wi_0(x)) * self.wi_1(x), self.dropout, self.training), self.wo)


class FeedLayer(nn.Module):
    """Norm, feed-forward, residual."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.DenseReluDense = GatedDense(config) if config.is_gated_act else PlainDense(config)
        self.layer_norm = T5Norm(config.d_model, config.layer_norm_epsilon)
        self.dropout = config.dropout_rate

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """The stream after the layer."""
        out = self.DenseReluDense(self.layer_norm(x))
        return clamp_half(x + F.dropout(out, self.dropout, self.training))


class EncoderBlock(nn.Module):
    """Self-attention in both directions, feed-forward."""

    def __init__(self, config: T5Config, *, backend: str, relative: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList((SelfLayer(config, backend=backend, relative=relative), FeedLayer(config)))

    def forward(
        self, x: Float[Tensor, "B L D"], bias: Float[Tensor, "b h L S"], want_weights: bool
    ) -> tuple[Float[Tensor, "B L D"], Weights]:
        """`bias` holds positions and mask. Returns the stream and the attention's weights."""

        def attend(q: Tensor, keys: Callable[[], tuple[Tensor, Tensor]], **how) -> Attended:
            return attention(q, *keys(), bias=bias, **how)

        x, weights = self.layer[0](x, attend, want_weights)
        return self.layer[1](x), weights


class DecoderBlock(nn.Module):
    """Causal self-attention, attention to the encoder's states, feed-forward."""

    def __init__(self, config: T5Config, *, backend: str, relative: bool) -> None:
        super().__init__()
        own = SelfLayer(config, backend=backend, relative=relative)
        self.layer = nn.ModuleList((own, CrossLayer(config, backend=backend), FeedLayer(config)))

    def forward(
        self,
        x: Float[Tensor, "B L D"],
        bias: Float[Tensor, "b h L S"],
        states: Float[Tensor, "B M D"] | None,
        cache: LayerCache,
        want_weights: bool,
    ) -> tuple[Float[Tensor, "B L D"], Weights, Weights]:
        """The stream, and the weights of self-attention and of cross attention."""

        def attend(q: Tensor, keys: Callable[[], tuple[Tensor, Tensor]], **how) -> Attended:
            return cache.attend(q, *keys(), bias=bias, **how)

        x, own = self.layer[0](x, attend, want_weights)
        x, cross = self.layer[1](x, states, cache.cross, want_weights)
        return self.layer[2](x), own, cross


def buckets(
    relative: Int[Tensor, "b L S"], count: int, farthest: int, *, bidirectional: bool
) -> Int[Tensor, "b L S"]:
    """Distances (key place - query place) to bucket numbers: one each when near, then ever wider.

    Everything from `farthest` on shares the last one.
    Bidirectional stacks give half of the buckets to keys behind the query; causal ones never look there.
    """
    n = count // 2 if bidirectional else count
    distance = relative.abs() if bidirectional else (-relative).clamp(min=0)
    near = n // 2
    ratio = torch.log(distance.clamp(min=near).float() / near) / math.log(farthest / near)
    wide = (near + (ratio * (n - near)).long()).clamp(max=n - 1)  # float32 and truncated, as it was trained
    found = torch.where(distance < near, distance, wide)
    return found + (relative > 0) * n if bidirectional else found


def clamp_half(x: Tensor) -> Tensor:
    """Float16 kept finite: at most its largest value, 1000 less if anything overflowed; other types pass."""
    if x.dtype != torch.float16:
        return x
    largest = torch.finfo(x.dtype).max
    limit = torch.where(x.isinf().any(), largest - 1000, largest)  # decided on the device, without waiting
    return x.clamp(min=-limit, max=limit)


def project(x: Tensor, linear: nn.Module) -> Tensor:
    """`linear` in its own floating type: in a float16 model `wo` is float32, and where it is quantized it
    takes rows of float32."""
    own = linear.weight.dtype
    if not own.is_floating_point:
        own = torch.float32 if x.dtype == torch.float16 else x.dtype
    return linear(x.to(own))
