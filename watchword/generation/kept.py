"""What is kept between requests: one store, one budget in bytes, least recently used goes first."""

import hashlib
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from watchword.errors import RequestError
from watchword.nn.memory import give_back
from watchword.shapes import Tensor

Name = tuple[Any, ...]
"""The name of an entry; its first part says of which kind it is."""


@dataclass(frozen=True)
class Stats:
    """What a store holds and what it was good for.

    Args:
        budget: bytes it may hold.
        bytes: bytes it holds.
        entries: how many values.
        evicted: values that had to go.
        hits: values found, per kind.
        misses: values looked for in vain, per kind.
    """

    budget: int
    bytes: int
    entries: int
    evicted: int
    hits: Mapping[str, int]
    misses: Mapping[str, int]


class Kept:
    """Values by name, within a budget; safe to share between threads.

    Values are tensors, or tuples, lists and dicts of them. Nobody changes a value that was put here or came
    from here. A budget of 0 turns the store off: it takes nothing and finds nothing.

    Args:
        budget: bytes.
    """

    def __init__(self, budget: int) -> None:
        if budget < 0:
            raise RequestError(f"Kept: a budget of {budget} bytes; expected 0, which keeps nothing, or more")
        self.budget = budget
        self._lock = threading.RLock()  # garbage collection may cancel a request in the middle of this
        self._values: OrderedDict[Name, tuple[Any, int]] = OrderedDict()
        self._bytes, self._evicted = 0, 0
        self._hits: Counter[str] = Counter()
        self._misses: Counter[str] = Counter()

    def get(self, name: Name) -> Any | None:
        """The value, which counts as used now; None when it is not there."""
        with self._lock:
            found = self._values.get(name)
            (self._misses if found is None else self._hits)[str(name[0])] += 1
            if found is None:
                return None
            self._values.move_to_end(name)
            return found[0]

    def __contains__(self, name: Name) -> bool:
        with self._lock:
            return name in self._values

    def renew(self, name: Name) -> bool:
        """Count the value as used now, without looking at it; whether it is there."""
        with self._lock:
            if name in self._values:
                self._values.move_to_end(name)
                return True
            return False

    def put(self, name: Name, value: Any) -> bool:
        """Keep a value, letting go of those that were not used for longest; whether it fits at all."""
        size = nbytes(value)
        with self._lock:
            if size > self.budget or self.budget == 0:
                return False
            self._remove(name)
            entry = (
                value,
                size,
            )  # made first: garbage collection may come back here, but not between the two
            self._values[name] = entry
            self._bytes += size
            while self._bytes > self.budget and self._values:
                self._remove(next(iter(self._values)))
                self._evicted += 1
            return True

    def _remove(self, name: Name) -> None:
        gone = self._values.pop(name, None)
        if gone is not None:
            self._bytes -= gone[1]

    def stats(self) -> Stats:
        """Numbers so far."""
        with self._lock:
            return Stats(
                self.budget,
                self._bytes,
                len(self._values),
                self._evicted,
                dict(self._hits),
                dict(self._misses),
            )

    def clear(self) -> None:
        """Let go of everything, and give the memory back; the counts of hits and misses stay."""
        with self._lock:
            self._values.clear()
            self._bytes = 0
        give_back()


def nbytes(value: Any) -> int:
    """Bytes that a value holds on to: whole storages, each once."""
    storages = {}
    for tensor in _tensors(value):
        storage = tensor.untyped_storage()
        storages[tensor.device, storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _tensors(one)
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    else:
        raise RequestError(
            f"Kept: a value of type {type(value).__name__}; expected tensors, or tuples, lists or dicts of "
            "them"
        )


def imprint(module: nn.Module) -> str:
    """A name of the weights as they are now: another when one is replaced or changed in place.

    It is good within this process only, and looks at no values.
    """
    digest = hashlib.sha256()
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(f"{name} {id(tensor)} {tensor.data_ptr()} {tensor._version} {tensor.dtype}\n".encode())
    return digest.hexdigest()
