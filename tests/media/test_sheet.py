import re

import numpy as np
import pytest
from PIL import Image

from watchword.errors import MediaError, RequestError
from watchword.media import sheet
from watchword.media.frames import Clip
from watchword.media.heat import Heat, glow, overlay
from watchword.media.sheet import contact_sheet, save_sheet, told_time

COLOURS = [(200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40), (40, 200, 200)]


def clip_of(count: int, height: int = 60, width: int = 80, *, times: bool = True) -> Clip:
    """Frames that have one colour each."""
    frames = np.empty((count, height, width, 3), np.uint8)
    for number in range(count):
        frames[number] = COLOURS[number % len(COLOURS)]
    return Clip(
        frames, tuple(range(0, 3 * count, 3)), tuple(i * 0.5 for i in range(count)) if times else None, 99
    )


def places(picture: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """The box around all pixels of a colour: left, top, right, bottom."""
    rows, columns = np.nonzero((np.asarray(picture) == colour).all(axis=-1))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def test_sheet_shows_each_frame_whole_in_reading_order():
    picture = contact_sheet(clip_of(5), columns=3, tile=120)
    boxes = [places(picture, colour) for colour in COLOURS]
    assert {(right - left, bottom - top) for left, top, right, bottom in boxes} == {(120, 90)}
    assert boxes[0][0] < boxes[1][0] < boxes[2][0]
    assert boxes[0][1] == boxes[1][1] == boxes[2][1] < boxes[3][1] == boxes[4][1]
    assert boxes[3][0] == boxes[0][0]


@pytest.mark.parametrize(("count", "across"), [(1, 1), (3, 3), (8, 4), (9, 3), (16, 6)])
def test_sheet_fills_its_rows(count, across):
    assert sheet._columns(count, 4 / 3) == across


@pytest.mark.parametrize(("height", "width"), [(60, 80), (160, 90), (7, 300), (300, 7)])
def test_sheet_keeps_the_shape_of_frames(height, width):
    left, top, right, bottom = places(contact_sheet(clip_of(1, height, width), tile=150), COLOURS[0])
    assert max(right - left, bottom - top) == 150
    assert (bottom - top) / (right - left) == pytest.approx(height / width, rel=0.15)


def test_sheet_tells_times_and_numbers_or_numbers_alone(monkeypatch):
    drawn = []
    monkeypatch.setattr(sheet.ImageDraw.ImageDraw, "text", lambda self, place, text, **_: drawn.append(text))
    contact_sheet(clip_of(2), title="a title", caption="a caption", footer="small print")
    assert drawn == ["a title", "a caption", "0.00 s", "#0", "0.50 s", "#3", "small print"]
    drawn.clear()
    contact_sheet(clip_of(2, times=False))
    assert drawn == ["#0", "#3"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.00 s"), (59.994, "59.99 s"), (59.996, "0:59.9"), (60, "1:00.0"), (3599.94, "59:59.9"),
     (3599.96, "0:59:59"), (3600, "1:00:00"), (36_061, "10:01:01")],
)  # fmt: skip
def test_times_are_told_by_their_size(seconds, text):
    assert told_time(seconds) == text


def test_sheet_wraps_words_and_cuts_what_has_no_end():
    long = contact_sheet(clip_of(1), title="word " * 400)
    endless = contact_sheet(clip_of(1), title="w" * 4000)
    one = contact_sheet(clip_of(1), title="word")
    assert long.width == endless.width == one.width
    assert one.height < long.height < one.height + 200
    assert endless.height < one.height + 200
    lines = [text for text, _ in sheet._lines("line one\nline\ttwo\x00 three", sheet.BIG, 2000)]
    assert lines == ["line one line two three"]


