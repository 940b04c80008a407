"""Files and choices that once were read wrongly, or ended in somebody else's error."""

import dataclasses
import gzip
import io
import struct
import tarfile

import numpy as np
import pytest
from PIL import Image

from tests.media.clips import write
from watchword import media
from watchword.errors import MediaError, RequestError
from watchword.media.policy import OPEN
from watchword.media.timeline import Timeline

RAMP = np.tile((np.arange(64) * 1040).astype(np.uint16), (8, 1))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write(tmp_path_factory.mktemp("media") / "clip.mp4", frames=30)


def test_frames_of_a_clip_keep_their_numbers_and_times(clip):
    first = media.read_frames(clip, media.at_indices([10, 20, 25]))
    again = media.read_frames(first, media.at_indices([0, 2]))
    assert again.indices == (10, 25)
    assert again.times == (first.times[0], first.times[2])
    assert (again.total, again.fps, again.kind) == (30, first.fps, "video")
    assert np.array_equal(again.frames, first.frames[[0, 2]])
    with pytest.raises(MediaError, match="frames without times, so none can be chosen by time"):
        media.read_frames(first, media.at([0.0]))
    picture = media.read_frames(np.zeros((9, 9, 3), np.uint8))
    still = dataclasses.replace(picture, kind="picture")
    assert (media.read_frames(still).indices, media.read_frames(still).note) == ((0,), "")


@pytest.mark.parametrize("name", ["a.png", "a.pgm"])
def test_grey_of_16_bits_is_scaled_however_it_comes(tmp_path, name):
    Image.fromarray(RAMP).save(tmp_path / name)
    for found in (
        media.read_image(tmp_path / name),
        media.read_image(Image.open(tmp_path / name)),
        media.read_frames([Image.open(tmp_path / name)]).frames[0],
    ):
        assert np.array_equal(found[..., 0], RAMP >> 8)


def test_other_tags_of_exif_do_not_matter(tmp_path):
    picture = Image.fromarray(np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3))
    width_in_words = struct.pack("<HHI4s", 256, 2, 4, b"wid\0")
    upright = struct.pack("<HHIHH", 274, 3, 1, 6, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + width_in_words + upright + bytes(4)
    picture.save(tmp_path / "a.jpg", exif=exif)
    assert media.read_image(tmp_path / "a.jpg").shape == (30, 20, 3)


@pytest.mark.parametrize("error", [RuntimeError, IndexError, TypeError, AttributeError, OverflowError])
def test_whatever_a_decoder_raises_is_a_damaged_picture(tmp_path, monkeypatch, error):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")

    def broken(*_, **__):
        raise error("no")

    monkeypatch.setattr(Image.Image, "getexif", broken)
    with pytest.raises(MediaError, match=r"a\.png: a damaged picture \(no\)"):
        media.read_frames(tmp_path / "a.png")


def test_stretches_that_a_file_makes_countless_are_refused():
    far = Timeline(2, times=(0.0, 3e9), end=3e9 + 1)
    with pytest.raises(
        RequestError, match=r"segments: 30 s of 3e\+09 s are 1e\+08 stretches; expected at most"
    ):
        media.segments(30).spans(far)
    for pick in (media.every, media.segments):
        with pytest.raises(RequestError, match="1e-320 s; give at least 1e-06 s"):
            pick(1e-320)


def test_memory_counts_frames_that_are_chosen_twice(clip):
    policy = OPEN.__class__(max_memory=5 * 64 * 48 * 3)
    with pytest.raises(MediaError, match=r"100 frames of .* are kept"):
        media.read_frames(clip, media.at_indices([3] * 100), policy=policy)


def test_sandboxed_readers_of_archives_are_read_by_what_they_give(tmp_path):
    Image.new("RGB", (12, 9), "red").save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.gz").write_bytes(gzip.compress(content))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "a.png", "a.png")
    with tarfile.open(tmp_path / "a.tar") as archive, gzip.open(tmp_path / "a.gz") as zipped:
        for file in (archive.extractfile("a.png"), io.BufferedReader(zipped)):
            assert media.read_frames(file, sandbox=True).frames.shape == (1, 9, 12, 3)
