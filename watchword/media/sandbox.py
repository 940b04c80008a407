"""Read media of strangers in a limited child process.

The parent checks and opens; the child has one open file, decodes, and hands frames back through shared
memory. It can open no other file, reach no network and start no program where the system has walls for that
(see `walls`), and it is ended when it takes too much memory or time. A child that crashes or is ended is a
`MediaError` for that medium alone. A child costs 0.3 s or more (benchmarks/video_reading.md).
"""

import contextlib
import io
import json
import math
import mmap
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from watchword import errors
from watchword.errors import MediaError, RequestError, WatchwordError
from watchword.media.child import Task
from watchword.media.frames import Clip
from watchword.media.gate import Admitted
from watchword.media.pick import Everything, Pick
from watchword.media.policy import STRICT, Policy
from watchword.media.timeline import Timeline

__all__ = ["sandboxed", "walls"]

_START = 30.0  # seconds that starting and ending may take on a busy machine
_REPORT = 16 * 1024**2  # bytes
_CODE = "import sys; sys.path[:] = sys.argv[1:]; from watchword.media.child import main; main()"
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG")  # nothing that could be a secret


def sandboxed(
    media: Admitted,
    pick: Pick,
    policy: Policy,
    *,
    rotate: bool = True,
    fast: bool = False,
    door: str = "frames",
) -> Clip:
    """Read an admitted medium in a child process; see `media.read_frames`.

    Raises:
        MediaError: as without a sandbox, and when the child crashed, took too long or too much memory.
    """
    with _source(media) as source, _shared() as result:
        report = _run(media.name, source, result, pick, policy, rotate=rotate, fast=fast, door=door)
        if "error" in report:
            kind = getattr(errors, str(report.get("kind")), MediaError)
            raise (kind if issubclass(kind, WatchwordError) else MediaError)(str(report["error"]))
        if "crash" in report:
            raise MediaError(f"{media.name}: a damaged file ({report['crash']} in the decoder); get it whole")
        return _clip(media.name, report, result, policy)


def walls() -> dict[str, Any]:
    """Start a child and say which walls stand here, and what happens to what must not work."""
    with tempfile.TemporaryFile() as source, _shared() as result:
        return _run(
            "trial", source.fileno(), result, Everything(), STRICT, rotate=True, fast=False, door="trial"
        )


def _run(
    name: str, source: int, result: int, pick: Pick, policy: Policy, *, rotate: bool, fast: bool, door: str
) -> dict[str, Any]:
    """Start the child, wait for its end, and read its report."""
    if not hasattr(os, "fork"):
        raise RequestError(f"{name}: no sandbox on {sys.platform}; read it without, or on Linux or macOS")
    with _shared() as report:
        task = Task(door, name, source, result, report, pick, policy.local(), rotate, fast)
        environment = {key: os.environ[key] for key in _ENVIRONMENT if key in os.environ}
        child = subprocess.Popen(
            [sys.executable, "-I", "-c", _CODE, *sys.path],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            pass_fds=(source, result, report), env=environment | {"OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
        )  # fmt: skip
        deadline = None if policy.max_seconds is None else policy.max_seconds + _START
        try:
            child.communicate(pickle.dumps(task), timeout=deadline)
        except subprocess.TimeoutExpired as error:
            raise MediaError(
                f"{name}: still not read after {policy.max_seconds:g} s of work; "
                "shorten it or raise Policy.max_seconds"
            ) from error
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        return _report(name, child.returncode, report, policy)


def _report(name: str, code: int, report: int, policy: Policy) -> dict[str, Any]:
    """Read what the child says; a child that says nothing crashed or was ended by the system."""
    if code == -getattr(signal, "SIGXCPU", 24):
        raise MediaError(f"{name}: too much work; shorten it or raise Policy.max_seconds")
    size = os.fstat(report).st_size
    found: Any = None
    if code == 0 and 0 < size <= _REPORT:
        with contextlib.suppress(ValueError):
            found = json.loads(os.pread(report, size, 0))
    if not isinstance(found, dict):
        how = f"signal {-code}" if code < 0 else f"exit {code}"
        raise MediaError(f"{name}: the decoder crashed on it ({how}); get the file whole, or convert it")
    if found.get("memory"):
        raise MediaError(
            f"{name}: needs more than {policy.sandbox_memory:,} bytes to decode; make it smaller or raise "
            "Policy.sandbox_memory"
        )
    return found


def _clip(name: str, report: dict[str, Any], result: int, policy: Policy) -> Clip:
    """Build the clip, believing nothing about sizes that does not fit what lies there."""
    try:
        shape = tuple(int(n) for n in report["shape"])
        size = math.prod(shape)
        if len(shape) != 4 or shape[3] != 3 or size < 1 or os.fstat(result).st_size != size:
            raise ValueError(f"frames of shape {shape}")
        if len(report["indices"]) != shape[0]:
            raise ValueError(f"{len(report['indices'])} indices for {shape[0]} frames")
        frames = np.frombuffer(mmap.mmap(result, size), np.uint8).reshape(shape)
        line = report["timeline"]
        timeline = line and Timeline(line[0], line[1], tuple(line[2]), line[3], tuple(line[4]), name)
        return Clip(
            frames, tuple(report["indices"]), None if report["times"] is None else tuple(report["times"]),
            int(report["total"]), fps=report["fps"], kind=report["kind"], rotation=int(report["rotation"]),
            note=str(report["note"]), colour=str(report["colour"]), timeline=timeline,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise MediaError(f"{name}: the decoder gave nonsense ({error}); convert the file") from error


@contextlib.contextmanager
def _source(media: Admitted) -> Iterator[int]:
    """The medium as an open file that the child may inherit; what is no file is copied into one."""
    if media.path is not None:
        with open(media.path, "rb") as file:
            yield file.fileno()
        return
    given = media.rewind()
    inner = getattr(given, "file", None)
    descriptor = None
    if isinstance(inner, io.BufferedReader) and type(inner.raw) is io.FileIO:
        # a real file that can only be read: no copy. The descriptor of others is of something else
        with contextlib.suppress(OSError):
            descriptor = inner.fileno()
    if descriptor is not None:
        yield descriptor
        return
    with tempfile.TemporaryFile() as copy, given:
        shutil.copyfileobj(given, copy, 1024**2)
        copy.flush()
        yield copy.fileno()


@contextlib.contextmanager
def _shared() -> Iterator[int]:
    """A piece of memory with a descriptor; a temporary file where there is no such thing."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("frames")
        try:
            yield descriptor
        finally:
            os.close(descriptor)
        return
    with tempfile.TemporaryFile() as file:
        yield file.fileno()
