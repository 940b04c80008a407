"""Clips of one's own, in the folder WATCHWORD_MEDIA: their frames are those of the documented loop."""

import os
from pathlib import Path

import av
import numpy as np
import pytest

from tests.media.clips import decoded
from watchword.media import at_indices, read_frames, read_media, uniform

FOLDER = os.environ.get("WATCHWORD_MEDIA")
CLIPS = sorted(Path(FOLDER).glob("*.mp4")) if FOLDER else []

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not FOLDER, reason="WATCHWORD_MEDIA names no folder")]


def test_there_are_clips():
    assert CLIPS, f"no .mp4 in {FOLDER}"


@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.name)
def test_frames_of_given_clips_are_those_of_the_documented_loop(path):
    whole = decoded(path)
    with av.open(str(path)) as container:
        assert len(whole) == container.streams.video[0].frames
    for count in (1, 4, 8, 16, 32):
        wanted = np.arange(0, len(whole), len(whole) / count).astype(int)[:count]
        expected = np.stack([whole[index] for index in wanted])
        with path.open("rb") as file:
            for source in (path, file, path.read_bytes()):
                clip = read_frames(source, uniform(count), rotate=False)
                assert clip.indices == tuple(wanted)
                assert np.array_equal(clip.frames, expected)
        boxed = read_media(path, uniform(count), rotate=False, sandbox=True)
        assert np.array_equal(boxed.frames, expected)
    for index in range(0, len(whole), 7):
        assert np.array_equal(read_frames(path, at_indices([index]), rotate=False).frames[0], whole[index])
