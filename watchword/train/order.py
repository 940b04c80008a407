"""Which examples each step sees: drawn from data sets by weight, batches of like length, all from the seed.

The whole order is made at the start, so a run that is resumed sees what it would have seen.
"""

import math
from collections.abc import Sequence

import numpy as np

from watchword.errors import RequestError

CAP = 1_000_000
"""A data set counts as at most so large."""
WINDOW = 32
"""Batches among which examples are sorted by length."""


def shares(sizes: Sequence[int], weights: Sequence[float] | None = None, cap: int = CAP) -> list[float]:
    """How often each data set is drawn from: by the root of its size, or as told.

    Source: Dai and others, InstructBLIP (2023), section 2.4.

    Raises:
        RequestError: weights that are not one for each, negative, or all 0.
    """
    if weights is None:
        found = [math.sqrt(min(size, cap)) for size in sizes]
    else:
        if len(weights) != len(sizes) or any(one < 0 for one in weights) or not sum(weights):
            raise RequestError(
                f"weights {list(weights)}: expected one number from 0 up for each of {len(sizes)} data sets"
            )
        found = list(weights)
    total = sum(found)
    return [one / total for one in found]


def order(
    groups: Sequence[Sequence[int]],
    parts: Sequence[float],
    lengths: Sequence[int],
    *,
    batch: int,
    steps: int,
    seed: int,
) -> np.ndarray:
    """The examples of each step: steps x batch numbers.

    Args:
        groups: the numbers of the examples of each data set.
        parts: the share of each.
        lengths: of every example. Batches are of like length, in an order that has nothing to do with it.
    """
    random = np.random.default_rng((seed, 1))
    total = steps * batch
    drawn = random.choice(len(groups), size=total, p=parts) if len(groups) > 1 else np.zeros(total, int)
    numbers = np.empty(total, int)
    for which, group in enumerate(groups):
        where = np.flatnonzero(drawn == which)
        passes = [random.permutation(group) for _ in range(-(-len(where) // len(group)) if len(where) else 0)]
        numbers[where] = np.concatenate([*passes, np.empty(0, int)])[: len(where)]
    size = np.asarray(lengths)
    found = []
    for first in range(0, total, WINDOW * batch):
        some = numbers[first : first + WINDOW * batch]
        some = some[np.argsort(size[some], kind="stable")].reshape(-1, batch)
        found.append(random.permutation(some))
    return np.concatenate(found)


def held_out(keys: Sequence[Sequence[object]], count: int, seed: int) -> set[int]:
    """Numbers of examples that are set aside, at least `count` if there are so many.

    Args:
        keys: what each example looks at. Examples that look at one thing go together, or what is set aside
            would have been seen.
    """
    together: dict[object, list[int]] = {}
    for number, own in enumerate(keys):
        together.setdefault(tuple(own) or ("alone", number), []).append(number)
    found: set[int] = set()
    groups = list(together.values())
    for index in np.random.default_rng((seed, 2)).permutation(len(groups)):
        if len(found) >= count:
            break
        found.update(groups[index])
    return found
