"""Hostile media are refused with a clear error, in time, and the process lives; see docs/security.md."""

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.media import hostile
from watchword.errors import MediaError
from watchword.media import read_media
from watchword.media.policy import STRICT

ROOT = Path(__file__).parents[2]
IDS = [case.title for case in hostile.CASES]


@pytest.mark.parametrize("case", hostile.CASES, ids=IDS)
def test_hostile_media_are_refused_in_time(case, tmp_path):
    folder = tmp_path / "allowed"
    folder.mkdir()
    with ExitStack() as stack:
        source, more = case.make(folder, stack)
        start = time.monotonic()
        with pytest.raises(MediaError, match=case.words) as caught:
            read_media(source, policy=hostile.policy_in(folder, **more))
        assert time.monotonic() - start < 20  # the budgets are below a second; a busy machine is slow
    assert "root:" not in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("case", [case for case in hostile.CASES if case.bomb], ids=lambda case: case.title)
def test_bombs_stay_below_the_memory_of_the_sandbox(case, tmp_path):
    with ExitStack() as stack:
        source, more = case.make(tmp_path, stack)
        policy = replace(STRICT, max_seconds=10.0, sandbox_memory=1024**3, **more)
        with pytest.raises(MediaError, match=case.words) as caught:
            read_media(source, policy=policy)
    assert "sandbox_memory" not in str(caught.value)


CUTS = ("clip.mp4", "clip.mkv", "clip.avi", "picture.png", "picture.jpeg", "picture.bmp", "picture.tiff")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", CUTS)
def test_cut_off_files_are_refused_wherever_they_are_cut(name, tmp_path):
    whole = hostile.seeds()[name]
    policy = hostile.policy_in(tmp_path)
    read_media(whole, policy=policy)
    structure = {place + shift for place in borders(name, whole) for shift in (-1, 0, 1, 4, 8)}
    spread = {len(whole) * part // 25 for part in range(1, 25)}
    for length in sorted(n for n in structure | spread if 0 < n < last_needed(name, whole)):
        with pytest.raises(MediaError):
            read_media(whole[:length], policy=policy)


def borders(name, whole):
    """Where the parts of a file begin."""
    if name == "clip.mp4":
        boxes = b"ftyp free mdat moov mvhd trak mdia minf stbl stts stsz".split()
        return [whole.index(kind) - 4 for kind in boxes]
    if name == "clip.mkv":
        ids = (
            b"\x18\x53\x80\x67",
            b"\x11\x4d\x9b\x74",
            b"\x15\x49\xa9\x66",
            b"\x16\x54\xae\x6b",
            b"\x1f\x43\xb6\x75",
        )
        return [whole.index(one) for one in ids]
    if name == "clip.avi":
        return [
            whole.index(one)
            for one in (b"RIFF", b"hdrl", b"avih", b"strl", b"strh", b"strf", b"movi", b"idx1")
        ]
    if name == "picture.png":
        return [whole.index(one) - 4 for one in (b"IHDR", b"IDAT")]
    if name == "picture.jpeg":
        return [whole.index(one) for one in (b"\xff\xdb", b"\xff\xc0", b"\xff\xc4", b"\xff\xda")]
    return [2, 14, 54]


def last_needed(name, whole):
    """Bytes after which nothing of the picture comes: its last bits may be padding, checks or an end mark."""
    return len(whole) - {"picture.png": 24, "picture.jpeg": 4}.get(name, 0)


def run_mutations(count):
    done = subprocess.run(
        [sys.executable, "-m", "tests.media.mutate", str(count)],
        cwd=ROOT, capture_output=True, text=True, timeout=60 + count / 2,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_flipped_bytes_are_read_or_refused(count):
    found = run_mutations(count)
    assert found["other"] == []
    assert found["read"] + found["refused"] == count
    assert found["slowest"] < 5
    assert found["refused"] > count / 10


def test_the_table_in_the_docs_is_current():
    done = subprocess.run(
        [sys.executable, "scripts/security_table.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
