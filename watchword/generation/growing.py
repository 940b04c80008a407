"""The documented `past_key_values`: it appends what it is given, and the mask comes with every call."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from watchword.errors import RequestError
from watchword.generation.storage import Pair
from watchword.nn.attention import Attended, Uncached
from watchword.shapes import Bool, Int, Tensor


class GrowingCache:
    """The documented `past_key_values`: `cache[i]` is the pair (keys, values) of layer i, B g S d.

    Iterating gives one tuple per layer, with the two cross-attention tensors behind the two own ones for an
    encoder-decoder model: the form in which older code passes it around, and which `from_legacy_cache` reads.
    """

    def __init__(self, layers: int) -> None:
        self.own: list[Pair | None] = [None] * layers
        self.memory: list[Pair | None] = [None] * layers

    @classmethod
    def from_legacy_cache(cls, past: Iterable[tuple[Tensor, ...]]) -> "GrowingCache":
        """From one tuple per layer: keys and values, or those and the keys and values of cross attention."""
        past = [tuple(layer) for layer in past]
        if bad := [len(layer) for layer in past if len(layer) not in (2, 4)]:
            raise RequestError(
                f"past_key_values: a layer with {bad[0]} tensors; each must have 2 "
                "(keys, values), or 4 with those of cross attention"
            )
        cache = cls(len(past))
        cache.own = [(layer[0], layer[1]) for layer in past]
        cache.memory = [(layer[2], layer[3]) if len(layer) == 4 else None for layer in past]
        return cache

    def to_legacy_cache(self) -> tuple[tuple[Tensor, ...], ...]:
        """One tuple of tensors per layer."""
        return tuple(self)

    def __len__(self) -> int:
        return len(self.own)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return (self.own[index] or ()) + (self.memory[index] or ())

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return (self[index] for index in range(len(self)))

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens stored so far."""
        pair = self.own[layer_idx] if self.own else None
        return 0 if pair is None else pair[0].shape[2]

    def reorder_cache(self, beam_idx: Int[Tensor, "B"]) -> None:
        """Row b becomes what row `beam_idx[b]` was."""

        def taken(side: Tensor) -> Tensor:
            return side[beam_idx.to(side.device)]

        for sides in (self.own, self.memory):
            sides[:] = [pair and (taken(pair[0]), taken(pair[1])) for pair in sides]

    def facing(
        self, mask: Bool[Tensor, "B S"] | None = None, memory_mask: Bool[Tensor, "B M"] | None = None
    ) -> "Facing":
        """This cache for one call: `mask` says which of the stored and new tokens may be seen, None all."""
        return Facing(self, Uncached(mask, memory_mask))


class Facing:
    """A `GrowingCache` with the masks of one call."""

    def __init__(self, store: GrowingCache, view: Uncached, index: int = 0) -> None:
        self.store = store
        self.view = view
        self.index = index

    def layer(self, index: int) -> "Facing":
        """The part that belongs to layer `index`."""
        return Facing(self.store, self.view, index)

    def span(self, length: int, device: torch.device) -> tuple[Int[Tensor, "b L"], int]:
        """Places of the next `length` tokens, and how many keys they will face."""
        past = self.store.get_seq_length()
        return torch.arange(past, past + length, device=device)[None], past + length

    def attend(self, q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Attended:
        """Append `k`, `v` to what is stored and attend to all of it; settings as in `LayerCache.attend`."""
        past = self.store.own[self.index]
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        self.store.own[self.index] = (k, v)
        return self.view.attend(q, k, v, **settings)

    def cross(self, q: Tensor, keys: Callable[[], tuple[Tensor, Tensor]], **settings: Any) -> Attended:
        """Attend to the encoder's states, whose keys and values are computed at the first call."""
        pair = self.store.memory[self.index]
        if pair is None:
            pair = self.store.memory[self.index] = keys()
        return self.view.cross(q, lambda: pair, **settings)
