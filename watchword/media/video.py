"""Read the wanted frames of a video: seek to the key frame before each, or decode all when that is cheaper.

Either way the frames are byte for byte those that PyAV's decoder yields in order, converted to RGB the
documented way. Only the wanted ones are kept, so memory does not grow with the clip.
"""

import errno
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from watchword.errors import MediaError
from watchword.media.budget import Budget
from watchword.media.colour import colour_of
from watchword.media.frames import Clip, available, check_size, note_of, stack
from watchword.media.gate import Admitted, Policy
from watchword.media.intact import defect
from watchword.media.packets import IndexedTrack, Run, Survey, packets_from, share_work, survey
from watchword.media.pick import Pick, Timeline
from watchword.media.timeline import THUMB

__all__ = ["FAST_EDGE", "read_video"]

FAST_EDGE = 224  # pixels of the shorter edge after scaling in the decoder; what the vision towers take

_SEEK = 6  # a seek costs about as much as decoding so many frames


@dataclass(frozen=True)
class _Want:
    """How frames are turned into arrays, and what that may cost."""

    policy: Policy
    budget: Budget
    rotate: bool
    fast: bool
    # one for all frames of a clip: a new one for each costs more than it does for small pictures
    convert: VideoReformatter = field(default_factory=VideoReformatter)


@dataclass(frozen=True)
class _Decoded:
    """The wanted frames with their times; `ended` says that `seen` is the clip's true length."""

    kept: Mapping[int, np.ndarray]
    times: Mapping[int, float]
    seen: int
    ended: bool
    rotation: int
    colour: str
    spoilt: tuple[int, ...] = ()  # wanted frames that the decoder marked as damaged
    failure: str = ""  # why decoding stopped before the end
    every_time: Sequence[float] = ()  # of all frames, when they were counted
    changes: Sequence[float] = ()


def read_video(media: Admitted, pick: Pick, policy: Policy, *, rotate: bool, fast: bool) -> Clip:
    """Read the frames that `pick` chooses; see `media.read_frames`."""
    budget = policy.budget(media.name)
    want = _Want(policy, budget, rotate, fast)
    with media.rewind() as file:
        lack = defect(file)
    looks = getattr(pick, "looks", False)
    container, stream = _open(media, policy, lack)
    with container:
        policy.check_pixels(media.name, stream.codec_context.width, stream.codec_context.height)
        timed = getattr(pick, "timed", True)
        found = survey(container, stream, media, budget, timed=timed)
        certain = lack is None and found.packets > 0
        trusted = certain and (found.track is not None or found.header == found.packets)
        timeline = _timeline(media.name, stream, found)
        decoded = None
        if looks or (timed and not (trusted and timeline.times)):
            indices: tuple[int, ...] = ()  # chosen after every frame was seen
        else:
            indices = pick.choose(timeline)
            _check_memory(len(indices), stream.codec_context, want)
            if certain and _pays_by_index(found, indices):
                decoded = _by_seeking(container, stream, found, indices, want)
            elif certain and isinstance(found.track, IndexedTrack):  # nothing was read yet: no second opening
                fresh = (container, stream)
                decoded = _decode(media, frozenset(indices), want, to_end=False, looks=False, opened=fresh)
    if decoded is None:
        to_end = not trusted or not indices
        decoded = _decode(media, frozenset(indices), want, to_end=to_end, looks=looks)
    return _clip(media, pick, want, found, timeline, indices, decoded, lack)


def _clip(
    media: Admitted, pick: Pick, want: _Want, found: Survey, timeline: Timeline, indices: tuple[int, ...],
    decoded: _Decoded, lack: str | None,
) -> Clip:  # fmt: skip
    """Choose again by what decoding showed, get what is missing, and join it all."""
    _check_end(media.name, pick, indices, found, decoded, lack)
    if decoded.ended and (decoded.seen != found.packets or not indices):
        timeline = replace(timeline, total=decoded.seen, changes=decoded.changes)
        if not timeline.times or len(timeline.times) != decoded.seen:
            timeline = replace(timeline, times=decoded.every_time, end=_last_end(decoded, found.fps))
        indices = pick.choose(timeline)
        if max(indices) < timeline.total and not set(indices) <= set(decoded.kept):
            decoded = _decode(media, frozenset(indices), want, to_end=False, looks=False)
    available(indices, timeline.total, media.name)
    spoilt = [index for index in indices if index in decoded.spoilt]
    if spoilt:
        raise MediaError(f"{media.name}: frame {spoilt[0]} is damaged; get the file whole, or ask for others")
    if not set(indices) <= set(decoded.kept):  # it broke off on the way to them this time
        what = f"damaged after {decoded.seen} frames ({decoded.failure})"
        raise MediaError(f"{media.name}: {what}; get the file whole")
    want.policy.check_memory(media.name, len(indices), *decoded.kept[indices[0]].shape[1::-1])
    times: tuple[float, ...] | None = tuple(decoded.times[i] for i in indices if i in decoded.times)
    if len(times or ()) < len(indices):  # no clock in the container
        times = tuple(index / found.fps for index in indices) if found.fps else None
    return Clip(
        stack([decoded.kept[i] for i in indices]),
        indices,
        times,
        timeline.total,
        fps=found.fps,
        rotation=decoded.rotation,
        colour=decoded.colour,
        note=note_of(pick, indices, timeline) or _note_of_lost(found, timeline.total),
        timeline=timeline,
    )


