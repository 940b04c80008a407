"""Frame choice by time: what is on screen when, and clear words for bad times."""

import pytest

from watchword.errors import MediaError, RequestError
from watchword.media import (
    Timeline,
    at,
    between,
    every,
    from_flags,
    parse_time,
    scenes,
    segments,
    uniform,
)

STEADY = Timeline(100, fps=10)
UNEVEN = Timeline(5, fps=2.5, times=(0.0, 0.1, 1.0, 1.1, 1.9), end=2.0)


def test_uniform_centre_takes_the_middle_of_equal_parts():
    for total in range(1, 60):
        for count in range(1, total + 1):
            middles = [(i + 0.5) * total / count for i in range(count)]
            chosen = uniform(count, centre=True).choose(Timeline(total))
            assert all(i <= middle + 1e-9 < i + 1 for i, middle in zip(chosen, middles, strict=True))


def test_at_gives_the_frame_on_screen():
    assert at([0, 0.19, 0.2, 9.99]).choose(STEADY) == (0, 1, 2, 99)
    assert at([0.5, 1.05, 1.99]).choose(UNEVEN) == (1, 2, 4)
    for index in range(100):  # a time that was told of a frame gives that frame again, however it was rounded
        thirds = Timeline(100, fps=30000 / 1001)
        assert at([thirds.time(index)]).choose(thirds) == (index,)


def test_every_steps_through_the_part_and_repeats_no_frame():
    assert every(2).choose(STEADY) == (0, 20, 40, 60, 80)
    assert every(0.1).choose(STEADY) == tuple(range(100))
    assert every(0.001).choose(STEADY) == tuple(range(100))
    assert every(1, start=2.5, end=5.5).choose(STEADY) == (25, 35, 45)
    assert every(0.3).choose(UNEVEN) == (0, 1, 3)
    assert every(0.15).choose(UNEVEN) == (0, 1, 2, 3, 4)
    assert every(0.05).choose(UNEVEN) == (0, 1, 2, 3, 4)


def test_between_spreads_over_the_part():
    assert between(1, 3, 4).choose(STEADY) == (10, 15, 20, 25)
    assert between(None, 1, 2).choose(STEADY) == (0, 5)
    assert between(9.5, None, 99).choose(STEADY) == (95, 96, 97, 98, 99)
    assert between(0.2, 0.9, 3).choose(UNEVEN) == (1,)  # nothing begins there, but frame 1 is on screen


def test_scenes_are_cut_where_the_picture_changes_suddenly():
    changes = [0.01] * 60
    changes[20], changes[45], changes[5] = 0.5, 0.4, 0.03
    timeline = Timeline(60, fps=10, changes=changes)
    assert timeline.cuts() == [20, 45]
    assert scenes(3).choose(timeline) == (9, 32, 52)
    assert scenes(2).choose(timeline) == (9, 39)
    assert scenes(4).choose(timeline) == (9, 25, 38, 52)  # the longest scene is halved
    assert scenes(1, start=2.0, end=4.5).choose(timeline) == (32,)
    assert scenes(90).choose(timeline) == tuple(range(60))


def test_steady_motion_is_no_cut():
    assert Timeline(50, changes=[0.2] * 50).cuts() == []


