"""Pictures: upright, RGB, within the budget."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.media import clips
from watchword.errors import MediaError
from watchword.media import Policy, read_image

PICTURE = clips.picture(5, 20, 30)


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [(1, lambda a: a), (3, lambda a: a[::-1, ::-1]), (6, lambda a: np.rot90(a, -1)), (8, np.rot90)],
)
def test_exif_rotation_is_honoured(orientation, turned):
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PICTURE).save(file, "PNG", exif=exif)
    assert np.array_equal(read_image(file), turned(PICTURE))


def test_transparency_is_dropped_and_grey_expanded():
    clear = np.dstack([PICTURE, np.zeros((20, 30), np.uint8)])
    assert np.array_equal(read_image(Image.fromarray(clear)), PICTURE)
    grey = Image.fromarray(PICTURE).convert("L")
    assert np.array_equal(read_image(grey), np.asarray(grey)[..., None].repeat(3, -1))


def test_sixteen_bit_grey_is_scaled_not_cut():
    deep = (np.arange(600, dtype=np.uint16) * 100).reshape(20, 30)
    file = io.BytesIO()
    Image.fromarray(deep).save(file, "PNG")
    assert np.array_equal(read_image(file)[..., 0], deep >> 8)


def test_arrays_and_pillow_images_are_pictures_already():
    for source in (PICTURE, PICTURE.transpose(2, 0, 1), Image.fromarray(PICTURE)):
        assert np.array_equal(read_image(source), PICTURE)


def test_picture_beyond_the_budget_is_refused_before_it_is_decoded():
    file = io.BytesIO()
    Image.new("1", (20000, 10000)).save(file, "PNG")
    with pytest.raises(MediaError, match=r"20000x10000 is 200,000,000 pixels|too large"):
        read_image(file)
    small = io.BytesIO()
    Image.fromarray(PICTURE).save(small, "PNG")
    with pytest.raises(MediaError, match=r"30x20 is 600 pixels, at most 599 are decoded"):
        read_image(small, policy=Policy(max_pixels=599))


def test_cut_off_picture_is_refused():
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, "JPEG")
    with pytest.raises(MediaError, match=r"bytes: a damaged picture \(.*truncated.*\); get the file whole"):
        read_image(file.getvalue()[:-900])


def test_what_is_no_picture_is_refused(tmp_path):
    clip = clips.write(tmp_path / "clip.mp4", frames=2)
    with pytest.raises(MediaError, match=r"clip.mp4: not a picture \(.*\); for a video use read_frames"):
        read_image(clip)
    with pytest.raises(MediaError, match=f"{tmp_path}: a folder, where a picture or video file was expected"):
        read_image(tmp_path)
    photo = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    with pytest.raises(MediaError, match="bytes: a HEIF picture, which is not read here; convert it to JPEG"):
        read_image(photo)
    icon = io.BytesIO()
    Image.fromarray(PICTURE).save(icon, "ICO")
    with pytest.raises(
        MediaError, match="file object: not a picture"
    ):  # not among the formats that are tried
        read_image(icon)
