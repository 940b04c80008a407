"""The child process reads the same frames, can reach nothing else, and its end is an error like any other."""

import io
import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.media import clips
from watchword.errors import MediaError, RequestError
from watchword.media import (
    Policy,
    at_indices,
    read_frames,
    read_image,
    read_media,
    sandbox,
    segments,
    uniform,
)
from watchword.media.policy import STRICT

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="walls of Linux")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sandbox")


@pytest.fixture(scope="module")
def mp4(folder):
    return clips.write(folder / "clip.mp4", "libx264", 60)


def policy_for(folder, **more):
    return replace(STRICT, folders=(str(folder),), **more)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {}), ("b.mkv", "libx265", {"x265-params": "log-level=none"}),
        ("c.webm", "libvpx-vp9", {"cpu-used": "8"}), ("d.mp4", "libsvtav1", {"preset": "12"}),
        ("e.avi", "mpeg4", {}), ("f.ts", "mpeg2video", {}), ("g.gif", "gif", {}),
    ],
)  # fmt: skip
def test_frames_are_those_without_a_sandbox(folder, name, codec, options):
    if codec not in av_codecs():
        pytest.skip(f"this build of PyAV has no {codec}")
    path = clips.write(folder / name, codec, 30, size=(64, 80), **options)
    plain, boxed = read_media(path), read_media(path, policy=policy_for(folder))
    assert np.array_equal(plain.frames, boxed.frames)
    assert (plain.indices, plain.times, plain.total) == (boxed.indices, boxed.times, boxed.total)
    assert (plain.fps, plain.colour, plain.kind) == (boxed.fps, boxed.colour, boxed.kind)


def av_codecs():
    import av

    return av.codecs_available


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_pictures_are_those_without_a_sandbox(folder, kind):
    data = io.BytesIO()
    Image.fromarray(clips.picture(3)).save(data, kind)
    boxed = read_image(data.getvalue(), policy=STRICT)
    assert np.array_equal(read_image(data.getvalue()), boxed)
    assert read_media(data.getvalue(), policy=STRICT).kind == "picture"


def test_every_way_in_leads_to_the_child(mp4, folder):
    plain = read_frames(mp4).frames
    data = mp4.read_bytes()
    with open(mp4, "rb") as file, open(mp4, "r+b", buffering=0) as raw:
        for source in (str(mp4), data, io.BytesIO(data), file, raw):
            assert np.array_equal(read_frames(source, policy=Policy(sandbox=True)).frames, plain)


def test_parts_of_a_clip_survive_the_way_back(mp4, folder):
    pick = segments(1.0, 2)
    parts = read_frames(mp4, pick, policy=policy_for(folder)).split(pick)
    assert [part.indices for part in parts] == [(0, 12), (24, 36), (48, 54)]


def test_errors_are_those_without_a_sandbox(mp4, folder):
    with pytest.raises(MediaError, match=r"clip.mp4: no frame 99, the clip has 60"):
        read_frames(mp4, at_indices([99]), policy=policy_for(folder))
    with pytest.raises(MediaError, match=r"bytes: neither a picture"):
        read_frames(b"no video" * 100, policy=STRICT)
    with pytest.raises(MediaError, match="bytes: not a picture"):
        read_image(mp4.read_bytes(), policy=STRICT)


@linux
def test_the_child_reaches_no_file_no_network_and_no_program():
    found = sandbox.walls()
    assert found["walls"]["limits"] is True
    if not found["walls"]["seccomp"]:
        pytest.skip("no system call filter on this machine")
    assert found["file"] == found["network"] == found["program"] == "Operation not permitted"


@linux
def test_memory_beyond_the_limit_is_told(folder):
    path = clips.write(folder / "large.mp4", "libx264", 4, size=(1080, 1920), preset="ultrafast")
    with pytest.raises(MediaError, match=r"large.mp4: needs more than 230,000,000 bytes to decode; make it"):
        read_frames(path, policy=policy_for(folder, sandbox_memory=230_000_000))


