"""Frames are the decoder's own, whatever the container says of itself."""

import io
import re
import tempfile
import tracemalloc
import wave
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tests.media import clips
from watchword.errors import MediaError
from watchword.media import Policy, at, at_indices, read_frames, read_media, segments, uniform, video

CONTAINERS = [
    ("clip.mp4", "libx264", {"bf": "2"}),
    ("clip.mov", "libx264", {}),
    ("clip.avi", "mpeg4", {}),
    ("clip.mkv", "libx264", {}),
    ("clip.ts", "libx264", {}),
    ("clip.webm", "libvpx-vp9", {"cpu-used": "8"}),
    ("old.webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "10", "cpu-used": "8"}),
    ("clip.gif", "gif", {}),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def mp4(folder):
    return clips.write(folder / "plain.mp4", movflags="faststart")


@pytest.mark.parametrize(("name", "codec", "options"), CONTAINERS)
@pytest.mark.parametrize("frames", [60, 17])
def test_frames_are_those_of_the_documented_loop(folder, name, codec, options, frames):
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV has no {codec}")
    path = clips.write(folder / f"{frames}_{name}", codec, frames, **options)
    every = clips.decoded(path)

    clip = read_frames(path, uniform(8), rotate=False)

    wanted = np.arange(0, len(every), len(every) / 8).astype(int)
    assert clip.indices == tuple(wanted)
    assert clip.total == len(every) == frames
    assert np.array_equal(clip.frames, np.stack([every[i] for i in wanted]))
    assert clip.times == pytest.approx([i / 24 for i in wanted], abs=0.011)  # gif counts in hundredths
    assert (clip.kind, clip.note) == ("video", "")


def test_frames_at_indices_come_in_the_order_asked(mp4):
    every = clips.decoded(mp4)
    clip = read_frames(mp4, at_indices([30, 0, 30]))
    assert np.array_equal(clip.frames, np.stack([every[30], every[0], every[30]]))
    assert clip.times == pytest.approx((1.25, 0, 1.25))


def test_clip_shorter_than_asked_gives_all_frames_and_says_so(folder):
    clip = read_frames(clips.write(folder / "short.mp4", frames=5), uniform(8))
    assert clip.indices == (0, 1, 2, 3, 4)
    assert clip.note == "the clip has 5 frames, 8 were asked for; all are used"
    assert read_frames(np.zeros((1, 4, 4, 3), np.uint8)).note.startswith("the clip has 1 frame, 8")


@pytest.mark.parametrize("claimed", [0, 20, 100])
def test_frame_counts_in_headers_are_not_believed(folder, claimed):
    path = clips.write(folder / f"claims{claimed}.avi", "mpeg4", 60)
    data = bytearray(path.read_bytes())
    at = data.index(b"strh") + 8 + 32  # dwLength of the stream header
    assert int.from_bytes(data[at : at + 4], "little") == 60
    data[at : at + 4] = claimed.to_bytes(4, "little")
    path.write_bytes(data)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == claimed

    clip = read_frames(path, uniform(8))

    assert clip.total == 60
    assert clip.indices == (0, 7, 15, 22, 30, 37, 45, 52)


def test_frames_hidden_by_an_edit_list_do_not_count(folder, mp4):
    trimmed = folder / "trimmed.mp4"
    with av.open(str(mp4)) as source, av.open(str(trimmed), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                shift = round(10 / 24 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                target.mux(packet)
    with av.open(str(trimmed)) as container:
        assert container.streams.video[0].frames == 60

    clip = read_frames(trimmed, uniform(5))

    assert (clip.total, clip.indices, clip.times[0]) == (50, (0, 10, 20, 30, 40), 0.0)
    assert np.array_equal(clip.frames, np.stack([clips.decoded(trimmed)[i] for i in clip.indices]))


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_frames_are_turned_upright_unless_told_not_to(folder, turn):
    if not hasattr(av.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV cannot write a rotation")
    path = clips.write(folder / f"turned{turn}.mp4", frames=9, turn=turn)
    upright, raw = read_frames(path), read_frames(path, rotate=False)
    assert (upright.rotation, raw.rotation) == (turn, 0)
    assert np.array_equal(upright.frames, np.rot90(raw.frames, turn // 90, axes=(1, 2)))
    assert np.array_equal(raw.frames, np.stack([clips.decoded(path)[i] for i in raw.indices]))


def test_path_bytes_and_file_objects_give_the_same(mp4):
    class Pipe(io.RawIOBase):
        def __init__(self, data):
            self.data = io.BytesIO(data)

        def read(self, size=-1):
            return self.data.read(size)

    expected = read_frames(mp4).frames
    data = mp4.read_bytes()
    opened = io.BytesIO(data)
    opened.seek(100)
    for source in (str(mp4), data, memoryview(data), opened, Pipe(data)):
        assert np.array_equal(read_frames(source).frames, expected)
    assert not opened.closed


@pytest.mark.parametrize("pick", [uniform(8), uniform(60), at_indices([59]), at([1.0, 2.0])])
def test_large_file_objects_give_the_same(large, pick):
    """Larger than any buffer: while a clip is open, other looks at the same file must not move its place."""
    expected = read_frames(large, pick)
    with large.open("rb") as file, large.open("rb", buffering=0) as raw, tempfile.TemporaryFile() as copy:
        copy.write(large.read_bytes())
        for source in (file, raw, copy, io.BytesIO(large.read_bytes())):
            clip = read_frames(source, pick)
            assert (clip.indices, clip.total, clip.note) == (expected.indices, 60, "")
            assert np.array_equal(clip.frames, expected.frames)
    inside = Policy(folders=(str(large.parent),))
    assert np.array_equal(read_frames(large, pick, policy=inside).frames, expected.frames)


@pytest.fixture(scope="module")
def large(folder):
    """Some megabytes of noise with one key frame."""
    path, rng = folder / "large.mp4", np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"preset": "ultrafast", "g": "250"})
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        for _ in range(60):
            picture = rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    assert path.stat().st_size > 200_000
    return path


def test_frames_that_the_decoder_leaves_out_are_told(large, monkeypatch):
    decode = video._decode

    def ends_early(*args, **more):
        found = decode(*args, **more)
        kept = {index: frame for index, frame in found.kept.items() if index < 40}
        return replace(found, kept=kept, seen=min(found.seen, 40), ended=found.seen > 40)

    monkeypatch.setattr(video, "_decode", ends_early)
    clip = read_frames(large, uniform(10))
    assert (clip.total, clip.indices) == (40, tuple(range(0, 40, 4)))
    assert clip.note == "60 frames are in the file, 40 of them can be decoded"


def test_frames_handed_in_are_chosen_from():
    frames = np.random.default_rng(0).integers(0, 256, (10, 6, 8, 3), dtype=np.uint8)
    for given in (frames, torch.from_numpy(frames), frames.transpose(0, 3, 1, 2), list(frames),
                  [Image.fromarray(f) for f in frames]):  # fmt: skip
        clip = read_frames(given, uniform(4))
        assert np.array_equal(clip.frames, frames[[0, 2, 5, 7]])
        assert (clip.indices, clip.times, clip.total) == ((0, 2, 5, 7), None, 10)
    assert np.array_equal(read_frames(frames[..., :1], uniform(1)).frames, frames[:1, ..., :1].repeat(3, -1))


def test_folder_of_pictures_is_a_clip_in_the_order_of_its_numbers(tmp_path):
    for number in range(12):
        Image.fromarray(clips.picture(number)).save(tmp_path / f"frame{number}.png")
    clip = read_frames(tmp_path, uniform(4))
    assert np.array_equal(clip.frames, np.stack([clips.picture(n) for n in (0, 3, 6, 9)]))


def test_memory_does_not_grow_with_the_clip(folder):
    path = clips.write(folder / "long.mp4", frames=200, size=(96, 128))
    read_frames(path)
    tracemalloc.start()
    clip = read_frames(path, uniform(4))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert clip.total == 200
    assert peak < 12 * clip.frames[0].nbytes


def test_size_changes_are_told(folder):
    frames = [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)]
    with pytest.raises(MediaError, match=r"frame 1 has shape \(4, 6, 3\), the first has \(4, 4, 3\)"):
        read_frames(frames)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("cut.mp4", "libx264"), ("cut.avi", "mpeg4"), ("cut.mkv", "libx264"), ("cut.webm", "libvpx-vp9")],
)
def test_truncated_clip_is_refused_with_what_was_read_and_expected(folder, name, codec):
    options = {"movflags": "faststart"} if name == "cut.mp4" else {}
    path = clips.write(folder / name, codec, 60, **options)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    expected = "60" if name in ("cut.mp4", "cut.avi") else "about 60"

    with pytest.raises(
        MediaError, match=r"cut\.\w+: the data ends early \([\d,]+ bytes are missing\)"
    ) as caught:
        read_frames(path)

    readable = int(re.search(r"(\d+) of", str(caught.value))[1])
    assert 0 < readable < 60
    assert f": {readable} of {expected} frames can be read; get the whole file, or name frames with " in str(
        caught.value
    )
    assert str(caught.value).endswith(f"at_indices up to {readable - 1}")
    assert read_frames(path, at_indices([3])).indices == (3,)
    with pytest.raises(MediaError, match="the data ends early"):
        read_frames(path, at_indices([59]))


def test_clip_cut_before_its_index_is_refused(folder):
    path = clips.write(folder / "no_index.mp4")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 4])
    with pytest.raises(
        MediaError, match=r"no_index.mp4: the data ends early \(its index \(moov\) is missing\)"
    ):
        read_frames(path)
    path.write_bytes(data[: data.index(b"moov") - 40])
    with pytest.raises(MediaError, match=r"the data ends early \(36 bytes are missing\); get the whole file"):
        read_frames(path)


