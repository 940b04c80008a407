"""Keys and values kept between steps: preallocated, one length per row, rows left-aligned, so that a row of a
batch sees exactly what it would see alone. The documented `past_key_values` is `growing.GrowingCache`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from watchword.generation.growing import GrowingCache
from watchword.generation.storage import Pair, each, put, resized, room, spread
from watchword.nn.attention import Attended, CacheSpec, attention
from watchword.shapes import Bool, Float, Int, Tensor

STEP = 256
"""Slots by which a full cache grows, at least."""

PLACES = 4
"""Rows by which a full cache grows when others join."""

WASTE = 2**18
"""Numbers per row and layer that a step may read in vain before its rows attend one by one."""


class KVCache:
    """Keys and values of `rows` rows; slots 0 to length - 1 of a row are filled, the rest is never seen.

    Storage of a layer is made at its first use, on the device of its keys. A call to `attend` with L columns
    writes them behind the length of each row and does not move the lengths; `advance` does, once, after the
    last layer. Columns that `advance` does not count (right padding) are overwritten by the next call.

    Rows join with `append_rows` and leave with `remove`; storage may then hold more places than rows, and
    what an unused slot holds is always finite, so that a masked slot adds nothing.

    Args:
        spec: what the decoder wants remembered.
        rows: rows of the batch.
        capacity: slots per row to begin with; more are added when needed.
        dtype: type of the stored keys and values.
        device: where the lengths live.
    """

    def __init__(
        self,
        spec: CacheSpec,
        rows: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.spec = spec
        self.capacity = capacity
        self.dtype = dtype
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)
        self.places = rows
        self._memory_lengths: Int[Tensor, "B"] | None = None
        self._memory_shortest, self._memory_longest = 0, 0
        self._layers = [KVLayer(self) for _ in range(spec.layers)]
        self._forked_at = 0
        self._host = [0] * rows  # known here, so that no step waits for the device
        self._longest, self._even = 0, True
        self._masks: dict[object, Tensor | None] = {}  # of this step, as the next
        self._slots: dict[object, tuple[Tensor, Tensor]] = {}
        self._memory_masks: dict[object, Tensor] = {}

    def layer(self, index: int) -> "KVLayer":
        """The part that belongs to layer `index`."""
        return self._layers[index]

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        return len(self.lengths)

    @property
    def longest(self) -> int:
        """No row is longer than this."""
        return self._longest

    @property
    def memory_lengths(self) -> Int[Tensor, "B"] | None:
        """Encoder states of each row; None when all that are stored count."""
        return self._memory_lengths

    @memory_lengths.setter
    def memory_lengths(self, lengths: Int[Tensor, "B"] | None) -> None:
        self._memory_lengths = lengths
        self._memory_masks.clear()
        if lengths is not None and len(lengths):
            self._memory_shortest, self._memory_longest = (int(x) for x in torch.aminmax(lengths))

    @property
    def nbytes(self) -> int:
        """Bytes of the storage, filled or not."""
        pairs = [pair for layer in self._layers for pair in (layer.own, layer.memory) if pair is not None]
        return sum(side.nbytes for pair in pairs for side in pair)

    def span(self, length: int, device: torch.device) -> tuple[Int[Tensor, "b L"], int]:
        """Places of the next `length` tokens of each row, and how many slots they will face."""
        places = torch.arange(length, device=device)
        if self._even:
            return (self._longest + places)[None], self._longest + length
        return self.lengths.to(device)[:, None] + places, self._longest + length

    def advance(self, counts: Int[Tensor, "B"] | int) -> None:
        """Count what the last call wrote: so many tokens for each row, or for all rows alike."""
        self.lengths = self.lengths + counts
        self._forget()
        if isinstance(counts, int):
            self._longest += counts
            self._host = [length + counts for length in self._host]
        else:
            self._measure()

    def ensure(self, capacity: int) -> None:
        """Have room for `capacity` slots per row, growing by `STEP` or more when there is not."""
        if capacity > self.capacity:
            self.capacity = max(capacity, self.capacity + STEP)

    def fork(self, n: int) -> None:
        """Each row becomes `n` neighbouring rows: beams or samples that share what was written so far."""
        self._forked_at = int(self.lengths.min())
        self._take(torch.arange(self.rows, device=self.lengths.device).repeat_interleave(n))

    def reorder(self, rows: Int[Tensor, "B"], *, within_forks: bool = False) -> None:
        """Row b becomes what row `rows[b]` was.

        With `within_forks` the caller promises that rows go only to rows forked from the same one: what was
        written before the fork is then equal and stays where it is.
        """
        if not within_forks:
            self._take(rows)
            return
        for layer in self._layers:
            layer.shuffle(rows, self._forked_at, self._longest)
        self.lengths = self.lengths[rows]
        self._forget()

    def exchange(self, into: Sequence[int], source: Sequence[int], start: int) -> None:
        """Rows `into` become what rows `source` were: equally long ones, the same before slot `start`."""
        to, come = (torch.tensor(rows, device=self.lengths.device) for rows in (into, source))
        for layer in self._layers:
            layer.exchange(to, come, start, self._longest)

    def drop(self, rows: Iterable[int]) -> None:
        """These rows leave; the others close up."""
        gone = set(rows)
        kept = [row for row in range(self.rows) if row not in gone]
        self._take(torch.tensor(kept, dtype=torch.long, device=self.lengths.device))

    def remove(self, rows: Iterable[int]) -> list[int]:
        """These rows leave, and the last ones take their places, which moves less than closing up.

        Returns:
            For each row that is now, which row it was.
        """
        gone = set(rows)
        left = self.rows - len(gone)
        order = list(range(left))
        free = [row for row in range(left) if row in gone]
        come = [row for row in range(left, self.rows) if row not in gone]
        for row, source in zip(free, come):
            order[row] = source
        places, sources = (
            torch.tensor(one, dtype=torch.long, device=self.lengths.device) for one in (free, come)
        )
        for layer in self._layers if free else ():
            layer.move(places, sources)
        index = torch.tensor(order, dtype=torch.long, device=self.lengths.device)
        self._relabel(index)
        self._tighten()
        return order

    def append_rows(self, other: "KVCache") -> None:
        """The rows of another cache join behind those that are here; the other cache stays as it is."""
        at = self.rows
        if at + other.rows > self.places:
            self.places = -(-(at + other.rows) // PLACES) * PLACES
        if other.longest > self.capacity:
            self.capacity = other.longest
        for layer, new in zip(self._layers, other._layers):
            layer.append(new, at)
        self.lengths = torch.cat([self.lengths, other.lengths])
        if other.memory_lengths is not None:
            mine = self.memory_lengths
            self.memory_lengths = torch.cat([*([] if mine is None else [mine]), other.memory_lengths])
        self._measure()

    def picked(self, rows: Sequence[int]) -> "KVCache":
        """A cache of its own with these rows, copied."""
        index = torch.tensor(rows, dtype=torch.long, device=self.lengths.device)
        cache = KVCache(self.spec, 0, self.capacity, self.dtype, self.lengths.device)
        for new, layer in zip(cache._layers, self._layers):
            new.own, new.memory = layer.own, layer.memory
        cache.lengths, cache.memory_lengths = self.lengths, self.memory_lengths
        cache._take(index)
        return cache

    def read(self, row: int, start: int, end: int) -> Float[Tensor, "layers 2 g n d"]:
        """A copy of keys and values of slots `start` to `end` - 1 of a row."""
        pairs = [layer.own for layer in self._layers if layer.own is not None]
        return torch.stack([torch.stack([side[row, :, start:end] for side in pair]) for pair in pairs])

    def fill(self, blocks: Sequence[Float[Tensor, "layers 2 g n d"]]) -> None:
        """Put what `read` gave, one behind the other, at the beginning of the only row, which is empty."""
        length = sum(block.shape[3] for block in blocks)
        self.ensure(length)
        for index, layer in enumerate(self._layers):
            layer.fill([block[index] for block in blocks])
        self.advance(length)

    def spread(
        self, mask: Bool[Tensor, "B S"] | None, memory_mask: Bool[Tensor, "B M"] | None = None
    ) -> "GrowingCache":
        """The documented form: what a row stores, in order, where its mask is True; zeros elsewhere."""
        cache = GrowingCache(self.spec.layers)
        for index, layer in enumerate(self._layers):
            if layer.own is not None:
                keys, values = (side[: self.rows, :, : self._longest] for side in layer.own)
                cache.own[index] = spread(keys, mask), spread(values, mask)
            if layer.memory is not None:
                keys, values = layer.memory
                cache.memory[index] = spread(keys, memory_mask), spread(values, memory_mask)
        return cache

    def _take(self, rows: Int[Tensor, "N"]) -> None:
        for layer in self._layers:
            layer.take(rows)
        self.places = len(rows)
        self._relabel(rows)

    def _relabel(self, rows: Int[Tensor, "N"]) -> None:
        self.lengths = self.lengths[rows]
        if self.memory_lengths is not None:
            self.memory_lengths = self.memory_lengths[rows.to(self.memory_lengths.device)]
        self._measure()

    def _tighten(self) -> None:
        """Give storage back when less than half of it is needed."""
        places = -(-self.rows // PLACES) * PLACES
        capacity = self.longest + STEP if self.rows else 0
        if self.rows and 2 * places * capacity > self.places * self.capacity:
            return
        self.places, self.capacity = places, min(capacity, self.capacity)
        for layer in self._layers:
            layer.tighten()

    def _measure(self) -> None:
        self._forget()
        self._host = self.lengths.tolist()
        self._longest, self._even = max(self._host, default=0), len(set(self._host)) <= 1

    def _forget(self) -> None:
        """What was worked out for the lengths as they were."""
        self._masks.clear()
        self._slots.clear()

    def apart(self, length: int) -> list[int] | None:
        """How many slots each row faces, if its neighbours are so much longer that rows should attend one by
        one in the next call of `length` tokens."""
        if length > 1 or self._even:
            return None
        wasted = (self.rows * self._longest - sum(self._host)) * 2 * self.spec.heads * self.spec.head_dim
        return [past + 1 for past in self._host] if wasted > WASTE * self.rows else None

    def scattered(self, length: int, device: torch.device) -> tuple[Tensor, Tensor] | None:
        """Rows and slots of the next `length` tokens; None when the slots are the same in all rows."""
        if self._even:
            return None
        key = (length, device)
        if key not in self._slots:
            row = torch.arange(self.rows, device=device)[:, None]
            self._slots[key] = row, self.span(length, device)[0]
        return self._slots[key]

    def mask(self, length: int, window: int | None, device: torch.device) -> Bool[Tensor, "b 1 L S"] | None:
        """Which slots the next `length` tokens may see; None when a causal triangle says it all."""
        slots = self._longest + length
        if self._even and (window is None or slots <= window):
            return None
        key = (length, window, device)
        if key not in self._masks:
            place = self.span(length, device)[0][:, None, :, None]
            slot = torch.arange(slots, device=device)
            seen = slot <= place
            self._masks[key] = seen if window is None else seen & (slot > place - window)
        return self._masks[key]

    def memory_mask(self, length: int, device: torch.device) -> Bool[Tensor, "B 1 1 M"] | None:
        """Which of `length` encoder states each row may see; None when all."""
        if self.memory_lengths is None or self._memory_shortest >= length:
            return None
        key = (length, device)
        if key not in self._memory_masks:
            lengths = self.memory_lengths.to(device)[:, None, None, None]
            self._memory_masks[key] = torch.arange(length, device=device) < lengths
        return self._memory_masks[key]

    def memory_span(self, stored: int) -> int:
        """How many of the `stored` encoder states some row may see."""
        return stored if self.memory_lengths is None else min(stored, self._memory_longest)


class KVLayer:
    """One layer of a `KVCache`: storage for `cache.places` rows, the first `cache.rows` in use."""

    def __init__(self, cache: KVCache) -> None:
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
        """Write `k`, `v` behind each row's length and attend to all slots up to each query's own."""
        length = k.shape[2]
        keys, values = (side.to(q.dtype) for side in self._write(k, v))
        slots = None if want_weights else self.cache.apart(length)
        if slots is not None:
            return _apart(q, keys, values, slots, window, bias, scale=scale, dropout=dropout, backend=backend)
        mask = self.cache.mask(length, window, q.device)
        return attention(
            q,
            keys,
            values,
            mask=mask,
            causal=mask is None,
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
        """Attend to the encoder's states, whose keys and values are computed at the first call."""
        if self.memory is None:
            self.memory = keys()
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

    def _write(self, k: Tensor, v: Tensor) -> Pair:
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
        return self.own[0][:rows, :, :end], self.own[1][:rows, :, :end]

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


def _apart(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slots: list[int],
    window: int | None,
    bias: Tensor | None,
    **settings: Any,
) -> Attended:
    """One query per row, each attending to its own slots alone."""
    outs = []
    for row, end in enumerate(slots):
        seen = slice(0 if window is None else max(0, end - window), end)
        own = None if bias is None else bias[row if len(bias) > 1 else 0, None, :, :, seen]
        one = (q[row, None], k[row, None, :, seen], v[row, None, :, seen])
        outs.append(attention(*one, causal=True, bias=own, **settings)[0])
    return torch.cat(outs), None
