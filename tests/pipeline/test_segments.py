"""A film in stretches: each answered as if it were alone, with its times."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.media.clips import write
from watchword import media
from watchword.errors import CapacityError, MediaError, RequestError
from watchword.pipeline import segments
from watchword.pipeline.segments import clock, goes

QUESTION = "What happens?"
SHORT = {"max_tokens": 4}


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """2.5 s, 60 frames."""
    return write(tmp_path_factory.mktemp("film") / "film.mp4", frames=60)


@pytest.mark.parametrize("kind", ["llava", "blip-t5"])
def test_segments_are_answered_as_if_each_were_alone(pipeline, film, kind):
    model = pipeline(kind)
    found = model.ask_segments(film, QUESTION, media.segments(1.0, 2), **SHORT)
    assert [(one.start, one.end) for one in found.segments] == [(0, 1), (1, 2), (2, pytest.approx(2.5))]
    assert [one.answer.frames for one in found.segments] == [(0, 12), (24, 36), (48, 54)]
    for one in found.segments:
        alone = model.ask(film, QUESTION, frames=media.at_indices(one.answer.frames), **SHORT)
        assert one.answer.text == alone.text
        assert one.answer.times == pytest.approx(alone.times)
        assert one.answer.total_frames == 60
    lines = found.text.splitlines()
    assert len(lines) == 3
    assert lines[1] == f"0:01-0:02  {' '.join(found.segments[1].answer.text.split())}"
    assert str(found) == found.text
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["question"] == QUESTION
    assert plain["text"] == found.text
    assert plain["segments"][2]["start"] == 2
    assert plain["segments"][2]["frames"] == [48, 54]


def test_seconds_alone_take_the_familys_number_of_frames(pipeline, film):
    found = pipeline("blip").ask_segments(film, QUESTION, 1.25, **SHORT)
    assert [len(one.answer.frames) for one in found.segments] == [4, 4]


def test_a_part_of_a_film_is_divided(pipeline, film):
    pick = media.segments(0.5, 1, start=1.0, end=2.2)
    found = pipeline("llava").ask_segments(film, QUESTION, pick, **SHORT)
    assert [one.span for one in found.segments] == ["0:01-0:01.5", "0:01.5-0:02", "0:02-0:02.2"]
    assert [one.answer.frames for one in found.segments] == [(24,), (36,), (48,)]


def test_long_films_are_read_in_goes_and_answers_come_meanwhile(pipeline, film, monkeypatch):
    model = pipeline("llava")
    whole = model.ask_segments(film, QUESTION, media.segments(0.5, 2), **SHORT)
    read = []
    reading = segments.read_media
    monkeypatch.setattr(
        segments, "read_media", lambda *args, **more: read.append(args[1]) or reading(*args, **more)
    )
    monkeypatch.setattr(segments, "MOST_BYTES", 4 * 48 * 64 * 3)  # four frames
    stream = model.stream_segments(film, QUESTION, media.segments(0.5, 2), **SHORT)
    first = next(stream)
    assert len(read) == 2  # the times, and the first two stretches
    assert [first, *stream] != []
    assert len(read) == 4
    again = model.ask_segments(film, QUESTION, media.segments(0.5, 2), **SHORT)
    assert again.text == whole.text
    assert len(whole.segments) == 5


def test_goes_are_as_large_as_rows_and_memory_allow():
    spans = [(float(n), n + 1.0, (n, n)) for n in range(5)]
    assert [len(some) for some in goes(spans, 1, rows=2)] == [2, 2, 1]
    assert [len(some) for some in goes(spans, segments.MOST_BYTES // 4, rows=99)] == [2, 2, 1]
    assert [len(some) for some in goes(spans, segments.MOST_BYTES, rows=99)] == [1] * 5


def test_a_segment_with_few_frames_says_so(pipeline, film):
    found = pipeline("llava").ask_segments(film, QUESTION, media.segments(2.0, 20), **SHORT)
    assert found.segments[0].answer.notes == ()
    note = "this segment has 12 of the 20 frames asked for; all are used"
    assert found.segments[1].answer.notes == (note,)


def test_what_can_be_read_once_is_divided_too(pipeline, film):
    class Pipe(io.BytesIO):
        def seekable(self):
            return False

    expected = pipeline("llava").ask_segments(film, QUESTION, 1.0, **SHORT).text
    assert pipeline("llava").ask_segments(Pipe(film.read_bytes()), QUESTION, 1.0, **SHORT).text == expected


def test_segments_refuse_what_cannot_be_divided(pipeline, film, tmp_path):
    model = pipeline("llava")
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    frames = np.zeros((4, 9, 9, 3), np.uint8)
    cases = [
        (tmp_path / "a.png", 1.0, {}, RequestError, "segments: a picture without times cannot be divided"),
        (frames, 1.0, {}, MediaError, "frames without times, so none can be chosen by time"),
        (tmp_path, 1.0, {}, MediaError, "frames without times, so none can be chosen by time"),
        (film, 0, {}, RequestError, "segments: one frame or part each 0 s; give seconds above 0"),
        (film, -3, {}, RequestError, "segments: -3 s is before the clip"),
        (film, media.segments(1, start=9), {}, MediaError, "a part from 9 s, but the clip ends at 2.5 s"),
        (film, 1.0, {"n": 2, "temperature": 1}, RequestError, "segments: n=2, but it gives one answer"),
    ]
    for medium, every, settings, kind, message in cases:
        with pytest.raises(kind, match=message):
            model.ask_segments(medium, QUESTION, every, **settings)
    with pytest.raises(CapacityError, match="ask: the prompt has "):
        model.ask_segments(film, "What? " * 400)
    with pytest.raises(RequestError, match="segments: the question is ' ', expected some words"):
        model.ask_segments(film, " ")
    for door in (model.ask, model.rank):
        with pytest.raises(
            RequestError, match="frames: segments are asked about one by one; use ask_segments"
        ):
            door(film, QUESTION, *([["A dog."]] if door == model.rank else []), frames=media.segments(1.0))


def test_times_are_told_as_the_flags_take_them():
    told = {0: "0:00", 30: "0:30", 90.25: "1:30.25", 3723: "1:02:03", 2.0004: "0:02", 3599.9999: "1:00:00"}
    for seconds, text in told.items():
        assert clock(seconds) == text
        assert media.parse_time(text) == pytest.approx(seconds, abs=1e-3)
