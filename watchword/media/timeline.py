"""What is known of a clip's time: how many frames, when each is shown, where the picture cuts."""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

from watchword.errors import MediaError, RequestError

__all__ = ["THUMB", "Timeline", "check_count", "check_step", "check_window", "seconds_of"]

# A cut changes the picture by this much of the full range, and by this much more than is usual around it.
CUT, CUT_RATIO, AROUND = 0.06, 4.0, 12
THUMB = 32  # pixels of the square in which changes are measured


MOST = 100_000
"""Stretches of one clip: times in a file say how many there are, and may be anything."""

LEAST = 1e-6
"""Seconds of a step: nothing is shown as briefly."""


@dataclass(frozen=True)
class Timeline:
    """What a choice may know of a clip.

    Attributes:
        total: how many frames it has.
        fps: frames a second on average; None without a clock (arrays, folders).
        times: seconds after the first frame at which each is shown, ascending; by `fps` when empty.
        end: seconds at which the last frame goes; by the rate when None.
        changes: how much each frame differs from the one before, 0-1; empty unless a choice looks.
        name: the clip, for messages.
    """

    total: int
    fps: int | float | None = None
    times: Sequence[float] = ()
    end: float | None = None
    changes: Sequence[float] = ()
    name: str = "clip"

    def time(self, index: int) -> float:
        """Seconds after the first frame at which this frame is shown."""
        if self.times:
            return self.times[index]
        if not self.fps:
            raise MediaError(
                f"{self.name}: frames without times, so none can be chosen by time; choose by number"
            )
        return index / self.fps

    def length(self) -> float:
        """Seconds from the first frame to the end of the last."""
        last = self.time(self.total - 1) if self.total else 0.0
        if self.end is not None:
            return max(self.end, last)
        return last + (1 / self.fps if self.fps else 0.0)

    def shown_at(self, time: float) -> int:
        """The frame on screen at this time: the last that begins at or before it."""
        end = self.length()
        if not 0 <= time < end:
            last = self.time(self.total - 1) if self.total else 0.0
            raise MediaError(
                f"{self.name}: no frame at {_told(time)} s, the clip ends at {_told(end)} s; "
                f"ask for times up to {_told(last)}"
            )
        return max(0, self._first_from(time + 1e-6) - 1)  # times are rounded: 2/24 s asked for is frame 2

    def window(self, start: float | None, end: float | None) -> tuple[float, float]:
        """A part of the clip as seconds, None being the clip's own start and end."""
        length = self.length()
        begin = 0.0 if start is None else start
        if begin >= length:
            raise MediaError(
                f"{self.name}: a part from {_told(begin)} s, but the clip ends at {_told(length)} s; "
                "begin earlier"
            )
        if end is None:
            return begin, length
        if end > length + (length / self.total if self.total else 0):  # one frame's time is rounding
            raise MediaError(
                f"{self.name}: a part up to {_told(end)} s, but the clip ends at {_told(length)} s; "
                "end earlier, or leave the end out"
            )
        return begin, min(end, length)

    def within(self, start: float, end: float) -> range:
        """The frames that begin in [start, end); if there is none, the one on screen at the start."""
        first, stop = self._first_from(start - 1e-6), self._first_from(end - 1e-6)
        if first < stop:
            return range(first, stop)
        shown = self.shown_at(start)
        return range(shown, shown + 1)

    def cuts(self) -> list[int]:
        """Frames before which the picture cuts: it changes a lot, and much more than around it."""
        found = []
        for index in range(1, len(self.changes)):
            near = [
                self.changes[i]
                for i in range(max(1, index - AROUND), min(len(self.changes), index + AROUND + 1))
                if i != index
            ]
            usual = sorted(near)[len(near) // 2] if near else 0.0
            if self.changes[index] > max(CUT, CUT_RATIO * usual):
                found.append(index)
        return found

    def _first_from(self, time: float) -> int:
        """The first frame that begins at or after this time."""
        if self.times:
            return bisect.bisect_left(self.times, time)
        self.time(0)  # says so when there is no clock
        return min(self.total, max(0, math.ceil(round(time * (self.fps or 0), 9))))


def seconds_of(name: str, value: object) -> float:
    """A time in seconds as a caller gives it: a finite number from 0 up."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise RequestError(f"{name}: {value!r} is no time; give seconds, such as 3.5")
    if value < 0:
        raise RequestError(f"{name}: {value!r} s is before the clip; times count from 0, its first frame")
    return float(value)


def check_window(name: str, start: object, end: object) -> None:
    """Refuse a part that ends before it begins."""
    begin = 0.0 if start is None else seconds_of(name, start)
    if end is not None and seconds_of(name, end) <= begin:
        raise RequestError(f"{name}: from {begin:g} s to {end:g} s; let the part end after it begins")


def check_count(name: str, count: object) -> None:
    """Refuse a number of frames that is none."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise RequestError(f"{name}: {count!r} frames asked for; ask for a whole number from 1 up")


def check_step(name: str, seconds: object) -> None:
    """Refuse steps that lead nowhere."""
    if not seconds_of(name, seconds) > 0:
        raise RequestError(f"{name}: one frame or part each {seconds!r} s; give seconds above 0")
    if seconds_of(name, seconds) < LEAST:
        raise RequestError(f"{name}: one frame or part each {seconds!r} s; give at least {LEAST} s")


def stretches(length: float, seconds: float) -> int:
    """How many stretches of so many seconds there are, at least one.

    Raises:
        RequestError: too many to count out.
    """
    count = length / seconds
    if count > MOST:
        raise RequestError(
            f"segments: {seconds} s of {length:.6g} s are {count:.6g} stretches; expected at most {MOST:,}; "
            "choose longer ones, or a part of the clip"
        )
    return max(1, math.ceil(round(count, 9)))


def _told(seconds: float) -> str:
    """Seconds for a message, cut to thousandths so that a time told is never beyond the one meant."""
    return f"{math.floor(seconds * 1000 + 1e-6) / 1000:g}"
