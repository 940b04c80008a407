"""A long film in stretches: one question, an answer about each, and all of them as one timed list.

The list is the answers themselves, one line each. Nothing is summed up: a model that has not seen the film as
a whole would have to make that up.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from watchword.errors import RequestError
from watchword.media.decode import read_media
from watchword.media.frames import Clip
from watchword.media.gate import admit, is_source
from watchword.media.pick import Segments, at, at_indices
from watchword.pipeline.answer import Answer
from watchword.pipeline.families import Exchange
from watchword.pipeline.preparing import Wish, prepare
from watchword.pipeline.stopwatch import Stopwatch
from watchword.pipeline.streaming import Stream
from watchword.pipeline.together import together

__all__ = ["Segment", "Segmented", "answered", "clock"]

MOST_BYTES = 512 * 1024**2
"""Of frames in memory at a time. Longer films are read in several goes, so memory does not grow with them."""

Span = tuple[float, float, tuple[int, ...]]


@dataclass(frozen=True)
class Segment:
    """A stretch of a film and the answer about it.

    Attributes:
        start, end: in seconds after the film's first frame; the end is outside.
        answer: about this stretch alone.
    """

    start: float
    end: float
    answer: Answer

    @property
    def span(self) -> str:
        """Its times: `1:30-2:00`."""
        return f"{clock(self.start)}-{clock(self.end)}"

    def __str__(self) -> str:
        """A line of the list: `1:30-2:00  The cross moves.`"""
        return f"{self.span}  {' '.join(self.answer.text.split())}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"start": self.start, "end": self.end} | self.answer.to_dict()


@dataclass(frozen=True)
class Segmented:
    """Answers about all stretches of a film, in order.

    Attributes:
        question: what was asked about each of them.
        segments: the stretches with their answers.
    """

    question: str
    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        """The answers joined: a line for each stretch, with its times."""
        return "\n".join(map(str, self.segments))

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `--json` prints them."""
        return {
            "question": self.question,
            "text": self.text,
            "segments": [one.to_dict() for one in self.segments],
        }


def answered(pipeline: Any, media: object, question: str, pick: Segments, wish: Wish) -> Iterator[Segment]:
    """Ask about each stretch; the answers of some come together, in order.

    Args:
        pipeline: the `Pipeline`.
        media: a video, as for `Pipeline.ask`; not frames, which have no times.
        question: plain words.
        pick: `media.segments(...)`.
        wish: what else the caller wants.

    Raises:
        MediaError: the medium cannot be read.
        RequestError: it is no video, or frames without times.
        CapacityError: one stretch alone is too much; see `Pipeline.ask`.
    """
    folder = isinstance(media, str | os.PathLike) and os.path.isdir(media)
    source = admit(media, pipeline.policy) if is_source(media) and not folder else media
    first = read_media(source, at([0.0]), policy=pipeline.policy)
    if first.timeline is None:
        raise RequestError(f"segments: a {first.kind} without times cannot be divided by time; use ask")
    for some in goes(pick.spans(first.timeline), first.frames[0].nbytes, pipeline.engine.limits.rows):
        clip = read_media(
            source, at_indices([i for _, _, part in some for i in part]), policy=pipeline.policy
        )
        parts = list(zip(some, divided(clip, some)))
        del clip
        asks = [lambda part=part: stream(pipeline, question, part, pick.count, wish) for _, part in parts]
        answers = together(pipeline, asks, "raise")
        yield from (Segment(start, end, answer) for (start, end, _), answer in zip(some, answers))


def goes(spans: Sequence[Span], frame_bytes: int, rows: int) -> Iterator[list[Span]]:
    """Stretches that are read and asked about together: as many as the engine has rows and memory allows."""
    some: list[Span] = []
    size = 0
    for span in spans:
        more = len(span[2]) * frame_bytes
        if some and (len(some) >= rows or size + more > MOST_BYTES):
            yield some
            some, size = [], 0
        some.append(span)
        size += more
    if some:
        yield some


def divided(clip: Clip, spans: Sequence[Span]) -> Iterator[Clip]:
    """The clip of each stretch, of one that was read with the frames of all."""
    begin = 0
    for _, _, indices in spans:
        stop = begin + len(indices)
        times = None if clip.times is None else clip.times[begin:stop]
        yield replace(clip, frames=clip.frames[begin:stop], indices=indices, times=times)
        begin = stop


def stream(pipeline: Any, question: str, clip: Clip, asked: int, wish: Wish) -> Stream:
    """The request about one stretch."""
    few = len(clip.frames) < asked
    notes = (f"this segment has {len(clip.frames)} of the {asked} frames asked for; all are used",) * few
    return Stream(
        pipeline,
        prepare(pipeline, [Exchange(question, (clip,))], wish, Stopwatch(pipeline.device), notes=notes),
    )


def clock(seconds: float) -> str:
    """A time as the flags of the shell take it, to thousandths.

    >>> clock(30), clock(90.25), clock(3723)
    ('0:30', '1:30.25', '1:02:03')
    """
    whole, rest = divmod(round(seconds * 1000), 1000)
    minutes, last = divmod(whole, 60)
    fine = f".{rest:03}".rstrip("0") if rest else ""
    told = f"{minutes}:{last:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{last:02}"
    return told + fine