def test_sheet_has_a_row_for_each_heat_map_with_its_peak_outlined():
    values = np.zeros((4, 2, 2), np.float32)
    values[2, 1, 0] = 5
    heat = Heat("word", values, "12%")
    assert heat.peak == (2, 1, 0)
    clip = clip_of(4)
    plain, shown = contact_sheet(clip, tile=80), contact_sheet(clip, heats=[heat, heat], tile=80)
    assert shown.height > plain.height + 2 * 60
    left, top, right, _ = places(shown, (255, 255, 255))
    frame = places(shown, COLOURS[2])
    assert left == frame[0]
    assert right == pytest.approx(frame[0] + 40, abs=1)  # the left half of the third frame
    assert top > frame[3]
    rows = [np.asarray(shown)[frame[3] + 34 + extra, frame[0] + 60] for extra in (20, 20 + 70)]
    assert (rows[0] == rows[1]).all()


def test_map_is_laid_over_the_part_that_was_seen():
    picture = Image.new("RGB", (90, 60), (200, 200, 200))
    shown = np.asarray(overlay(picture, np.ones((2, 2), np.float32), (1 / 6, 0, 5 / 6, 1))).astype(int)
    assert (shown[:, :15] == shown[0, 0]).all()
    assert (shown[:, 75:] == shown[0, 0]).all()
    assert (shown[:, 15:75] == shown[30, 45]).all()
    assert shown[0, 0].max() < 60 < shown[30, 45].max()
    bright = glow(np.ones((1, 1)))[0, 0]
    assert np.abs(shown[30, 45] - bright).max() < 50


def test_map_may_reach_beyond_the_frame():
    picture = Image.new("RGB", (60, 30), (200, 200, 200))
    values = np.zeros((4, 2), np.float32)
    values[:1] = 1  # lies in the padding above the frame, and at its edge bicubic curves reach in
    shown = np.asarray(overlay(picture, values, (0, -0.5, 1, 1.5))).astype(int)
    assert shown.shape == (30, 60, 3)
    assert (shown[20:] == shown[-1, 0]).all()


def test_map_of_zeros_shows_frames_without_an_outline():
    picture = contact_sheet(clip_of(2), heats=[Heat("word", np.zeros((2, 3, 3), np.float32))], tile=80)
    assert not (np.asarray(picture) == (255, 255, 255)).all(axis=-1).any()


def test_colours_begin_dark_and_end_bright():
    ramp = glow(np.linspace(0, 1, 50)[None])[0].sum(axis=-1)
    assert (np.diff(ramp) > 0).all()


@pytest.mark.parametrize("shape", [(3, 2, 2), (2, 2)])
def test_map_for_another_number_of_frames_is_refused(shape):
    with pytest.raises(RequestError, match=re.escape(f"heat 'word' has shape {shape} for 2 frames")):
        contact_sheet(clip_of(2), heats=[Heat("word", np.zeros(shape, np.float32))])


def test_sheet_that_would_be_too_large_is_refused():
    with pytest.raises(
        RequestError, match=r"100 frames of 4000x3000 make a picture of .* at most 60,000,000"
    ):
        contact_sheet(clip_of(100), tile=4000)


@pytest.mark.parametrize(("name", "kind"), [("a.png", "PNG"), ("a.JPG", "JPEG"), ("a.webp", "WEBP")])
def test_sheet_is_written_as_its_name_says(tmp_path, name, kind):
    made = contact_sheet(clip_of(2))
    save_sheet(made, tmp_path / name)
    with Image.open(tmp_path / name) as read:
        assert (read.format, read.size) == (kind, made.size)


def test_sheet_is_not_written_under_other_names_or_where_nothing_can_be(tmp_path):
    with pytest.raises(RequestError, match=r"why\.txt: ends in '\.txt', expected a picture's name: \.png, "):
        save_sheet(contact_sheet(clip_of(1)), "why.txt")
    with pytest.raises(
        MediaError, match=re.escape(f"{tmp_path}/none/a.png: cannot be written (No such file")
    ):
        save_sheet(contact_sheet(clip_of(1)), tmp_path / "none" / "a.png")


@pytest.mark.parametrize("size", [(1, 500), (500, 1), (1, 1)])
def test_a_patch_narrower_than_a_pixel_is_outlined(size):
    values = np.ones((4, 4), np.float32)
    assert overlay(Image.new("RGB", size), values, (0, 0, 1, 1), outline=(3, 3)).size == size
