"""Which frames of a clip are looked at: pure arithmetic on counts, times and rates.

A choice is a small frozen value with one method, `choose(timeline)`. It is asked with what is known about a
clip before decoding, and it may be asked again: containers without a trustworthy frame count are counted by
decoding.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Protocol, SupportsIndex, runtime_checkable

from watchword.errors import RequestError
from watchword.media.timeline import Timeline, check_count, check_step, check_window, seconds_of, stretches

__all__ = [
    "At", "AtIndices", "Between", "Every", "Everything", "Pick", "Scenes", "Segments", "Timeline", "Uniform",
    "at", "at_indices", "between", "every", "everything", "scenes", "segments", "uniform",
]  # fmt: skip


@runtime_checkable
class Pick(Protocol):
    """A frame choice.

    Attributes:
        relative: the choice depends on how long the clip is, so a clip whose end is missing cannot be
            answered.
        timed: the choice asks for the times of frames, so every packet is read; True unless it says False.
        looks: the choice asks how much frames differ, so every frame is decoded; False unless it says True.
        asked: the number of frames asked for, or None when any number will do.
    """

    relative: ClassVar[bool]

    @property
    def asked(self) -> int | None:
        """The number of frames asked for, or None when any number will do."""

    def choose(self, timeline: Timeline) -> tuple[int, ...]:
        """Give the indices of the frames wanted, in the order wanted."""


@dataclass(frozen=True)
class Uniform:
    """`count` frames spread evenly; see `uniform`."""

    count: int
    centre: bool = False
    relative: ClassVar[bool] = True
    timed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_count("uniform", self.count)

    @property
    def asked(self) -> int | None:
        """The number of frames asked for."""
        return self.count

    def choose(self, timeline: Timeline) -> tuple[int, ...]:
        """Give `floor(arange(0, total, total / count))`, cut to `count`; a shorter clip gives all it has.

        Source: the documented example, `np.arange(0, total, total / count).astype(int)`. Its float steps give
            one index too many for some counts (7, 13, 14, ...), the last beyond the clip, hence the cut.
        """
        if timeline.total <= self.count:
            return tuple(range(timeline.total))
        if self.centre:
            return tuple((2 * i + 1) * timeline.total // (2 * self.count) for i in range(self.count))
        step = timeline.total / self.count
        length = math.ceil(timeline.total / step)
        return tuple(int(i * step) for i in range(min(length, self.count)))


@dataclass(frozen=True)
class AtIndices:
    """Exactly the frames named; see `at_indices`."""

    indices: tuple[int, ...]
    relative: ClassVar[bool] = False
    timed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.indices:
            raise RequestError("at_indices: no index was given; name at least one frame")
        for index in self.indices:
            if index < 0:
                raise RequestError(f"at_indices: index {index} is negative; frames count from 0")

    @property
    def asked(self) -> int | None:
        """The number of frames asked for."""
        return len(self.indices)

    def choose(self, timeline: Timeline) -> tuple[int, ...]:
        """Give the indices as they were named; whoever decodes says which of them the clip does not have."""
        return self.indices


@dataclass(frozen=True)
class Everything:
    """Every frame; memory grows with the clip."""

    relative: ClassVar[bool] = True
    timed: ClassVar[bool] = False

    @property
    def asked(self) -> int | None:
        """None: any number will do."""
        return None

    def choose(self, timeline: Timeline) -> tuple[int, ...]:
        """Give all indices."""
        return tuple(range(timeline.total))


@dataclass(frozen=True)
class At:
    """The frames shown at the times named; see `at`."""

    times: tuple[float, ...]
    relative: ClassVar[bool] = True  # whether a time lies inside is known only when the end is

    def __post_init__(self) -> None:
        if not self.times:
            raise RequestError("at: no time was given; name at least one, in seconds")
        for time in self.times:
            seconds_of("at", time)

    @property
    def asked(self) -> int | None:
        """The number of frames asked for."""
        return len(self.times)

    def choose(self, timeline: Timeline) -> tuple[int, ...]:
        """Give for each time the frame on screen then."""
        return tuple(timeline.shown_at(time) for time in self.times)


@dataclass(frozen=True)
class Every:
    """One frame each so many seconds; see `every`."""

    seconds: Any
    start: float | None = None
    end: float | None = None
    relative: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_step("every", self.seconds)
        check_window("every", self.start, self.end)

    @property
    def asked(self) -> int | None:
        """None: as many as fit."""
        return None

    def choose(self, timeline: Timeline) -> tuple[int, ...]:
        """Give the frames on screen at start, start + seconds, ...; one that stays on is given once."""
        first, end = timeline.window(self.start, self.end)
        steps = math.ceil(round((end - first) / self.seconds, 9))  # 1 / 0.1 has to be 10 steps, not 11
        if steps <= timeline.total:
            shown = [timeline.shown_at(first + step * self.seconds) for step in range(steps)]
        else:  # finer than the frames are: ask of each frame whether a step falls on it
            begin = timeline.shown_at(first)
            part = range(begin, timeline.within(first, end).stop)
            ends = [timeline.time(index) for index in part[1:]] + [end]
            shown = [i for i, stop in zip(part, ends, strict=True) if self._meets(timeline, i, stop, first)]
        return tuple(dict.fromkeys(shown))

    def _meets(self, timeline: Timeline, index: int, stop: float, first: float) -> bool:
        since = max(0.0, timeline.time(index) - first)
        step = first + math.ceil(round(since / self.seconds, 6)) * self.seconds
        return step < stop - 1e-6


@dataclass(frozen=True)
class Between:
    """`count` frames spread evenly over a part of the clip; see `between`."""

    start: float | None
    end: float | None
    count: int
    relative: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count("between", self.count)
        check_window("between", self.start, self.end)

    @property
    def asked(self) -> int | None:
        """The number of frames asked for."""
        return self.count

    def choose(self, timeline: Timeline) -> tuple[int, ...]:
        """Spread over the frames on screen in the part, by the rule of `uniform`."""
        part = timeline.within(*timeline.window(self.start, self.end))
        return tuple(part[i] for i in Uniform(self.count).choose(Timeline(len(part))))


@dataclass(frozen=True)
class Scenes:
    """The middle frame of each of `count` scenes; see `scenes`."""

    count: int
    start: float | None = None
    end: float | None = None
    relative: ClassVar[bool] = True
    looks: ClassVar[bool] = True  # needs `Timeline.changes`, for which every frame is decoded

    def __post_init__(self) -> None:
        check_count("scenes", self.count)
        check_window("scenes", self.start, self.end)

    @property
    def asked(self) -> int | None:
        """The number of frames asked for."""
        return self.count

    def choose(self, timeline: Timeline) -> tuple[int, ...]:
        """Cut at the strongest cuts; too few scenes are made more by halving the longest."""
        part, cuts = self.cuts(timeline)
        if len(part) <= self.count:
            return tuple(part)
        cuts.sort(key=lambda i: -timeline.changes[i])
        borders = sorted([part[0], *cuts[: self.count - 1], part[-1] + 1])
        while len(borders) <= self.count:
            length, left = max((right - left, left) for left, right in pairwise(borders))
            borders = sorted([*borders, left + length // 2])
        return tuple((left + right - 1) // 2 for left, right in pairwise(borders))

    def cuts(self, timeline: Timeline) -> tuple[range, list[int]]:
        """The part of the clip, and the frames in it before which the picture cuts."""
        part = range(timeline.total)  # where there is no clock, there can be cuts
        if (self.start, self.end) != (None, None):
            part = timeline.within(*timeline.window(self.start, self.end))
        return part, [i for i in timeline.cuts() if part[0] < i <= part[-1]] if part else []


@dataclass(frozen=True)
class Segments:
    """`count` frames of each stretch of so many seconds; see `segments`."""

    seconds: float
    count: int = 8
    start: float | None = None
    end: float | None = None
    relative: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_step("segments", self.seconds)
        check_count("segments", self.count)
        check_window("segments", self.start, self.end)

    @property
    def asked(self) -> int | None:
        """None: it depends on the length of the clip."""
        return None

    def spans(self, timeline: Timeline) -> tuple[tuple[float, float, tuple[int, ...]], ...]:
        """Give (start, end, indices) of each stretch, in seconds; one in which no frame begins has one frame.

        >>> segments(2, 2).spans(Timeline(10, fps=2))
        ((0.0, 2.0, (0, 2)), (2.0, 4.0, (4, 6)), (4.0, 5.0, (8, 9)))
        """
        begin, end = timeline.window(self.start, self.end)
        found = []
        for number in range(stretches(end - begin, self.seconds)):
            start, stop = begin + number * self.seconds, min(begin + (number + 1) * self.seconds, end)
            part = timeline.within(start, stop)
            indices = tuple(part[i] for i in Uniform(self.count).choose(Timeline(len(part))))
            found.append((float(start), float(stop), indices))
        return tuple(found)

    def choose(self, timeline: Timeline) -> tuple[int, ...]:
        """Give the frames of all stretches, so that one reading serves them all; see `Clip.split`."""
        return tuple(index for _, _, indices in self.spans(timeline) for index in indices)


def uniform(count: int, *, centre: bool = False) -> Uniform:
    """Choose `count` frames spread evenly over the clip.

    A clip with fewer frames gives all of them, and the result says so.

    Args:
        count: how many.
        centre: the middle of each of `count` equal parts instead of its first frame. The documented way,
            and what the checkpoints were trained on, begins with the first frame.

    >>> uniform(4).choose(Timeline(10))
    (0, 2, 5, 7)
    >>> uniform(4, centre=True).choose(Timeline(10))
    (1, 3, 6, 8)
    """
    return Uniform(count, centre)


def at_indices(indices: Iterable[SupportsIndex]) -> AtIndices:
    """Choose the frames with these numbers, counted from 0, in this order; repeats are kept.

    >>> at_indices([3, 0]).choose(Timeline(10))
    (3, 0)
    """
    return AtIndices(tuple(index.__index__() for index in indices))


def everything() -> Everything:
    """Choose every frame."""
    return Everything()


def at(times: Iterable[float]) -> At:
    """Choose the frames on screen at these times, in seconds after the first frame, in this order.

    >>> at([1.0, 0.3]).choose(Timeline(10, fps=4))
    (4, 1)
    """
    return At(tuple(times))


def every(seconds: Any, *, start: float | None = None, end: float | None = None) -> Every:
    """Choose one frame each so many seconds, from `start` on and before `end`; no frame twice.

    >>> every(1).choose(Timeline(10, fps=4))
    (0, 4, 8)
    """
    return Every(seconds, start, end)


def between(start: float | None, end: float | None, count: int) -> Between:
    """Choose `count` frames spread evenly from `start` on and before `end`; None is the clip's own.

    >>> between(1, 2, 2).choose(Timeline(10, fps=4))
    (4, 6)
    """
    return Between(start, end, count)


def scenes(count: int, *, start: float | None = None, end: float | None = None) -> Scenes:
    """Choose the middle frame of each of the `count` scenes between the strongest cuts.

    A clip with fewer has its longest scenes halved, and says so. Every frame is decoded to find the cuts.
    """
    return Scenes(count, start, end)


def segments(
    seconds: float, count: int = 8, *, start: float | None = None, end: float | None = None
) -> Segments:
    """Choose `count` frames of each stretch of so many seconds, of a film or of a part as for `between`."""
    return Segments(seconds, count, start, end)
