"""Attention behind one door, and the protocol by which decoder layers meet caches.

Decoder layers never build masks. They hand queries, keys and values to a `LayerCache`, which stores what it
stores, knows which keys each query may see, and calls `attention`. `Uncached` is the cache that remembers
nothing: training and plain forward passes use it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch.nn import functional as F

from watchword.errors import RequestError
from watchword.nn.blocked import blocked, pays
from watchword.nn.flash import flash
from watchword.shapes import Bool, Float, Int, Tensor

Attended = tuple[Tensor, Tensor | None]
"""Output (B h L d) and, when asked for, weights after softmax (B h L S)."""


@dataclass(frozen=True)
class CacheSpec:
    """What a decoder wants remembered, in plain numbers."""

    layers: int
    heads: int
    head_dim: int
    cross: bool = False


@runtime_checkable
class LayerCache(Protocol):
    """Keys and values of one decoder layer: it stores, and attends, because only it knows how it stores."""

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float | None = None,
        bias: Tensor | None = None,
        window: int | None = None,
        dropout: float = 0.0,
        backend: str = "sdpa",
        want_weights: bool = False,
    ) -> Attended:
        """Store `k`, `v` (B g L d) behind what is there and attend with `q` (B h L d), causally."""
        ...

    def cross(
        self,
        q: Tensor,
        keys: Callable[[], tuple[Tensor, Tensor]],
        *,
        scale: float | None = None,
        dropout: float = 0.0,
        backend: str = "sdpa",
        want_weights: bool = False,
    ) -> Attended:
        """Attend to the encoder's states; `keys()` computes their keys and values, at most once per cache."""
        ...


@runtime_checkable
class Cache(Protocol):
    """All layers of one decoder."""

    def layer(self, index: int) -> LayerCache:
        """The part that belongs to layer `index`."""
        ...

    def span(self, length: int, device: torch.device) -> tuple[Int[Tensor, "b L"], int]:
        """Places (from 0, in the keys' order) of the next `length` queries, and their number of keys."""
        ...


class Uncached:
    """No memory: each call faces exactly the keys it brings.

    Args:
        mask: True where a key may be seen, per row; None when all may.
        memory_mask: the same for the encoder's states in cross attention.
    """

    def __init__(
        self, mask: Bool[Tensor, "B S"] | None = None, memory_mask: Bool[Tensor, "B M"] | None = None
    ) -> None:
        self.mask = mask
        self.memory_mask = memory_mask

    def layer(self, index: int) -> "Uncached":
        return self

    def span(self, length: int, device: torch.device) -> tuple[Int[Tensor, "b L"], int]:
        return torch.arange(length, device=device)[None], length

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float | None = None,
        bias: Tensor | None = None,
        window: int | None = None,
        dropout: float = 0.0,
        backend: str = "sdpa",
        want_weights: bool = False,
    ) -> Attended:
        mask = None if self.mask is None else self.mask[:, None, None, :]
        return attention(
            q,
            k,
            v,
            mask=mask,
            causal=True,
            window=window,
            scale=scale,
            bias=bias,
            dropout=dropout,
            backend=backend,
            want_weights=want_weights,
        )

    def cross(
        self,
        q: Tensor,
        keys: Callable[[], tuple[Tensor, Tensor]],
        *,
        scale: float | None = None,
        dropout: float = 0.0,
        backend: str = "sdpa",
        want_weights: bool = False,
    ) -> Attended:
        k, v = keys()
        mask = None if self.memory_mask is None else self.memory_mask[:, None, None, :]
        return attention(
            q, k, v, mask=mask, scale=scale, dropout=dropout, backend=backend, want_weights=want_weights
        )


def causal_mask(
    queries: int, keys: int, device: torch.device, window: int | None = None
) -> Bool[Tensor, "L S"]:
    """True where a key may be seen: the last query sees the last key; `window` keys back at most."""
    query = torch.arange(keys - queries, keys, device=device)[:, None]
    key = torch.arange(keys, device=device)[None]
    mask = key <= query
    return mask if window is None else mask & (key > query - window)