def child_that(monkeypatch, code):
    monkeypatch.setattr(sandbox, "_CODE", f"import os, sys, time, pickle; {code}")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "os.kill(os.getpid(), 11)",
            r"clip.mp4: the decoder crashed on it \(signal 11\); get the file whole",
        ),
        ("sys.exit(3)", r"clip.mp4: the decoder crashed on it \(exit 3\)"),
        ("sys.stdin.buffer.read()", r"clip.mp4: the decoder crashed on it \(exit 0\)"),
        ("os.kill(os.getpid(), 24)", r"clip.mp4: too much work; shorten it"),
    ],
)
def test_a_crash_is_an_error_of_that_medium_alone(mp4, folder, monkeypatch, code, message):
    with monkeypatch.context() as patch:
        child_that(patch, code)
        with pytest.raises(MediaError, match=message):
            read_frames(mp4, policy=policy_for(folder))
    assert read_frames(mp4, policy=policy_for(folder)).total == 60


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ("{}", r"the decoder gave nonsense \('shape'\)"),
        ('{"shape": [9, 9, 9, 3]}', r"the decoder gave nonsense \(frames of shape \(9, 9, 9, 3\)\)"),
        ('{"shape": [-1, -1, 1, 3]}', "the decoder gave nonsense"),
        ('{"crash": "KeyError"}', r"a damaged file \(KeyError in the decoder\)"),
        ("nothing", r"the decoder crashed on it \(exit 0\)"),
        ('{"error": "x: no", "kind": "system"}', "x: no"),
    ],
)
def test_what_a_child_says_is_not_believed_blindly(mp4, folder, monkeypatch, report, message):
    # the highest descriptor that is handed on is the report's
    code = (
        "sys.stdin.buffer.read(); names = os.listdir('/proc/self/fd'); "
        "fd = max(int(n) for n in names if os.path.exists('/proc/self/fd/' + n)); "
        f"os.pwrite(fd, {report.encode()!r}, 0)"
    )
    child_that(monkeypatch, code)
    with pytest.raises(MediaError, match=message):
        read_frames(mp4, policy=policy_for(folder))


def test_a_child_that_hangs_is_ended_at_the_deadline(mp4, folder, monkeypatch):
    child_that(monkeypatch, "sys.stdin.buffer.read(); time.sleep(60)")
    monkeypatch.setattr(sandbox, "_START", 0.2)
    start = time.monotonic()
    with pytest.raises(
        MediaError, match=r"clip.mp4: still not read after 0.3 s of work; shorten it or raise"
    ):
        read_frames(mp4, policy=policy_for(folder, max_seconds=0.3))
    assert time.monotonic() - start < 30  # it would hang for 60


def test_secrets_of_the_environment_stay_behind(mp4, folder, monkeypatch):
    monkeypatch.setenv("API_KEY", "secret")
    seen = []
    start = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *args, **more: seen.append(more["env"]) or start(*args, **more)
    )
    read_frames(mp4, policy=policy_for(folder))
    assert set(seen[0]) <= {*sandbox._ENVIRONMENT, "OPENBLAS_NUM_THREADS"}


def test_no_sandbox_is_told_where_there_can_be_none(mp4, monkeypatch):
    monkeypatch.delattr(os, "fork")
    with pytest.raises(RequestError, match=f"bytes: no sandbox on {sys.platform}; read it without"):
        read_frames(mp4.read_bytes(), uniform(2), policy=Policy(sandbox=True))


def test_a_flag_is_enough_to_read_in_a_child(mp4, monkeypatch):
    plain = read_frames(mp4).frames
    started = counted_children(monkeypatch)
    picture = io.BytesIO()
    Image.fromarray(clips.picture(3)).save(picture, "PNG")
    assert np.array_equal(read_frames(mp4, sandbox=True).frames, plain)
    assert np.array_equal(read_media(mp4, sandbox=True).frames, plain)
    assert np.array_equal(read_image(picture, sandbox=True), clips.picture(3))
    assert len(started) == 3


def counted_children(monkeypatch):
    """A list that grows by one with every child."""
    started = []
    run = sandbox._run
    monkeypatch.setattr(sandbox, "_run", lambda *args, **more: started.append(args) or run(*args, **more))
    return started
