"""Keys and values kept between steps: preallocated, one length per row, rows left-aligned, so that a row of a
batch sees exactly what it would see alone. The documented `past_key_values` is `growing.GrowingCache`.
"""

from collections.abc import Iterable, Sequence

import torch

from watchword.generation.growing import GrowingCache
from watchword.generation.kv_layer import KVLayer
from watchword.generation.rows import PLACES, STEP, Rows, headroom
from watchword.generation.storage import spread
from watchword.nn.attention import CacheSpec
from watchword.shapes import Bool, Float, Int, Tensor

__all__ = ["PLACES", "STEP", "GrowingCache", "KVCache", "headroom"]


class KVCache(Rows):
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
        super().__init__(spec, rows, capacity, dtype, device)
        self._layers = [KVLayer(self) for _ in range(spec.layers)]
        self._forked_at = 0

    def layer(self, index: int) -> "KVLayer":
        """The part that belongs to layer `index`."""
        return self._layers[index]

    @property
    def nbytes(self) -> int:
        """Bytes of the storage, filled or not."""
        pairs = [pair for layer in self._layers for pair in (layer.own, layer.memory) if pair is not None]
        return sum(side.nbytes for pair in pairs for side in pair)

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

    def give_up(self, spans: Sequence[tuple[int, int]]) -> list[Float[Tensor, "layers 2 g n d"]]:
        """What `read` gives for these slots of the only row, which ends with it.

        A layer's storage goes as soon as it is copied, so that memory never holds all of it twice.
        """
        made: list[Tensor] = []
        for index, layer in enumerate(self._layers):
            assert layer.own is not None
            for place, (start, end) in enumerate(spans):
                part = torch.stack([side[0, :, start:end] for side in layer.own])
                if index == 0:
                    made.append(part.new_empty(len(self._layers), *part.shape))
                made[place][index] = part
            layer.own = None
        return made

    def read_memory(self, row: int) -> Float[Tensor, "layers 2 g m d"]:
        """A copy of a row's keys and values of the encoder's states."""
        assert self.memory_lengths is not None
        seen = int(self.memory_lengths[row])
        pairs = [layer.memory for layer in self._layers if layer.memory is not None]
        return torch.stack([torch.stack([side[row, :, :seen] for side in pair]) for pair in pairs])

    def fill(
        self,
        blocks: Sequence[Float[Tensor, "layers 2 g n d"]],
        memory: Float[Tensor, "layers 2 g m d"] | None = None,
    ) -> None:
        """Put what `read` gave, one behind the other, at the beginning of the only row, which is empty; and
        what `read_memory` gave."""
        length = sum(block.shape[3] for block in blocks)
        self.ensure(length)
        for index, layer in enumerate(self._layers):
            layer.fill([block[index] for block in blocks])
            if memory is not None:
                layer.memory = memory[index, 0, None].clone(), memory[index, 1, None].clone()
        if memory is not None:
            self.memory_lengths = torch.tensor([memory.shape[3]], device=self.lengths.device)
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

    def _tighten(self) -> None:
        """Give storage back when less than half of it is needed."""
        places = -(-self.rows // PLACES) * PLACES
        capacity = self.longest + headroom(self.longest) if self.rows else 0
        if self.rows and 2 * places * capacity > self.places * self.capacity:
            return
        self.places, self.capacity = places, min(capacity, self.capacity)
        for layer in self._layers:
            layer.tighten()
