"""Rectangles of keys and values (rows, heads, slots, width), and how caches make, fill and move them."""

import math
import mmap
from collections.abc import Callable

import numpy as np
import torch

from watchword.shapes import Bool, Float, Tensor

Pair = tuple[Tensor, Tensor]
"""Keys and values, B g S d."""

LARGE = 2**22
"""Bytes from which memory comes in pages of its own."""


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros; on the CPU in memory that takes neither place nor time before it is written to, so that one long
    row among short ones costs them little."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    size = math.prod(shape) * dtype.itemsize
    if size >= LARGE and hasattr(mmap, "MAP_ANONYMOUS"):
        # numpy asks for huge pages here, of which a short row touches all
        raw = np.frombuffer(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), dtype=np.uint8)
    else:
        raw = np.zeros(size, dtype=np.uint8)
    return torch.from_numpy(raw).view(dtype).view(shape)


def each(pair: Pair, change: Callable[[Tensor], Tensor]) -> Pair:
    """The same for keys and values."""
    return change(pair[0]), change(pair[1])


def room(pair: Pair | None, like: Pair, places: int, capacity: int, length: int, dtype: torch.dtype) -> Pair:
    """Storage of so many rows and slots, with the first `length` slots of what was stored so far."""
    if pair is not None:
        if pair[0].shape[0] >= places and pair[0].shape[2] >= capacity:
            return pair
        return resized(pair, places, capacity, length)
    # zeros, for a masked slot still enters the weighted sum, as 0 · value
    shape = places, like[0].shape[1], capacity, like[0].shape[3]
    return each(like, lambda side: zeros(shape, dtype, side.device))


def resized(pair: Pair, places: int, capacity: int, length: int) -> Pair:
    """New storage with the first `length` slots of the old one, zeros behind them."""
    rows = min(places, pair[0].shape[0])

    def copy(side: Tensor) -> Tensor:
        wide = zeros((places, side.shape[1], capacity, side.shape[3]), side.dtype, side.device)
        wide[:rows, :, :length] = side[:rows, :, :length]
        return wide

    return each(pair, copy)


def put(pair: Pair, new: Pair, at: int, rows: int, length: int) -> None:
    """Write rows `at` and following, and zeros behind their `length`, whatever was there before."""
    for side, one in zip(pair, new):
        side[at : at + rows, :, :length] = one[:rows, :, :length]
        side[at : at + rows, :, length:] = 0


def spread(x: Float[Tensor, "B g S d"], mask: Bool[Tensor, "B N"] | None) -> Float[Tensor, "B g N d"]:
    """Slots in order where the mask is True, zeros elsewhere."""
    if mask is None:
        return x.clone()
    mask = mask.to(x.device)
    place = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
    moved = x.gather(2, place[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
    return moved.masked_fill(~mask[:, None, :, None], 0)