def _note_of_lost(found: Survey, total: int) -> str:
    """Say that a decoder gave fewer frames than there are pictures in the file: it leaves out broken ones."""
    if found.track is None or total >= found.packets:
        return ""
    return f"{found.packets} frames are in the file, {total} of them can be decoded"


def _check_end(
    name: str, pick: Pick, indices: tuple[int, ...], found: Survey, decoded: _Decoded, lack: str | None
) -> None:
    """Refuse a clip that breaks off before a wanted frame, or at all when frames are chosen by its length."""
    reason = lack or decoded.failure
    if reason and (pick.relative or max(indices) >= decoded.seen):
        what = f"the data ends early ({lack})" if lack else f"damaged after {decoded.seen} frames ({reason})"
        others = f", or name frames with at_indices up to {decoded.seen - 1}" if decoded.seen else ""
        raise MediaError(
            f"{name}: {what}: {decoded.seen} of {found.expected} frames can be read; "
            f"get the whole file{others}"
        )
    if decoded.seen == 0:
        raise MediaError(f"{name}: no frame can be decoded; check the file in a player")


def _open(media: Admitted, policy: Policy, lack: str | None = None) -> tuple[InputContainer, VideoStream]:
    """Open the container with the formats and codecs allowed, and find its picture stream."""
    try:
        container = av.open(
            media.path or media.rewind(),
            metadata_errors="ignore",
            options=policy.open_options(),
        )
    except (av.error.FFmpegError, ValueError, OSError) as error:
        if lack is not None:
            raise MediaError(f"{media.name}: the data ends early ({lack}); get the whole file") from error
        known = ", ".join(policy.pictures)
        raise MediaError(
            f"{media.name}: neither a picture ({known}) nor a video that can be read; "
            "check the file, or convert it to MP4"
        ) from error
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams or streams[0].codec_context is None:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        found = "no decoder for its picture stream" if streams else f"no moving picture in it, only {kinds}"
        container.close()
        raise MediaError(f"{media.name}: {found}; give a video, or convert it to MP4")
    codec = streams[0].codec_context.codec.canonical_name
    if policy.codecs is not None and codec not in policy.codecs:
        container.close()
        raise MediaError(
            f"{media.name}: its pictures are {codec}, which is not decoded here; "
            f"allowed are {', '.join(policy.codecs)}; convert it to H.264"
        )
    return container, streams[0]


def _timeline(name: str, stream: VideoStream, found: Survey) -> Timeline:
    """What is known of the clip's time; times of all frames only when every packet was read."""
    times = getattr(found.track, "times", ())
    if not times or stream.time_base is None:
        return Timeline(found.packets, found.fps, name=name)
    tick, first = float(stream.time_base), times[0]
    end = (found.end - first) * tick if found.end is not None and found.end > times[-1] else None
    if end is None and found.fps:
        end = (times[-1] - first) * tick + 1 / found.fps
    return Timeline(found.packets, found.fps, array("d", ((t - first) * tick for t in times)), end, name=name)


def _last_end(decoded: _Decoded, fps: float | None) -> float | None:
    return decoded.every_time[-1] + 1 / fps if decoded.every_time and fps else None


def _check_memory(count: int, shape: av.VideoFrame | av.VideoCodecContext, want: _Want) -> None:
    """Refuse frames that together take more than the budget: by the header, and again by the first frame."""
    want.policy.check_pixels(want.budget.name, shape.width, shape.height)
    want.policy.check_memory(want.budget.name, count, *_size(shape.width, shape.height, want))


def _pays_by_index(found: Survey, indices: tuple[int, ...]) -> bool:
    """Say whether seeking may be cheaper, as far as the container's index tells without reading packets."""
    if not isinstance(found.track, IndexedTrack) or not indices or max(indices) >= found.packets:
        return True
    return _pays(found.track.estimate(indices), max(indices))


def _pays(lengths: Sequence[int], last: int) -> bool:
    """Say whether so many runs of so many frames are cheaper than decoding up to the last."""
    return last >= 2 * _SEEK and sum(_SEEK + length for length in lengths) <= 0.8 * last


def _by_seeking(
    container: InputContainer, stream: VideoStream, found: Survey, indices: tuple[int, ...], want: _Want
) -> _Decoded | None:
    """Decode only from the key frames before the wanted frames; None when that is dearer, or not certain."""
    track = found.track
    if track is None or not indices or not 0 <= max(indices) < found.packets:
        return None
    try:
        runs = track.runs(indices)
        if runs is None or not _pays([len(run.expected) for run in runs], max(indices)):
            return None
        return _decode_runs(container, stream, runs, track.first(), found, want)
    except av.error.FFmpegError:  # damage; decoding from the start meets it too, and reports it
        return None


