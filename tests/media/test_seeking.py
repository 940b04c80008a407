"""Frames got by seeking are byte for byte those of decoding everything, in all that FFmpeg writes here."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from tests.media import clips
from watchword.errors import MediaError, RequestError
from watchword.media import (
    at,
    at_indices,
    colour,
    every,
    everything,
    packets,
    read_frames,
    scenes,
    segments,
    uniform,
    video,
)

X264 = "keyint=10:min-keyint=10:scenecut=0"
CASES = {
    "h264.mp4": ("libx264", {"x264-params": X264, "bf": "0"}, {}),
    "h264_b.mp4": ("libx264", {"x264-params": f"{X264}:bframes=3:b-adapt=0"}, {}),
    "h264_open.mp4": ("libx264", {"x264-params": f"{X264}:bframes=3:open-gop=1:b-adapt=0"}, {}),
    "h264_pyramid.mkv": ("libx264", {"x264-params": f"{X264}:bframes=5:b-pyramid=2:b-adapt=0"}, {}),
    "h264_open.mkv": ("libx264", {"x264-params": f"{X264}:bframes=3:open-gop=1:b-adapt=0"}, {}),
    "h264_open.ts": ("libx264", {"x264-params": f"{X264}:bframes=3:open-gop=1:b-adapt=0"}, {}),
    "h264_refresh.mp4": ("libx264", {"x264-params": "intra-refresh=1:keyint=10:bframes=0"}, {}),
    "h264_slices.mp4": ("libx264", {"x264-params": f"{X264}:slices=3:bframes=2"}, {"size": (64, 96)}),
    "h264_whole.mp4": ("libx264", {"x264-params": f"{X264}:slices=1:sliced-threads=0"}, {"size": (64, 96)}),
    "h264_fragments.mp4": ("libx264", {"x264-params": X264}, {"movflags": "frag_keyframe+empty_moov"}),
    "h264_10bit.mp4": ("libx264", {"x264-params": X264}, {"pix_fmt": "yuv420p10le"}),
    "h264_444.mov": ("libx264", {"x264-params": X264}, {"pix_fmt": "yuv444p", "size": (47, 63)}),
    "h264_fields.mp4": ("libx264", {"x264-params": f"{X264}:interlaced=1"}, {"size": (64, 64)}),
    "h264_fields.ts": ("libx264", {"x264-params": f"{X264}:interlaced=1"}, {"size": (64, 64)}),
    "h264_uneven.mp4": ("libx264", {"x264-params": X264}, {"uneven": True}),
    "h264_uneven.mkv": ("libx264", {"x264-params": f"{X264}:bframes=2"}, {"uneven": True}),
    "h264_late.mp4": ("libx264", {"x264-params": X264}, {"start": 100}),
    "h264_late.ts": ("libx264", {"x264-params": X264}, {"start": 100}),
    "h264.flv": ("libx264", {"x264-params": X264}, {}),
    "h264.avi": ("libx264", {"x264-params": f"{X264}:bframes=0"}, {}),
    "hevc.mp4": ("libx265", {"x265-params": "keyint=10:min-keyint=10:bframes=3:log-level=none"}, {}),
    "hevc_open.mkv": ("libx265", {"x265-params": "keyint=10:min-keyint=10:open-gop=1:log-level=none"}, {}),
    "hevc_10bit.mp4": (
        "libx265", {"x265-params": "keyint=10:log-level=none"}, {"pix_fmt": "yuv420p10le"},
    ),
    "vp9.webm": ("libvpx-vp9", {"g": "10", "cpu-used": "8"}, {}),
    "vp9.mp4": ("libvpx-vp9", {"g": "10", "cpu-used": "8", "lag-in-frames": "12", "auto-alt-ref": "1"}, {}),
    "vp9_alpha.webm": ("libvpx-vp9", {"g": "10", "cpu-used": "8"}, {"pix_fmt": "yuva420p"}),
    "vp8.webm": ("libvpx", {"g": "10", "cpu-used": "8", "auto-alt-ref": "0"}, {}),
    "vp8_hidden.webm": ("libvpx", {"g": "10", "auto-alt-ref": "1", "lag-in-frames": "10"}, {}),
    "av1.mp4": ("libsvtav1", {"g": "10", "preset": "12", "svtav1-params": "tune=0"}, {"size": (64, 80)}),
    "av1.webm": ("libsvtav1", {"g": "10", "preset": "12"}, {"size": (64, 80)}),
    "mpeg4.avi": ("mpeg4", {"g": "10"}, {"noise": True}),
    "mpeg4_b.mp4": ("mpeg4", {"g": "10", "bf": "2"}, {"noise": True}),
    "mpeg2.ts": ("mpeg2video", {"g": "10", "bf": "2"}, {}),
    "mpeg2.mpg": ("mpeg2video", {"g": "10", "bf": "2"}, {}),
    "mjpeg.mov": ("mjpeg", {}, {"pix_fmt": "yuvj420p"}),
    "mjpeg.avi": ("mjpeg", {}, {"pix_fmt": "yuvj420p", "size": (47, 63)}),
    "prores.mov": ("prores_ks", {}, {"pix_fmt": "yuva444p10le"}),
    "ffv1.mkv": ("ffv1", {"g": "10"}, {"pix_fmt": "yuv420p"}),
    "gif.gif": ("gif", {}, {"pix_fmt": "rgb8"}),
    "wmv.wmv": ("wmv2", {"g": "10"}, {}),
}  # fmt: skip
# Here every frame is decoded: codecs in which a packet need not be a frame.
NO_SEEKS = {"gif.gif", "wmv.wmv"}
FRAMES = 60


def encode(
    path, codec, options, *, pix_fmt="yuv420p", size=(48, 64), uneven=False, start=0, noise=False, **container
):
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options=container) as target:
        stream = target.add_stream(codec, rate=24)
        stream.height, stream.width, stream.pix_fmt, stream.options = *size, pix_fmt, options
        stream.time_base = stream.codec_context.time_base = Fraction(1, 240)
        if codec in ("mpeg4", "mpeg2video", "gif", "wmv2", "libsvtav1", "mjpeg"):
            stream.codec_context.time_base = Fraction(1, 24)
        ticks = round(1 / 24 / stream.codec_context.time_base)
        for number in range(FRAMES):
            picture = clips.picture(number, *size)
            if noise:
                picture = picture ^ rng.integers(0, 32, picture.shape, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            bumps = (number // 5) * 13 + number % 5 * 3
            frame.pts = start * ticks + (bumps if uneven else number * ticks)
            frame.time_base = stream.codec_context.time_base
            target.mux(stream.encode(frame))
        target.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("seeking")


@pytest.fixture(scope="module", params=CASES)
def case(request, folder):
    codec, options, more = CASES[request.param]
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV has no {codec}")
    path = encode(folder / request.param, codec, options, **more)
    return path, clips.decoded(path)


def forbid_whole_reading(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("decoded from the start")

    monkeypatch.setattr(video, "_decode", refuse)
    monkeypatch.setattr(video, "_SEEK", 0)


def test_frames_by_seeking_equal_decoding_everything(case, monkeypatch):
    path, whole = case
    assert len(whole) == FRAMES
    if path.name not in NO_SEEKS:
        forbid_whole_reading(monkeypatch)
    for indices in ((59,), (0, 20, 58), (9, 29, 30, 31), (50, 49, 10, 50), *((i,) for i in range(13, 60, 5))):
        clip = read_frames(path, at_indices(indices), rotate=False)
        assert clip.indices == indices
        assert clip.total == FRAMES
        assert np.array_equal(clip.frames, np.stack([whole[i] for i in indices])), indices


def test_times_by_seeking_equal_the_decoders(case):
    path, whole = case
    with av.open(str(path)) as container:
        clock = [frame.time for frame in container.decode(video=0)]
    sparse = read_frames(path, at_indices([15, 59])).times
    assert sparse == pytest.approx((clock[15] - clock[0], clock[59] - clock[0]), abs=1e-6)
    timed = read_frames(path, at([clock[40] - clock[0]]), rotate=False)
    assert timed.indices == (40,)
    assert np.array_equal(timed.frames[0], whole[40])


def test_given_bytes_are_sought_too(folder, monkeypatch):
    path = encode(folder / "bytes.mp4", *CASES["h264_open.mp4"][:2])
    whole = clips.decoded(path)
    forbid_whole_reading(monkeypatch)
    for source in (path.read_bytes(), io.BytesIO(path.read_bytes())):
        assert np.array_equal(read_frames(source, at_indices([47])).frames[0], whole[47])


def test_all_is_decoded_once_when_that_is_cheaper(folder, monkeypatch):
    path = encode(folder / "dense.mp4", *CASES["h264.mp4"][:2])
    monkeypatch.setattr(video, "_decode_runs", None)
    assert read_frames(path, uniform(30)).indices == tuple(range(0, 60, 2))


@pytest.mark.parametrize(
    ("case", "kind"), [("h264_slices.mp4", "SLICE"), ("h264_whole.mp4", "AUTO"), ("h264_open.ts", "AUTO")]
)
def test_threads_share_slices_where_pictures_have_several(tmp_path, monkeypatch, case, kind):
    monkeypatch.setattr(packets, "_LITTLE", 0)
    codec, options, more = CASES[case]
    with av.open(str(encode(tmp_path / case, codec, options, **more))) as container:
        stream = container.streams.video[0]
        packet = next(container.demux(stream))
        packets.share_work(stream, packet)
        assert stream.thread_type.name == kind
        packet.decode()
        packets.share_work(stream, packet)  # too late to change it now, and no error


def test_no_threads_begin_for_a_short_clip_of_small_pictures(tmp_path):
    codec, options, more = CASES["h264_whole.mp4"]
    with av.open(str(encode(tmp_path / "little.mp4", codec, options, **more))) as container:
        stream = container.streams.video[0]
        assert stream.frames * stream.width * stream.height <= packets._LITTLE
        packets.share_work(stream, next(container.demux(stream)))
        assert stream.thread_type.name == "NONE"


def test_a_wrong_key_flag_is_noticed(folder, monkeypatch):
    """A packet that is called a key frame and is none: what the decoder gives there is not believed."""
    path = encode(folder / "honest.mkv", "libx264", {"x264-params": "keyint=60:scenecut=0:bframes=0"})
    lying = folder / "lying.mkv"
    with av.open(str(path)) as source, av.open(str(lying), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.dts is not None:
                packet.stream = stream
                packet.is_keyframe = number % 20 == 0
                target.mux(packet)
    whole = clips.decoded(lying)
    assert np.array_equal(read_frames(lying, at_indices([45])).frames[0], whole[45])


@pytest.mark.parametrize("claimed", ["duration", "count"])
def test_lengths_in_headers_are_not_believed(folder, claimed):
    path = encode(folder / f"{claimed}.mp4", *CASES["h264.mp4"][:2])
    data = bytearray(path.read_bytes())
    if claimed == "duration":  # of movie, track and media, ten times too long
        for box, place in ((b"mvhd", 16), (b"tkhd", 20), (b"mdhd", 16)):
            at_byte = data.index(box) + 4 + place
            wrong = int.from_bytes(data[at_byte : at_byte + 4], "big") * 10
            data[at_byte : at_byte + 4] = wrong.to_bytes(4, "big")
    else:  # half the samples are not listed
        at_byte = data.index(b"stsz") + 12
        assert int.from_bytes(data[at_byte : at_byte + 4], "big") == 60
        data[at_byte : at_byte + 4] = (30).to_bytes(4, "big")
    path.write_bytes(data)
    whole = clips.decoded(path)

    clip = read_frames(path, uniform(4))

    assert clip.total == len(whole)
    assert clip.indices == uniform(4).choose(clip.timeline)
    assert np.array_equal(clip.frames, np.stack([whole[i] for i in clip.indices]))


def test_one_frame_is_a_clip(folder):
    path = clips.write(folder / "one.mp4", frames=1)
    clip = read_frames(path, uniform(8))
    assert (clip.total, clip.indices, clip.times) == (1, (0,), (0.0,))
    assert np.array_equal(clip.frames[0], clips.decoded(path)[0])


def test_time_choices_agree_with_what_is_on_screen(folder):
    path = encode(folder / "steps.mp4", *CASES["h264_b.mp4"][:2])
    assert read_frames(path, every(0.5)).times == pytest.approx((0, 0.5, 1.0, 1.5, 2.0), abs=1e-3)
    with pytest.raises(MediaError, match=r"steps.mp4: no frame at 2.6 s, the clip ends at 2.5\d* s; ask for"):
        read_frames(path, at([2.6]))
    whole = read_frames(path, segments(1.0, 2))
    parts = whole.split(segments(1.0, 2))
    assert [part.indices for part in parts] == [(0, 12), (24, 36), (48, 54)]
    assert np.array_equal(np.concatenate([part.frames for part in parts]), whole.frames)


def test_scenes_of_a_clip_are_found(folder):
    pictures = [np.full((48, 64, 3), level, np.uint8) for level in (20, 200, 90) for _ in range(20)]
    path = folder / "cuts.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    clip = read_frames(path, scenes(3))
    assert clip.indices == (9, 29, 49)
    assert [round(float(frame.mean()), -1) for frame in clip.frames] == [20, 200, 90]
    assert read_frames(path, scenes(1, start=0.9, end=1.6)).indices == (30,)
    assert clip.note == ""
    more = read_frames(path, scenes(4))
    assert more.note == "3 scenes found, 4 asked for; the longest are divided"
    assert read_frames(path, scenes(2, start=1.0, end=1.6)).note.startswith("1 scene found, 2 asked for")
    whole = read_frames(path, everything()).frames
    given = read_frames(whole, scenes(3))
    assert (given.indices, given.note) == (clip.indices, "")


def test_scenes_are_not_looked_for_where_they_would_be_guessed(tmp_path):
    for number in range(3):
        Image.fromarray(clips.picture(number)).save(tmp_path / f"{number}.png")
    moving = tmp_path / "moving.webp"
    first, *rest = [Image.fromarray(clips.picture(n)) for n in range(6)]
    first.save(moving, save_all=True, append_images=rest, duration=100)
    for source in (tmp_path, moving):
        with pytest.raises(
            RequestError, match=f"{source}: scenes are found in videos and frames only; choose"
        ):
            read_frames(source, scenes(2))


def test_fast_frames_are_small_and_close(folder):
    path = clips.write(folder / "large.mp4", frames=30, size=(480, 640))
    slow, fast = read_frames(path, uniform(4)), read_frames(path, uniform(4), fast=True)
    assert fast.frames.shape == (4, 224, 299, 3)
    assert fast.indices == slow.indices
    assert abs(float(fast.frames.mean()) - float(slow.frames.mean())) < 1.5
    assert read_frames(path, uniform(1)).frames.shape == (1, 480, 640, 3)


@pytest.mark.parametrize(
    ("space", "spread", "said", "red"),
    [
        (1, 1, "BT.709, limited range", (255, 1.164, 1.793)),
        (5, 1, "BT.601, limited range", (255, 1.164, 1.596)),
        (2, 0, "BT.601 (not stated), limited range (not stated)", (255, 1.164, 1.596)),
        (9, 1, "BT.2020, limited range", (255, 1.164, 1.679)),
        (1, 2, "BT.709, full range", (255, 1.0, 1.575)),
    ],
)
def test_matrix_and_range_are_stated_and_used(space, spread, said, red):
    frame = av.VideoFrame(16, 16, "yuv444p")
    for plane, value in zip(frame.planes, (100, 128, 180), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    frame.colorspace, frame.color_range = space, spread
    assert colour.colour_of(frame) == said
    expected = (100 - (16 if spread != 2 else 0)) * red[1] + (180 - 128) * red[2]
    assert frame.to_ndarray(format="rgb24")[0, 0, 0] == pytest.approx(expected, abs=2)


def test_colours_of_a_clip_are_told(folder):
    assert read_frames(clips.write(folder / "colours.mp4")).colour.startswith("BT.601 (not stated), limited")
    assert read_frames(clips.write(folder / "colours.gif", "gif")).colour == "RGB as stored"
