"""What a container says of its frames without decoding any, and where a decoder may begin for each of them.

A header's frame count proves nothing. What is believed is the packets: when every packet has a time, none is
hidden and the codec gives one frame for each, then the frames in order of time are the packets in order of
time, and a frame can be reached from the key frame before it. Whoever seeks checks each frame on the way.
"""

import bisect
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from watchword.media.budget import Budget
from watchword.media.gate import Admitted

__all__ = ["IndexedTrack", "Key", "Run", "Survey", "Track", "packets_from", "share_work", "survey"]

# Codecs of which one packet is one frame and which a key frame resets. Of the others (GIF, WMV, ...) every
# frame is decoded from the start.
_SEEKABLE = frozenset(
    ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2video", "mjpeg", "prores", "dnxhd", "ffv1")
)
_LITTLE = 1_500_000  # pixels of a clip that threads do not pay for (benchmarks/video_reading.md)
_EMPTY_MPEG4 = 10  # bytes; packets up to this size may say "as before", and then give no frame


@dataclass(frozen=True)
class Key:
    """A packet at which decoding may begin: its time, and what to seek to."""

    pts: int
    dts: int | None


@dataclass(frozen=True)
class Run:
    """Frames decoded in one go from a key frame on, by their times: all that come, and the wanted ones."""

    key: Key
    expected: Sequence[int]
    wanted: dict[int, int]


class Track:
    """Times of all frames in order, and the key frames among the packets."""

    def __init__(self, times: Sequence[int], keys: Sequence[Key]) -> None:
        self.times = times
        self.keys = sorted(keys, key=lambda key: key.pts)
        self.starts = [key.pts for key in self.keys]

    def first(self) -> int:
        """Time of the first frame."""
        return self.times[0]

    def runs(self, indices: Sequence[int]) -> list[Run] | None:
        """Group the frames wanted by the key frame from which each is decoded."""
        groups: dict[int, list[int]] = {}
        for index in sorted(set(indices)):
            groups.setdefault(bisect.bisect_right(self.starts, self.times[index]) - 1, []).append(index)
        found = []
        for number, members in groups.items():
            begin = bisect.bisect_left(self.times, self.starts[number])
            expected = self.times[begin : members[-1] + 1]
            found.append(Run(self.keys[number], expected, {self.times[i]: i for i in members}))
        return found


@dataclass(frozen=True)
class _Index:
    """Decoding times of all packets in their order, and the numbers of those that are key frames."""

    clock: Sequence[int]
    places: Sequence[int]