def test_transport_stream_cut_inside_a_packet_is_refused(folder):
    path = clips.write(folder / "cut.ts")
    data = path.read_bytes()
    path.write_bytes(data[: 188 * 30 + 50])
    with pytest.raises(MediaError, match="its last packet has 50 of 188 bytes"):
        read_frames(path)


def test_damage_in_the_middle_is_told_and_earlier_frames_are_given(folder):
    path = clips.write(folder / "damaged.webm", "libvpx-vp9", 20, **{"cpu-used": "8", "lag-in-frames": "0"})
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    at = data.index(packets[12])
    data[at : at + len(packets[12])] = bytes(len(packets[12]))
    path.write_bytes(data)
    with pytest.raises(
        MediaError, match=r"damaged.webm: damaged after (\d+) frames \(Invalid data.*\): \1 of"
    ):
        read_frames(path)
    assert read_frames(path, at_indices([0, 9])).indices == (0, 9)


def test_unreadable_sources_are_told_apart(tmp_path, mp4):
    text, sound = tmp_path / "notes.mp4", tmp_path / "sound.wav"
    text.write_text("not a video\n" * 50)
    with wave.open(str(sound), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(16000))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.mp4").touch()
    cases = {
        tmp_path / "absent.mp4": "absent.mp4: no such file",
        text: r"notes.mp4: neither a picture \(.*JPEG.*\) nor a video that can be read",
        sound: "sound.wav: no moving picture in it, only audio",
        tmp_path / "empty": "empty: a folder without files",
        tmp_path / "empty.mp4": r"empty.mp4: empty \(0 bytes\)",
        b"": r"bytes: empty \(0 bytes\)",
        5: "int is nothing to open",
    }
    for source, message in cases.items():
        with pytest.raises(MediaError, match=message):
            read_frames(source)
    with pytest.raises(MediaError, match=r"no frame 60, the clip has 60; ask for indices from 0 to 59"):
        read_frames(mp4, at_indices([0, 60]))
    with pytest.raises(MediaError, match="values of type float32, where whole numbers 0-255"):
        read_frames(np.zeros((2, 4, 4, 3), np.float32))
    with pytest.raises(MediaError, match="frames: an array of no frames; give at least one"):
        read_frames(np.zeros((0, 4, 4, 3), np.uint8))
    with pytest.raises(MediaError, match="four colours"):
        read_frames(np.zeros((2, 4, 4, 4), np.uint8))
    with pytest.raises(MediaError, match="frames: 2 clips, where one was expected"):
        read_frames([np.zeros((2, 4, 4, 3), np.uint8)] * 2)


