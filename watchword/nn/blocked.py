"""Attention in blocks, for bfloat16 on a CPU: two products and a softmax, nothing computed that is masked.

Without AMX the fused kernel of torch reaches a third of the matrix rate there, and a sixth of the memory's
speed when one query faces many keys (benchmarks/attention.md). Scores are rounded to bfloat16 as in the
written-out form, the softmax sums in float32.
"""

from collections.abc import Iterator
from functools import cache

import torch

from watchword.shapes import Bool, Float, Tensor

QUERIES = 128
"""Queries of one block under a causal mask, a quarter of what there are without. More of them compute more
that is masked, fewer make slow products."""

SCORES = 2**21
"""Scores of one block: what fits into the cores' caches twice, before and after the softmax."""


FEW = 64
"""Queries up to which the fused kernel is faster where it multiplies in tiles."""


def pays(*sides: Tensor, causal: bool) -> bool:
    """Whether blocks are faster than the fused kernel for queries, keys and values like these."""
    if any(side.dtype != torch.bfloat16 or side.device.type != "cpu" for side in sides):
        return False
    if has_tiles() and (causal or sides[0].shape[2] <= FEW):
        return False
    return has_products() and not (torch.is_grad_enabled() and any(side.requires_grad for side in sides))


@cache
def has_tiles() -> bool:
    """Whether torch's fused kernel multiplies in tiles here (AMX): then it takes half the time of blocks for
    a long prompt, and more than theirs for pictures only."""
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return supported is not None and supported() and torch.backends.cpu.get_cpu_capability() == "AVX512"


@cache
def has_products() -> bool:
    """Whether this machine multiplies bfloat16 matrices in hardware's own way."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def blocked(
    q: Float[Tensor, "B h L d"],
    k: Float[Tensor, "B g S d"],
    v: Float[Tensor, "B g S d"],
    *,
    mask: Bool[Tensor, "..."] | None = None,
    bias: Float[Tensor, "..."] | None = None,
    causal: bool = False,
    window: int | None = None,
    scale: float,
) -> Float[Tensor, "B h L d"]:
    """softmax(q kᵀ · scale + bias) v, grouped keys not repeated; arguments as of `nn.attention.attention`."""
    rows, heads, length, width = q.shape
    groups, keys = k.shape[1:3]
    if rows * heads * length * keys <= SCORES:  # a step, a short prompt
        return one_block(q, k, v, mask=mask, bias=bias, causal=causal, window=window, scale=scale)
    out = q.new_empty(rows, length, heads, width).transpose(1, 2)  # so that joining the heads copies nothing
    share = heads // groups
    for b, g, i in blocks(rows, groups, share * keys, length, QUERIES if causal else 4 * QUERIES):
        h = slice(g.start * share, g.stop * share)
        end = keys - length + i.stop if causal else keys
        start = 0 if window is None else max(0, keys - length + i.start + 1 - window)
        s = slice(start, end)
        out[b, h, i] = one_block(
            q[b, h, i],
            k[b, g, s],
            v[b, g, s],
            mask=part(mask, b, h, i, s),
            bias=part(bias, b, h, i, s),
            causal=causal,
            window=window,
            scale=scale,
        )
    return out


def one_block(
    q: Float[Tensor, "B h L d"],
    k: Float[Tensor, "B g S d"],
    v: Float[Tensor, "B g S d"],
    *,
    mask: Bool[Tensor, "..."] | None,
    bias: Float[Tensor, "..."] | None,
    causal: bool,
    window: int | None,
    scale: float,
) -> Float[Tensor, "B h L d"]:
    """The same in one piece. The last query sees the last key."""
    rows, heads, length, width = q.shape
    groups, keys = k.shape[1:3]
    many = q.reshape(rows * groups, -1, width)  # queries of heads that share keys stand below each other
    k, v = (side.reshape(rows * groups, keys, width).contiguous() for side in (k, v))
    # contiguous first: the product would copy a slice of the cache itself, four times slower
    unread = q.new_empty(()).expand(len(many), many.shape[1], keys)
    scores = torch.baddbmm(unread, many, k.transpose(1, 2), beta=0, alpha=scale)
    shaped = scores.view(rows, heads, length, keys)
    if bias is not None:
        shaped += bias
    if mask is not None:
        shaped.masked_fill_(~mask, torch.finfo(q.dtype).min)
    if causal and length > 1:
        corner = q.new_full((length, length), -torch.inf).triu(1)
        shaped[..., keys - length :] += corner
    if window is not None and keys > window:
        behind = torch.arange(keys - length, keys)[:, None] - torch.arange(keys) >= window
        shaped.masked_fill_(behind, -torch.inf)
    weights = torch.softmax(scores, dim=-1)
    return torch.bmm(weights, v).view(rows, heads, length, width)


def blocks(
    rows: int, groups: int, cost: int, length: int, queries: int
) -> Iterator[tuple[slice, slice, slice]]:
    """Rows, key heads and queries of each block, at `cost` scores for a query of a key head."""
    heads = power_of_two(SCORES / (min(queries, length) * cost))
    together = power_of_two(heads / groups) if queries >= length else 1
    for b in range(0, rows, together):
        for g in range(0, groups, heads):
            for i in range(0, length, queries):
                yield (
                    slice(b, min(b + together, rows)),
                    slice(g, min(g + heads, groups)),
                    slice(i, min(i + queries, length)),
                )


def power_of_two(limit: float) -> int:
    """The largest one that is not above the limit, and at least 1: threads share it evenly."""
    return 2 ** max(0, int(limit).bit_length() - 1)


def part(side: Tensor | None, *where: slice) -> Tensor | None:
    """Of something that broadcasts to B h L S, what belongs to these rows, heads, queries and keys."""
    if side is None:
        return None
    side = side[(None,) * (4 - side.ndim)]
    return side[tuple(at if size > 1 else slice(None) for at, size in zip(where, side.shape))]