class IndexedTrack:
    """A track of which the container's own index gives number and decoding times, so few packets are read.

    Key frame number p in decoding order is number p in order of time too, plus the pictures that follow it
    in the file and come before it on screen. That is read off the packets around each frame wanted.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, budget: Budget, index: _Index) -> None:
        self.container, self.stream, self.budget = container, stream, budget
        self.clock, self.places = index.clock, index.places
        self._begin: int | None = None

    def first(self) -> int:
        """Time of the first frame."""
        assert self._begin is not None, "runs() was asked before"
        return self._begin

    def estimate(self, indices: Sequence[int]) -> list[int]:
        """How many frames each run will decode, from the index alone: no packet is read."""
        found: dict[int, int] = {}
        for index in sorted(set(indices)):
            place = self.places[bisect.bisect_right(self.places, index) - 1]
            found[place] = index - place + 1
        return list(found.values())

    def runs(self, indices: Sequence[int]) -> list[Run] | None:
        """Group the frames wanted by key frame; None when the packets do not bear out the index."""
        if self._begin is None:
            head = self._group(0)
            if head is None or head[0] != 0:
                return None
            self._begin = head[2][0]
        found: list[Run] = []
        waiting = sorted(set(indices))
        while waiting:
            place = bisect.bisect_right(self.places, waiting[0]) - 1
            group = self._group(place)
            if group is not None and group[0] > waiting[0] and place:  # shown before the key, stored after
                group = self._group(place - 1)
            if group is None or not group[0] <= waiting[0] < group[0] + len(group[2]):
                return None
            rank, key, times = group
            members = [index for index in waiting if index < rank + len(times)]
            waiting = waiting[len(members) :]
            wanted = {times[index - rank]: index for index in members}
            found.append(Run(key, times[: members[-1] - rank + 1], wanted))
        return found

    def _group(self, number: int) -> tuple[int, Key, list[int]] | None:
        """Rank of a key frame, the key, and the times of all frames from it up to the next key, in order."""
        place = self.places[number]
        stop = self.places[number + 1] if number + 1 < len(self.places) else len(self.clock)
        key: Key | None = None
        times: list[int] = []
        after: list[int] = []  # the next key, and pictures that follow it
        key_dts = self.clock[place]
        packets = packets_from(self.container, self.stream, Key(key_dts, key_dts), by_dts=True)
        for count, packet in enumerate(packets):
            self.budget.packet()
            if packet.pts is None or packet.is_discard or packet.dts != self.clock[place + count]:
                return None
            key = key or Key(packet.pts, packet.dts)
            (times if place + count < stop else after).append(packet.pts)
            if (len(after) > 1 and after[-1] > after[0]) or place + count + 1 == len(self.clock):
                break
        if key is None:
            return None
        leading = sum(time < key.pts for time in times)
        shown = sorted(time for time in times if time >= key.pts)
        shown += sorted(time for time in after[1:] if time < after[0])
        whole = place + leading + len(shown)  # of the key after, if there is one
        next_rank = stop + sum(time < after[0] for time in after[1:]) if after else len(self.clock)
        if whole != next_rank or any(a >= b for a, b in pairwise(shown)) or (after and shown[-1] >= after[0]):
            return None
        return place + leading, key, shown


@dataclass(frozen=True)
class Survey:
    """What the container says without decoding.

    Attributes:
        header: the frame count of its header, 0 when it does not say.
        packets: packets that should give a frame.
        fps: average frames a second.
        seconds: its length, as it says.
        track: where each frame lies, or None when that is not certain.
        end: the time at which the last frame goes, in ticks, if packets say.
    """

    header: int
    packets: int
    fps: float | None
    seconds: float | None
    track: Track | IndexedTrack | None
    end: int | None = None

    @property
    def expected(self) -> str:
        """How many frames a cut-off clip should have had, in words."""
        if self.header > 0:
            return str(self.header)
        guess = round(self.seconds * self.fps) if self.seconds and self.fps else 0
        return f"about {guess}" if guess > 0 else "an unknown number of"


def survey(
    container: InputContainer, stream: VideoStream, media: Admitted, budget: Budget, *, timed: bool
) -> Survey:
    """Read the index, or every packet when the index will not do.

    Args:
        timed: the times of all frames are needed, not only their number.
    """
    rate, duration = stream.average_rate, container.duration
    fps = float(rate) if rate else None
    seconds = duration / av.time_base if duration and duration > 0 else None
    index = None if timed else _index(container, stream, media)
    if index is not None:
        budget.packets_ahead(stream.frames)
        track = IndexedTrack(container, stream, budget, index)
        return Survey(stream.frames, stream.frames, fps, seconds, track)
    scan = _Scan(_codec(stream))
    try:
        for packet in container.demux(stream):
            if packet.size:
                budget.packet()
                scan.add(packet)
    except av.error.FFmpegError:  # decoding meets the same damage, and reports it
        return Survey(stream.frames, 0, fps, seconds, None)
    return Survey(stream.frames, scan.shown, fps, seconds, scan.track(), scan.end)


def packets_from(
    container: InputContainer, stream: VideoStream, key: Key, by_dts: bool = False
) -> Iterator[Packet]:
    """Seek to a key frame and give the packets from it on; none when it is not found."""
    target = key.pts if key.dts is None or "matroska" in container.format.name else key.dts
    second = round(1 / stream.time_base) if stream.time_base else 1
    for back in (0, second, 20 * second):
        try:
            container.seek(target - back, stream=stream)
        except av.error.FFmpegError:
            return
        packets = container.demux(stream)
        for packet in packets:
            if not packet.size:
                break
            if packet.is_keyframe and (packet.dts == key.dts if by_dts else packet.pts == key.pts):
                yield packet
                yield from packets
                return
            now, there = (packet.pts, key.pts) if key.dts is None else (packet.dts, key.dts)
            if now is not None and now > there:  # landed behind it
                break


def share_work(stream: VideoStream, packet: Packet) -> None:
    """Before the first packet is decoded: how threads share the work; the frames are the same either way.

    Frame threads, for most clips have one slice a picture. Where H.264 pictures are cut into slices, those
    share it at less cost in memory (1080p on two cores: 0.69 s against 0.88 s, benchmarks/video_reading.md).
    None for a short clip of small pictures, which is decoded by the time that threads have begun.
    """
    context = stream.codec_context
    if context.is_open:
        return
    if 0 < stream.frames * context.width * context.height <= _LITTLE:
        stream.thread_type = "NONE"
    else:
        stream.thread_type = "SLICE" if _slices(stream, packet) > 1 else "AUTO"


def _slices(stream: VideoStream, packet: Packet) -> int:
    """Slices of an H.264 picture stored as in MP4 and Matroska; 0 when it is not."""
    extra = stream.codec_context.extradata
    if _codec(stream) != "h264" or not extra or len(extra) < 5 or extra[0] != 1:
        return 0
    width, data = (extra[4] & 3) + 1, memoryview(packet)  # of the length in front of each unit
    at, count = 0, 0
    while at + width < len(data):
        count += data[at + width] & 31 in (1, 5)  # unit types: slices of a picture, and of one that resets
        at += width + int.from_bytes(data[at : at + width], "big")
    return count


class _Scan:
    """Collects the packets of a clip: times and keys, nothing of their data."""

    def __init__(self, codec: str) -> None:
        self.codec = codec
        self.times = array("q")
        self.keys: list[Key] = []
        self.shown = 0
        self.end: int | None = None
        self.certain = codec in _SEEKABLE

    def add(self, packet: Packet) -> None:
        pts = packet.pts
        if pts is None or not (self.keys or packet.is_keyframe):
            self.certain = False
        if self.codec == "mpeg4" and packet.size <= _EMPTY_MPEG4:
            self.certain = False
        hidden = self.codec == "vp8" and not bytes(packet)[0] & 0x10  # its show_frame bit
        if not packet.is_discard:
            self.shown += 1
            self.certain &= not hidden
        if not self.certain or pts is None:
            return
        if packet.is_keyframe:
            self.keys.append(Key(pts, packet.dts))
        if not packet.is_discard:
            self.times.append(pts)
            end = pts + (packet.duration or 0)
            self.end = end if self.end is None else max(self.end, end)

    def track(self) -> Track | None:
        if not self.certain or not self.times or min(self.times) < self.keys[0].pts:
            return None
        times = array("q", sorted(self.times))
        return None if any(a == b for a, b in pairwise(times)) else Track(times, self.keys)


def _codec(stream: VideoStream) -> str:
    """The codec's own name, whatever decoder is used for it."""
    return stream.codec_context.codec.canonical_name


def _index(container: InputContainer, stream: VideoStream, media: Admitted) -> _Index | None:
    """Read the container's index, if it lists every packet, all inside the file and none hidden."""
    if "mov" not in container.format.name or _codec(stream) not in _SEEKABLE - {"vp8", "mpeg4"}:
        return None
    entries = getattr(stream, "index_entries", None)  # PyAV has it since 17
    if entries is None or not 0 < len(entries) == stream.frames:
        return None
    with media.rewind() as file:
        end = file.seek(0, os.SEEK_END)
    clock, places = array("q"), array("q")
    for place, entry in enumerate(entries):  # half the time of a reading: each entry is touched once
        if entry.is_discard or entry.size <= 0 or not 0 <= entry.pos <= end - entry.size:
            return None
        clock.append(entry.timestamp)
        if entry.is_keyframe:
            places.append(place)
    return _Index(clock, places) if places and places[0] == 0 else None
