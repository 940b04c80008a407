"""Checkpoints and a clip that all tests of the front door share; made once."""

import pytest
import torch

import watchword
from tests import folders
from tests.media.clips import write


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    return write(tmp_path_factory.mktemp("media") / "clip.mp4", frames=20)


MAKERS = {
    "llava": lambda folder: folders.video_llava(folder),
    "blip": lambda folder: folders.instructblip(folder),
    "blip-video": lambda folder: folders.instructblip(folder, video=True),
    "blip-bare": lambda folder: folders.instructblip(folder, placeholders=False),
    "blip-opt": lambda folder: folders.instructblip(folder, text="opt"),
    "blip-t5": lambda folder: folders.instructblip(folder, text="t5"),
}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """The folder of a kind."""
    made = {}

    def make(kind):
        if kind not in made:
            torch.manual_seed(5)
            made[kind] = MAKERS[kind](tmp_path_factory.mktemp(kind))
        return made[kind]

    return make


@pytest.fixture(scope="session")
def pipeline(checkpoint):
    """A loaded checkpoint of a kind."""
    made = {}

    def make(kind):
        if kind not in made:
            made[kind] = watchword.load(checkpoint(kind))
        return made[kind]

    return make