def attention(
    q: Float[Tensor, "B h L d"],
    k: Float[Tensor, "B g S d"],
    v: Float[Tensor, "B g S d"],
    *,
    mask: Bool[Tensor, "..."] | None = None,
    bias: Float[Tensor, "..."] | None = None,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    backend: str = "sdpa",
    want_weights: bool = False,
    upcast: bool = True,
) -> Attended:
    """softmax(q kᵀ · scale + bias) v, with each key/value head serving h/g neighbouring query heads.

    Args:
        mask: True where a query may see a key; broadcasts to B h L S. One that may see nothing gets a finite
            result that means nothing.
        bias: added to the scaled scores; broadcasts to B h L S.
        causal: the last query sees all keys, the one before all but one, and so on.
        window: with `causal`, so many keys back at most, a query's own among them.
        scale: d^-1/2 when None.
        dropout: probability of dropping a weight; the caller passes 0 outside training.
        backend: a key of `BACKENDS`. Asking for weights uses the written-out form whatever the backend.
        upcast: softmax in float32 (LLaMA, CLIP, T5) or in the tensors' own type (EVA, Q-Former).

    Raises:
        RequestError: an unknown backend, or FlashAttention in float32.
        MissingExtra: FlashAttention without its package.
    """
    if backend not in BACKENDS:
        raise RequestError(f"attention backend {backend!r}: unknown; use one of {', '.join(BACKENDS)}")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if in_blocks(backend, q, k, v, causal=causal) and not want_weights and not dropout:
        out = blocked(q, k, v, mask=mask, bias=bias, causal=causal, window=window, scale=scale)
        return out, None
    if backend == "flash_attention_2" and not want_weights:
        out = flash(
            q, k, v, mask=mask, bias=bias, causal=causal, window=window, scale=scale, dropout=dropout
        )  # fmt: skip
        if out is not None:
            return out, None
    run = eager if want_weights else BACKENDS[backend]
    if k.shape[1] != q.shape[1]:
        k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for t in (k, v))
    if window is not None and causal and k.shape[2] > window:
        near = causal_mask(q.shape[2], k.shape[2], q.device, window)
        mask, causal = near if mask is None else mask & near, False
    return run(q, k, v, mask=mask, bias=bias, causal=causal, scale=scale, dropout=dropout, upcast=upcast)


def in_blocks(backend: str, *sides: Tensor, causal: bool) -> bool:
    """Whether `attention` goes block by block: asked for, and faster for tensors like these."""
    return backend == "blocked" and pays(*sides, causal=causal)


def eager(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None,
    bias: Tensor | None,
    causal: bool,
    scale: float,
    dropout: float,
    upcast: bool,
) -> Attended:
    """The definition, written out. Reference for all other backends."""
    scores = (q @ k.transpose(-1, -2)) * scale
    if bias is not None:
        scores = scores + bias
    if causal:
        scores = scores.masked_fill(
            ~causal_mask(q.shape[2], k.shape[2], q.device), torch.finfo(scores.dtype).min
        )
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32 if upcast else None).to(q.dtype)
    weights = F.dropout(weights, dropout)
    return weights @ v, weights


def sdpa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None,
    bias: Tensor | None,
    causal: bool,
    scale: float,
    dropout: float,
    upcast: bool,
) -> Attended:
    """torch's fused kernels. Their is_causal aligns the first query with the first key: for L == S only."""
    if causal and (bias is not None or mask is not None or q.shape[2] != k.shape[2]):
        if q.shape[2] > 1:
            triangle = causal_mask(q.shape[2], k.shape[2], q.device)
            mask = triangle if mask is None else mask & triangle
        causal = False
    if bias is not None:
        mask = bias if mask is None else bias.masked_fill(~mask, torch.finfo(bias.dtype).min)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=scale
    ), None


BACKENDS = {"eager": eager, "sdpa": sdpa, "flash_attention_2": sdpa, "blocked": sdpa}
"""By name. "blocked" is `nn.blocked` where that is faster, "flash_attention_2" is `nn.flash` for what it can
answer; the functions here answer the rest."""