def _decode_runs(
    container: InputContainer, stream: VideoStream, runs: list[Run], first: int, found: Survey, want: _Want
) -> _Decoded | None:
    """Decode the runs; None as soon as a frame comes that was not expected, or not as expected."""
    kept: dict[int, np.ndarray] = {}
    times: dict[int, float] = {}
    turn, colour, tick = 0, "", float(stream.time_base or 0)
    for run in runs:
        expected = iter(run.expected)
        remaining = len(run.expected)
        for frame in _frames(container, stream, run):
            want.budget.packet()
            want.policy.check_pixels(want.budget.name, frame.width, frame.height)  # it may grow on the way
            if frame.pts is not None and frame.pts < run.expected[0]:
                continue  # leading pictures of an open group, shown before the key frame
            if frame.pts != next(expected) or frame.is_corrupt:
                return None
            if remaining == len(run.expected) and frame.pts == run.key.pts and not frame.key_frame:
                return None
            remaining -= 1
            index = run.wanted.get(frame.pts)
            if index is not None:
                if not kept:
                    _check_memory(sum(len(r.wanted) for r in runs), frame, want)
                turn, colour = _turn(frame) if want.rotate else 0, colour_of(frame)
                kept[index], times[index] = _pixels(frame, turn, want), (frame.pts - first) * tick
                check_size(want.budget.name, index, kept)
            if not remaining:
                break
        if remaining:
            return None
    return _Decoded(kept, times, found.packets, False, turn, colour)


def _frames(container: InputContainer, stream: VideoStream, run: Run) -> Iterable[av.VideoFrame]:
    for packet in packets_from(container, stream, run.key):
        share_work(stream, packet)
        yield from stream.decode(packet)
    yield from stream.decode(None)


def _all_frames(container: InputContainer, stream: VideoStream) -> Iterable[av.VideoFrame]:
    for packet in container.demux(stream):
        share_work(stream, packet)
        yield from packet.decode()


def _decode(
    media: Admitted, wanted: frozenset[int], want: _Want, *, to_end: bool, looks: bool,
    opened: tuple[InputContainer, VideoStream] | None = None,
) -> _Decoded:  # fmt: skip
    """Decode from the start and keep the wanted frames; stop after the last of them unless told to count."""
    kept: dict[int, np.ndarray] = {}
    times: dict[int, float] = {}
    spoilt: list[int] = []
    every_time, changes = array("d"), array("f")
    before: np.ndarray | None = None
    last, seen, turn, failure, colour = max(wanted, default=-1), 0, 0, "", ""
    start: float | None = None
    container, stream = opened or _open(media, want.policy)
    with container:
        try:
            for frame in _all_frames(container, stream):
                want.budget.packet()
                want.policy.check_pixels(media.name, frame.width, frame.height)
                if seen == 0:
                    _check_memory(len(wanted), frame, want)
                    start, turn = frame.time, _turn(frame) if want.rotate else 0
                    colour = colour_of(frame)
                time = None if frame.time is None or start is None else frame.time - start
                if seen in wanted:
                    kept[seen] = _pixels(frame, turn, want)
                    check_size(media.name, seen, kept)
                    spoilt += [seen] * frame.is_corrupt
                    if time is not None:
                        times[seen] = time
                if to_end and time is not None:
                    every_time.append(max(time, every_time[-1]) if every_time else time)
                if looks:
                    thumb = frame.to_ndarray(format="rgb24", width=THUMB, height=THUMB).astype(np.int16)
                    changes.append(0.0 if before is None else float(np.abs(thumb - before).mean()) / 255)
                    before = thumb
                seen += 1
                if seen > last and not to_end:
                    return _Decoded(kept, times, seen, False, turn, colour, tuple(spoilt))
        except av.error.FFmpegError as error:
            if error.errno == errno.ENOMEM:
                raise MediaError(f"{media.name}: no memory left to decode it; make it smaller") from error
            failure = error.strerror or type(error).__name__
    clock = every_time if len(every_time) == seen else ()
    return _Decoded(kept, times, seen, True, turn, colour, tuple(spoilt), failure, clock, changes)


def _pixels(frame: av.VideoFrame, turn: int, want: _Want) -> np.ndarray:
    width, height = _size(frame.width, frame.height, want)
    if (width, height) == (frame.width, frame.height):
        picture = want.convert.reformat(frame, format="rgb24")
    else:
        picture = want.convert.reformat(frame, width, height, "rgb24", interpolation="AREA")
    return np.rot90(picture.to_ndarray(), turn // 90)


def _size(width: int, height: int, want: _Want) -> tuple[int, int]:
    """Width and height as kept: the frame's own, or with `fast` the shorter edge at most `FAST_EDGE`."""
    short = min(width, height)
    if not want.fast or short <= FAST_EDGE:
        return width, height
    return round(width * FAST_EDGE / short), round(height * FAST_EDGE / short)


def _turn(frame: av.VideoFrame) -> int:
    """Degrees counter-clockwise that bring the frame upright; quarter turns only, others are left alone."""
    degrees = round(frame.rotation) % 360
    return degrees if degrees % 90 == 0 else 0
