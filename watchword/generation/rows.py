"""How long each row of a cache is, what room there is, which slots a query may see. No keys, no values."""

import torch

from watchword.nn.attention import CacheSpec
from watchword.shapes import Bool, Int, Tensor

STEP = 256
"""Slots by which a full cache grows, at most: a step may multiply all of them, filled or not."""

PLACES = 4
"""Rows by which a full cache grows when others join."""

WASTE = 2**18
"""Numbers per row and layer that a step may read in vain before its rows attend one by one."""


class Rows:
    """The lengths of `rows` rows; slots 0 to length - 1 of a row are filled, the rest is never seen.

    The lengths are kept on the host as well, so that no step waits for the device; what follows from them is
    worked out once per step, not once per layer.

    Args:
        spec: what the decoder wants remembered.
        rows: rows of the batch.
        capacity: slots per row to begin with; more are added when needed.
        dtype: type of the stored keys and values.
        device: where the lengths live.
    """

    def __init__(
        self, spec: CacheSpec, rows: int, capacity: int, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self.spec = spec
        self.capacity = capacity
        self.dtype = dtype
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)
        self.places = rows
        self._memory_lengths: Int[Tensor, "B"] | None = None
        self._memory_shortest, self._memory_longest = 0, 0
        self._host = [0] * rows  # known here, so that no step waits for the device
        self._longest, self._even = 0, True
        self._masks: dict[object, Tensor] = {}  # of this step, as the next
        self._slots: dict[object, tuple[Tensor, Tensor]] = {}
        self._memory_masks: dict[object, Tensor] = {}

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
        """Have room for `capacity` slots per row, and some more if there was not."""
        if capacity > self.capacity:
            self.capacity = max(capacity, self.capacity + headroom(self.capacity))

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

    def mask(
        self, length: int, window: int | None, device: torch.device, slots: int | None = None
    ) -> Bool[Tensor, "b 1 L S"] | None:
        """Which of the first `slots` slots each of the next `length` queries may see; those that are filled
        when None is given. None when a causal triangle says it all."""
        end = self._longest + length
        slots = end if slots is None else slots
        if self._even and slots == end and (window is None or slots <= window):
            return None
        key = (length, window, device, slots)
        if key not in self._masks:
            place = self.span(length, device)[0][:, None, :, None]
            slot = torch.arange(slots, device=device)
            seen = slot <= place
            self._masks[key] = seen if window is None else seen & (slot > place - window)
        return self._masks[key]

    def row_mask(
        self, end: int, window: int | None, slots: int, device: torch.device
    ) -> Bool[Tensor, "1 1 1 S"]:
        """Which of `slots` slots the newest query of a row that is `end` long may see."""
        key = ("row", end, window, slots, device)
        if key not in self._masks:
            slot = torch.arange(slots, device=device)[None, None, None]
            self._masks[key] = (slot < end) & (slot >= (0 if window is None else end - window))
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

    def _relabel(self, rows: Int[Tensor, "N"]) -> None:
        self.lengths = self.lengths[rows]
        if self.memory_lengths is not None:
            self.memory_lengths = self.memory_lengths[rows.to(self.memory_lengths.device)]
        self._measure()

    def _measure(self) -> None:
        self._forget()
        self._host = self.lengths.tolist()
        self._longest, self._even = max(self._host, default=0), len(set(self._host)) <= 1

    def _forget(self) -> None:
        """What was worked out for the lengths as they were."""
        self._masks.clear()
        self._slots.clear()


def headroom(length: int) -> int:
    """Slots to add to a row of so many: an eighth, for a step multiplies them all, but 64 or more, for making
    them copies the row; `STEP` at most."""
    return min(STEP, max(64, length // 8))
