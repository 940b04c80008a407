"""Budgets hold while a clip is read, whatever its header says."""

import numpy as np
import pytest

from tests.media import clips
from watchword.errors import MediaError, RequestError
from watchword.media import Policy, at_indices, everything, read_frames, segments, uniform
from watchword.media.budget import Budget


@pytest.fixture(scope="module")
def mkv(tmp_path_factory):
    return clips.write(tmp_path_factory.mktemp("budget") / "clip.mkv", "libx264", 60)


def test_packets_are_counted_while_reading(mkv):
    with pytest.raises(MediaError, match=r"clip.mkv: more than 50 packets were read and decoded"):
        read_frames(mkv, uniform(8), policy=Policy(max_packets=50))
    assert read_frames(mkv, uniform(8), policy=Policy(max_packets=200)).total == 60


def test_an_index_that_lists_too_much_is_refused_before_reading(tmp_path):
    path = clips.write(tmp_path / "clip.mp4", "libx264", 60)
    with pytest.raises(MediaError, match=r"clip.mp4: 60 frames, at most 50 packets are read"):
        read_frames(path, uniform(8), policy=Policy(max_packets=50))


def test_frames_and_memory_kept_are_limited(mkv):
    with pytest.raises(MediaError, match=r"clip.mkv: 60 frames chosen, at most 8 are kept; choose fewer"):
        read_frames(mkv, everything(), policy=Policy(max_frames=8))
    with pytest.raises(
        MediaError, match=r"clip.mkv: 8 frames of 64x48 take 73,728 bytes, at most 70,000 are kept"
    ):
        read_frames(mkv, uniform(8), policy=Policy(max_memory=70_000))
    assert read_frames(mkv, at_indices([3] * 20), policy=Policy(max_frames=20)).frames.shape[0] == 20


def test_seconds_of_work_are_limited(mkv):
    with pytest.raises(MediaError, match=r"clip.mkv: still not read after 0 s of work; shorten it or raise"):
        read_frames(mkv, uniform(8), policy=Policy(max_seconds=0))
    budget = Budget("x", 10**9, 1000)
    for _ in range(100):
        budget.packet()
    assert budget.spent == 100


def test_codecs_are_taken_from_a_list(mkv):
    with pytest.raises(
        MediaError, match=r"clip.mkv: its pictures are h264, which is not decoded here; allowed are vp9;"
    ):
        read_frames(mkv, policy=Policy(codecs=("vp9",)))
    assert read_frames(mkv, policy=Policy(codecs=("h264",))).total == 60


def test_split_needs_the_choice_that_the_clip_was_read_with(mkv):
    with pytest.raises(RequestError, match=r"split: the clip was not read with Segments\(seconds=1"):
        read_frames(mkv, uniform(8)).split(segments(1))
    with pytest.raises(RequestError, match="split: this clip was not read from a video"):
        read_frames(np.zeros((4, 4, 4, 3), np.uint8)).split(segments(1))
