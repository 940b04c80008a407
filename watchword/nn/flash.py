"""FlashAttention-2 through the flash-attn package: which calls it can answer, and how they are put to it.

Its interface (README of Dao-AILab/flash-attention, 2.x): B L h d in float16 or bfloat16; key heads may be
fewer; `causal` aligns the last query with the last key; `window_size` counts keys to the left and right of a
query's own; rows of unequal length are packed one behind the other, with their bounds as int32.
No machine with a GPU has run this yet; tests put a stand-in in the package's place.
"""

from types import ModuleType

import torch
from torch.nn import functional as F

from watchword.errors import ConfigError, MissingExtra, RequestError
from watchword.shapes import Bool, Float, Int, Tensor

HALVES = (torch.float16, torch.bfloat16)


def flash(
    q: Float[Tensor, "B h L d"],
    k: Float[Tensor, "B g S d"],
    v: Float[Tensor, "B g S d"],
    *,
    mask: Bool[Tensor, "..."] | None,
    bias: Tensor | None,
    causal: bool,
    window: int | None,
    scale: float,
    dropout: float,
) -> Float[Tensor, "B h L d"] | None:
    """What `attention` computes, or None for a call that the package can not answer: with a bias, or with a
    mask that is more than padding, causal or not.

    Padding queries, whose own key nobody may see, get zeros.

    Raises:
        RequestError: a type that is not float16 or bfloat16.
        MissingExtra: the package is not installed.
    """
    if bias is not None:
        return None
    if q.dtype not in HALVES:
        raise RequestError(
            f"attention backend 'flash_attention_2': got {q.dtype}, and FlashAttention computes in float16 "
            "and bfloat16; load with dtype=torch.bfloat16, or use 'sdpa'"
        )
    package = import_flash()
    settings = {"dropout_p": dropout, "softmax_scale": scale}
    sides = [side.transpose(1, 2) for side in (q, k, v)]
    if mask is None:
        near = (-1, -1) if window is None or not causal else (window - 1, 0)
        return package.flash_attn_func(*sides, causal=causal, window_size=near, **settings).transpose(1, 2)
    kept = None if causal else padding(mask, *sides[0].shape[:2], k.shape[2])
    if kept is None:
        return None
    queries, keys, triangle = kept
    out = package.flash_attn_varlen_func(
        sides[0][queries], sides[1][keys], sides[2][keys],
        bounds(queries), bounds(keys), int(queries.sum(1).max()), int(keys.sum(1).max()),
        causal=triangle, **settings,
    )  # fmt: skip
    whole = out.new_zeros(sides[0].shape)
    whole[queries] = out
    return whole.transpose(1, 2)


def padding(
    mask: Bool[Tensor, "..."], rows: int, length: int, slots: int
) -> tuple[Bool[Tensor, "B L"], Bool[Tensor, "B S"], bool] | None:
    """Which queries and keys a mask keeps, and whether it is causal beside that; None if it is neither."""
    if mask.ndim != 4 or mask.shape[1] != 1:
        return None
    seen = mask[:, 0].expand(rows, -1, slots)
    if seen.shape[1] == 1:
        return seen.new_ones(rows, length), seen[:, 0], False
    keys = seen.any(1)
    places = torch.arange(slots, device=mask.device)
    triangle = places <= places[slots - length :, None]
    if not torch.equal(seen, triangle & keys[:, None]):
        return None
    return keys[:, slots - length :], keys, True


def bounds(kept: Bool[Tensor, "B N"]) -> Int[Tensor, "b"]:
    """Where each row begins among the kept, and where the last one ends."""
    return F.pad(kept.sum(1).cumsum(0), (1, 0)).int()


def check_flash(dtype: torch.dtype) -> None:
    """Whether FlashAttention can run here, in that type.

    Raises:
        MissingExtra: no package, or no GPU.
        ConfigError: another type than float16 and bfloat16.
    """
    import_flash()
    if not torch.cuda.is_available():
        raise MissingExtra(
            "attn_implementation 'flash_attention_2': needs an NVIDIA GPU, found none; use 'sdpa'"
        )
    if dtype not in HALVES:
        raise ConfigError(
            f"attn_implementation 'flash_attention_2' with dtype {dtype}: FlashAttention computes in float16 "
            "and bfloat16; load with dtype=torch.bfloat16, or use 'sdpa'"
        )


def import_flash() -> ModuleType:
    """The flash_attn module, or an error that says what to install."""
    try:
        import flash_attn
    except ImportError as error:
        raise MissingExtra(
            "attn_implementation='flash_attention_2': the package flash-attn is not installed; "
            "pip install flash-attn --no-build-isolation (needs an NVIDIA GPU), or use 'sdpa'"
        ) from error
    return flash_attn
