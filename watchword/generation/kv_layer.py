"""Keys and values of one layer: where they are written, and how they are attended to."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from watchword.generation.rows import Rows
from watchword.generation.storage import Pair, each, put, resized, room
from watchword.nn.attention import Attended, attention, in_blocks
from watchword.shapes import Float, Int, Tensor

FEW = 16
"""Queries that copying keys for would cost more than their products."""

COPYING = 3
"""Times that reading a key and value in place is cheaper than copying and then reading them."""


class KVLayer:
    """One layer of a cache: storage for `cache.places` rows, the first `cache.rows` in use."""

    def __init__(self, cache: Rows) -> None:
        self.cache = cache
        self.own: Pair | None = None
        self.memory: Pair | None = None

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
        """Write `k`, `v` behind each row's length and attend to all slots up to each query's own; queries may
        be those of the last positions only."""
        cache, length = self.cache, k.shape[2]
        self._write(k, v)
        how: dict[str, Any] = dict(scale=scale, dropout=dropout, backend=backend)
        few = q.shape[2] <= FEW and bias is None and not want_weights
        in_place = few and self.own is not None and in_blocks(backend, q, *self.own, causal=True)
        slots = None if want_weights else cache.apart(length)
        if slots is not None:
            return self._apart(q, slots, window, bias, in_place, **how)
        keys, values = self._read(slice(0, len(q)), slice(0, cache.longest + length), window, in_place)
        mask = cache.mask(length, window, q.device, keys.shape[2])
        mask = mask if mask is None else mask[:, :, -q.shape[2] :]
        return attention(
            q,
            keys.to(q.dtype),
            values.to(q.dtype),
            mask=mask,
            causal=mask is None,
            bias=bias,
            want_weights=want_weights,
            **how,
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
        """Attend to the encoder's states, whose keys and values are computed at the first call."""
        if self.memory is None:
            self.memory = each(keys(), Tensor.contiguous)  # read at every step, as it lies
        rows, length = len(q), self.cache.memory_span(self.memory[0].shape[2])
        k, v = (side[:rows, :, :length] for side in self.memory)
        return attention(
            q,
            k,
            v,
            mask=self.cache.memory_mask(length, k.device),
            scale=scale,
            dropout=dropout,
            backend=backend,
            want_weights=want_weights,
        )

    def _write(self, k: Tensor, v: Tensor) -> None:
        cache, (rows, _, length, _) = self.cache, k.shape
        end = cache.longest + length
        cache.ensure(end)
        self.own = room(self.own, (k, v), cache.places, cache.capacity, cache.longest, cache.dtype)
        where = cache.scattered(length, k.device)
        for store, new in zip(self.own, (k, v)):
            if where is None:
                store[:rows, :, cache.longest : end] = new.to(store.dtype)
            else:
                row, at = where
                store[row, :, at] = new.transpose(1, 2).to(store.dtype)  # B L g d

    def _read(self, rows: slice, seen: slice, window: int | None, in_place: bool) -> Pair:
        """Keys and values in those slots; or in all slots there are, where a product would copy a part of
        them, which takes longer than multiplying a few that a mask then hides."""
        assert self.own is not None
        near = seen.stop if window is None else min(seen.stop, window)
        if in_place and COPYING * near >= self.own[0].shape[2]:
            return self.own[0][rows], self.own[1][rows]
        return self.own[0][rows, :, seen], self.own[1][rows, :, seen]

    def _apart(
        self,
        q: Tensor,
        slots: list[int],
        window: int | None,
        bias: Tensor | None,
        in_place: bool,
        **how: Any,
    ) -> Attended:
        """One query per row, each attending to its own slots alone."""
        outs = []
        for row, end in enumerate(slots):
            seen = slice(0 if window is None else max(0, end - window), end)
            keys, values = self._read(slice(row, row + 1), seen, window, in_place)
            there = keys.shape[2]
            mask = None if there == end - seen.start else self.cache.row_mask(end, window, there, q.device)
            own = None if bias is None else bias[row if len(bias) > 1 else 0, None, :, :, seen]
            one = q[row, None], keys.to(q.dtype), values.to(q.dtype)
            outs.append(attention(*one, mask=mask, bias=own, **how)[0])
        return torch.cat(outs), None

    def take(self, rows: Int[Tensor, "N"]) -> None:
        """Keep these rows, in this order."""
        if self.own is not None:
            self.own = each(self.own, lambda side: side[rows.to(side.device)])
        if self.memory is not None:
            self.memory = each(self.memory, lambda side: side[rows.to(side.device)])

    def shuffle(self, rows: Int[Tensor, "B"], start: int, end: int) -> None:
        """Exchange slots `start` to `end` between rows."""
        for side in self.own or ():
            side[: len(rows), :, start:end] = side[rows.to(side.device), :, start:end]

    def exchange(self, into: Int[Tensor, "N"], source: Int[Tensor, "N"], start: int, end: int) -> None:
        """Slots `start` to `end` of rows `into` become those of rows `source`."""
        for side in self.own or ():
            side[into.to(side.device), :, start:end] = side[source.to(side.device), :, start:end]

    def move(self, into: Int[Tensor, "N"], source: Int[Tensor, "N"]) -> None:
        """Rows `into` become rows `source`, unused slots included: those stay finite so."""
        for side in (*(self.own or ()), *(self.memory or ())):
            side[into.to(side.device)] = side[source.to(side.device)]

    def append(self, other: "KVLayer", at: int) -> None:
        """The rows of another layer become rows `at` and following."""
        cache, new = self.cache, other.cache
        if other.own is not None:
            self.own = room(self.own, other.own, cache.places, cache.capacity, cache.longest, cache.dtype)
            put(self.own, other.own, at, new.rows, new.longest)
        if other.memory is not None:
            stored = new.memory_span(other.memory[0].shape[2])
            before = 0 if self.memory is None else self.memory[0].shape[2]
            self.memory = room(
                self.memory, other.memory, cache.places, max(stored, before), before, other.memory[0].dtype
            )
            put(self.memory, other.memory, at, new.rows, stored)

    def fill(self, blocks: Sequence[Float[Tensor, "2 g n d"]]) -> None:
        """Storage for the only row, with these blocks at its beginning."""
        left = self.cache.capacity - sum(block.shape[2] for block in blocks)
        _, heads, _, width = blocks[0].shape
        rest = blocks[0].new_zeros((heads, left, width))
        keys, values = (torch.cat([*(block[side] for block in blocks), rest], dim=1)[None] for side in (0, 1))
        self.own = keys, values

    def tighten(self) -> None:
        """Storage for as many places and slots as the cache has now."""
        cache = self.cache
        if not cache.rows:
            self.own = self.memory = None
            return
        if self.own is not None:
            self.own = resized(self.own, cache.places, cache.capacity, cache.longest)
        if self.memory is not None:
            length = cache.memory_span(self.memory[0].shape[2])
            self.memory = resized(self.memory, cache.places, length, length)
