"""Frame choices as they are typed: `--frames 8 --from 0:10 --to 1:30`, `--at 3.5s,9s`, `--every 2s`."""

import re

from watchword.errors import RequestError
from watchword.media.pick import Pick, at, between, every, scenes, segments, uniform

__all__ = ["from_flags", "parse_time"]

_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d*)?)", re.ASCII)
_PLAIN = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|m|min|h)?", re.ASCII)
_UNITS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def parse_time(text: str, flag: str = "time") -> float:
    """Read a time: seconds (`9`, `3.5s`, `500ms`, `2m`, `1h`) or a clock (`0:10`, `1:02:03.5`).

    Raises:
        RequestError: it is none of these.

    >>> parse_time("1:30"), parse_time("3.5s")
    (90.0, 3.5)
    """
    text = text.strip()
    clock = _CLOCK.fullmatch(text)
    if clock:
        hours, minutes, seconds = int(clock[1] or 0), int(clock[2]), float(clock[3])
        if seconds < 60 and (clock[1] is None or minutes < 60):
            return hours * 3600 + minutes * 60 + seconds
    plain = _PLAIN.fullmatch(text)
    if plain:
        return float(plain[1]) * _UNITS[plain[2]]
    raise RequestError(f"{flag}: {text!r} is no time; write 9, 3.5s, 0:10 or 1:02:03.5")


def from_flags(
    frames: int | None = None,
    *,
    start: str | None = None,
    end: str | None = None,
    at_times: str | None = None,
    every_time: str | None = None,
    by_scenes: bool = False,
    by_segments: str | None = None,
    default: int = 8,
) -> Pick | None:
    """Make a choice of what was typed; None when nothing was, so that the model's own number holds.

    Args:
        frames: `--frames`.
        start: `--from`.
        end: `--to`.
        at_times: `--at`, times with commas between.
        every_time: `--every`.
        by_scenes: `--scenes`.
        by_segments: `--segments`; `--frames` is the number for each of them.
        default: how many frames, where a number is needed and none was typed.

    Raises:
        RequestError: a time that cannot be read or lies wrong, or flags that contradict each other.
    """
    given = [
        name
        for name, value in (
            ("--frames", frames), ("--from", start), ("--to", end), ("--at", at_times),
            ("--every", every_time), ("--scenes", by_scenes or None), ("--segments", by_segments),
        )
        if value is not None
    ]  # fmt: skip
    _refuse(given, "--at", allowed=())
    _refuse(given, "--every", allowed=("--from", "--to"))
    _refuse(given, "--segments", allowed=("--frames", "--from", "--to"))
    if at_times is not None:
        return at(parse_time(part, "--at") for part in at_times.split(","))
    first = None if start is None else parse_time(start, "--from")
    last = None if end is None else parse_time(end, "--to")
    if first is not None and last is not None and last <= first:
        raise RequestError(f"--from {start} --to {end}: the part ends before it begins; swap them")
    count = default if frames is None else frames
    if every_time is not None:
        return every(parse_time(every_time, "--every"), start=first, end=last)
    if by_segments is not None:
        return segments(parse_time(by_segments, "--segments"), count, start=first, end=last)
    if by_scenes:
        return scenes(count, start=first, end=last)
    if first is not None or last is not None:
        return between(first, last, count)
    return None if frames is None else uniform(frames)


def _refuse(given: list[str], flag: str, allowed: tuple[str, ...]) -> None:
    others = [name for name in given if name not in (flag, *allowed)]
    if flag in given and others:
        also = f"; it goes with {' and '.join(allowed)} only" if allowed else "; it says it all"
        raise RequestError(f"{flag} together with {others[0]}{also}: leave one of them out")