def test_segments_cover_the_clip():
    spans = segments(4, 2).spans(STEADY)
    assert [span[:2] for span in spans] == [(0, 4), (4, 8), (8, 10)]
    assert [span[2] for span in spans] == [(0, 20), (40, 60), (80, 90)]
    assert segments(4, 2).choose(STEADY) == (0, 20, 40, 60, 80, 90)
    assert [span[2] for span in segments(0.5, 1).spans(UNEVEN)] == [(0,), (1,), (2,), (4,)]
    assert segments(4, 1, start=1, end=6).spans(STEADY) == ((1.0, 5.0, (10,)), (5.0, 6.0, (50,)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: at([]), "at: no time was given"),
        (lambda: at([-1.5]), r"at: -1.5 s is before the clip; times count from 0"),
        (lambda: at([float("nan")]), "at: nan is no time; give seconds"),
        (lambda: every(0), "every: one frame or part each 0 s; give seconds above 0"),
        (lambda: every(-2), "every: -2 s is before the clip"),
        (lambda: every("2s"), "every: '2s' is no time"),
        (lambda: between(5, 3, 8), "between: from 5 s to 3 s; let the part end after it begins"),
        (lambda: between(None, 0, 8), "between: from 0 s to 0 s"),
        (lambda: between(1, 2, 0), "between: 0 frames asked for"),
        (lambda: scenes(0), "scenes: 0 frames asked for"),
        (lambda: segments(0), "segments: one frame or part each 0 s"),
        (lambda: segments(5, -1), "segments: -1 frames asked for"),
        (lambda: segments(5, start=4, end=2), "segments: from 4 s to 2 s; let the part end after it begins"),
        (lambda: uniform(0, centre=True), "uniform: 0 frames asked for"),
    ],
)
def test_bad_times_and_counts_are_refused_at_once(make, message):
    with pytest.raises(RequestError, match=message):
        make()


def test_times_beyond_the_clip_are_told_with_its_end():
    film = Timeline(100, fps=10, name="film.mp4")
    with pytest.raises(
        MediaError, match=r"film.mp4: no frame at 95 s, the clip ends at 10 s; ask for times up to 9.9"
    ):
        at([95]).choose(film)
    with pytest.raises(MediaError, match=r"film.mp4: a part from 10.5 s, but the clip ends at 10 s"):
        between(10.5, 12, 3).choose(film)
    with pytest.raises(MediaError, match=r"film.mp4: a part up to 12 s, but the clip ends at 10 s"):
        every(1, end=12).choose(film)
    assert between(0, 10.1, 1).choose(film) == (0,)  # within the time of one frame


def test_frames_without_a_clock_are_not_chosen_by_time():
    with pytest.raises(MediaError, match="film: frames without times, so none can be chosen by time"):
        at([1]).choose(Timeline(10, name="film"))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("9", 9), ("3.5s", 3.5), ("500ms", 0.5), ("2m", 120), ("1h", 3600), ("0:10", 10), ("1:30", 90),
     ("1:02:03.5", 3723.5), (" 7 ", 7), ("90:00", 5400)],
)  # fmt: skip
def test_times_are_read_as_they_are_typed(text, seconds):
    assert parse_time(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "x", "-3", "1:75", "1:99:00", "3.5.1", "1e5", "nan", "٣"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(RequestError, match=r"--from: '.*' is no time; write 9, 3.5s, 0:10 or 1:02:03.5"):
        parse_time(text, "--from")


def test_flags_make_choices():
    assert from_flags() is None
    assert from_flags(4) == uniform(4)
    assert from_flags(4, start="0:10", end="1:30") == between(10, 90, 4)
    assert from_flags(start="0:10", default=6) == between(10, None, 6)
    assert from_flags(at_times="3.5s,9s") == at([3.5, 9])
    assert from_flags(every_time="2s", end="1m") == every(2, end=60)
    assert from_flags(by_scenes=True) == scenes(8)
    assert from_flags(3, by_segments="1m", start="5") == segments(60, 3, start=5)
    assert from_flags(by_segments="30s", default=4) == segments(30, 4)
    assert from_flags(5, by_scenes=True, start="3") == scenes(5, start=3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"start": "0:20", "end": "0:10"}, "--from 0:20 --to 0:10: the part ends before it begins"),
        ({"at_times": "1", "frames": 3}, "--at together with --frames; it says it all"),
        ({"at_times": "1", "start": "0"}, "--at together with --from"),
        ({"every_time": "1", "by_scenes": True}, "--every together with --scenes; it goes with --from and"),
        ({"at_times": "1,,2"}, "--at: '' is no time"),
        ({"every_time": "0"}, "every: one frame or part each 0.0 s"),
        ({"frames": 0}, "uniform: 0 frames asked for"),
    ],
)
def test_flags_that_contradict_are_refused(flags, message):
    with pytest.raises(RequestError, match=message):
        from_flags(**flags)
