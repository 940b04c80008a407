"""Which prompts begin alike: book-keeping of blocks by hash, without tensors.

A position is named by a key: a token id, or which token of which medium it is. Positions come in blocks; the
hash of a block stands for its keys and for everything before them, and for the scope: so equal hashes mean
equal keys and values, and nobody finds what was kept under another scope.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Key = int | tuple[bytes, int]
"""A token id; or a digest of the medium (and of what reads it), and which of its tokens."""

BLOCK = 16
"""Positions per block. What the last block shares only in part is run again, at most this many positions less
one; whether larger blocks cost anything was not settled by measurement (benchmarks/reuse.md)."""


class Chain:
    """Hashes of the full blocks of a sequence of keys that grows at its end.

    Args:
        scope: hashes of different scopes never meet.
        keys: the first keys.
        block: positions per block.
    """

    def __init__(self, scope: str, keys: Iterable[Key] = (), *, block: int = BLOCK) -> None:
        self.hashes: list[bytes] = []
        self.block = block
        self._last = hashlib.sha256(scope.encode()).digest()
        self._open: list[bytes] = []
        self.grow(keys)

    def grow(self, keys: Iterable[Key]) -> None:
        """These keys follow."""
        for key in keys:
            self._open.append(written(key))
            if len(self._open) == self.block:
                self._last = hashlib.sha256(self._last + b"".join(self._open)).digest()
                self.hashes.append(self._last)
                self._open.clear()

    def before(self, length: int) -> list[bytes]:
        """Blocks that end before the last of `length` positions, which must be run for its scores."""
        return self.hashes[: max(length - 1, 0) // self.block]


def written(key: Key) -> bytes:
    """A key as bytes, no one the beginning of another."""
    if isinstance(key, tuple):
        digest, offset = key
        return b"m" + len(digest).to_bytes(2, "big") + digest + offset.to_bytes(8, "big")
    return b"t" + int(key).to_bytes(8, "big", signed=True)


def longest(names: Sequence[Any], has: Callable[[Any], bool]) -> int:
    """How many of the first blocks there are without a gap."""
    for count, one in enumerate(names):
        if not has(one):
            return count
    return len(names)