def test_video_frames_beyond_the_budget_are_refused(mp4):
    with pytest.raises(MediaError, match=r"plain.mp4: 64x48 is 3,072 pixels, at most 3,000 are decoded"):
        read_frames(mp4, policy=Policy(max_pixels=3000))


def test_playlists_and_scripts_are_not_opened(tmp_path, mp4):
    playlist = tmp_path / "list.m3u8"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{mp4}\n#EXT-X-ENDLIST\n")
    with pytest.raises(MediaError, match=r"list.m3u8: neither a picture"):
        read_frames(playlist)


def test_media_is_told_apart_by_content_not_by_name(tmp_path, mp4):
    disguised = tmp_path / "photo.jpg"
    disguised.write_bytes(mp4.read_bytes())
    still = tmp_path / "still.mp4"
    Image.fromarray(clips.picture(3)).save(still, "PNG")
    moving = tmp_path / "moving.webp"
    first, *rest = [Image.fromarray(clips.picture(n)) for n in range(6)]
    first.save(moving, save_all=True, append_images=rest, duration=100, lossless=True)

    video, picture, animation = read_media(disguised), read_media(still), read_media(moving, uniform(3))

    assert (video.kind, video.total) == ("video", 60)
    assert (picture.kind, picture.total, picture.note) == ("picture", 1, "")
    assert np.array_equal(picture.frames[0], clips.picture(3))
    assert (animation.kind, animation.total, animation.indices) == ("video", 6, (0, 2, 4))
    assert animation.times == pytest.approx((0, 0.2, 0.4))
    assert np.array_equal(animation.frames, np.stack([clips.picture(n) for n in (0, 2, 4)]))
    timed = read_media(moving, at([0.45, 0.1]))
    assert (timed.indices, timed.total) == ((4, 1), 6)
    assert timed.times == pytest.approx((0.4, 0.1))
    assert timed.timeline.length() == pytest.approx(0.6)
    assert [len(part.frames) for part in read_media(moving, segments(0.4, 2)).split(segments(0.4, 2))] == [
        2,
        2,
    ]
    with pytest.raises(MediaError, match=r"moving.webp: no frame at 0.7 s, the clip ends at 0.6 s"):
        read_media(moving, at([0.7]))
    assert read_media(first).kind == read_media(clips.picture(0)).kind == "picture"
    assert read_media(clips.picture(0)[None]).kind == "video"
