"""What runs in the child process of `sandbox`: confine itself, read one medium, give frames or a reason."""

import json
import mmap
import os
import pickle
import sys
from dataclasses import dataclass
from typing import Any

from watchword.media import confine
from watchword.media.pick import Pick
from watchword.media.policy import Policy

__all__ = ["SLACK", "Task", "main"]

SLACK = 64 * 1024**2  # bytes of report and rounding beyond the frames
_NEAR = 16 * 1024**2  # bytes; a failed allocation is seldom larger, be it a frame or a thread's stack
_TIMES = 700_000  # numbers; more, of six hours of film, would not fit into a report


@dataclass(frozen=True)
class Task:
    """One reading. `door` is "frames", "image", or "trial": try the walls instead of reading."""

    door: str
    name: str
    source: int
    result: int
    report: int
    pick: Pick
    policy: Policy
    rotate: bool = True
    fast: bool = False


def main() -> None:
    """Read the task from standard input, do it, and leave without ceremony."""
    task: Task = pickle.load(sys.stdin.buffer)
    network = confine.fence_network()
    status = _status()
    try:
        report = _attempt(task, network, status)
    except MemoryError:  # there may be none left even to say why something else failed
        report = {"memory": True}
    os.pwrite(task.report, json.dumps(report).encode(), 0)
    os._exit(0)


def _read(task: Task) -> dict[str, Any]:
    from watchword.media.decode import read_admitted
    from watchword.media.frames import Clip
    from watchword.media.gate import Admitted, Kept
    from watchword.media.pictures import read_admitted_image

    file = os.fdopen(task.source, "rb")
    media = Admitted(task.name, None, lambda: Kept(file))
    if task.door == "image":
        pixels = read_admitted_image(media, task.policy)
        clip = Clip(pixels[None], (0,), None, 1, kind="picture")
    else:
        clip = read_admitted(media, task.pick, task.policy, rotate=task.rotate, fast=task.fast)
    os.ftruncate(task.result, clip.frames.nbytes)
    with mmap.mmap(task.result, clip.frames.nbytes) as shared:
        shared[:] = (
            clip.frames.tobytes() if not clip.frames.flags.c_contiguous else clip.frames.data.cast("B")
        )
    line = clip.timeline
    timeline = None
    if line is not None and len(line.times) + len(line.changes) <= _TIMES:
        timeline = [line.total, line.fps, list(line.times), line.end, list(line.changes)]
    return {
        "shape": clip.frames.shape, "indices": clip.indices, "times": clip.times, "total": clip.total,
        "fps": clip.fps, "kind": clip.kind, "rotation": clip.rotation, "note": clip.note,
        "colour": clip.colour, "timeline": timeline,
    }  # fmt: skip


def _status() -> int | None:
    """Where Linux tells of this process, opened while files are within reach."""
    try:
        return os.open("/proc/self/status", os.O_RDONLY)
    except OSError:
        return None


def _peak(status: int | None) -> int:
    """Most bytes of address space that this process had; 0 where that is not told."""
    text = "" if status is None else os.pread(status, 2**16, 0).decode()
    sizes = [line.split()[1] for line in text.splitlines() if line.startswith("VmPeak:")]
    return 1024 * int(sizes[0]) if sizes else 0


def _attempt(task: Task, network: bool, status: int | None) -> dict[str, Any]:
    """What came of it: what was read, or why not."""
    try:
        from watchword.media import decode  # noqa: F401  loaded before files are out of reach

        _warm()
        limits = confine.limit(
            task.policy.sandbox_memory, task.policy.max_seconds, task.policy.max_memory + SLACK
        )
        calls = confine.filter_calls()
        walls = {"namespace": network, "seccomp": calls, "limits": limits}
        return (_trial() if task.door == "trial" else _read(task)) | {"walls": walls}
    except MemoryError:
        raise
    except Exception as error:  # whatever a stranger's file makes of a decoder
        return _reason(error, _peak(status) > task.policy.sandbox_memory - _NEAR)


def _reason(error: BaseException, full: bool) -> dict[str, Any]:
    """Why it could not be read: the message, or that memory ran out, however deep that lies.

    A decoder whose threads find no memory may call its data damaged; `full`: memory was at its limit.
    """
    from watchword.errors import WatchwordError

    if full:
        return {"memory": True}
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or getattr(cause, "errno", None) == 12:  # ENOMEM
            return {"memory": True}
        cause = cause.__cause__
    if isinstance(error, WatchwordError):
        return {"error": str(error), "kind": type(error).__name__}
    return {"crash": type(error).__name__}


def _warm() -> None:
    """Use what loads parts of itself late once, while files can still be opened."""
    import importlib
    import io
    import pkgutil

    import av
    from PIL import ExifTags, Image, ImageChops, ImageOps, ImagePalette, TiffTags  # noqa: F401

    for module in pkgutil.walk_packages(av.__path__, "av."):
        if "__main__" not in module.name and "datasets" not in module.name:
            importlib.import_module(module.name)
    Image.init()
    picture = Image.new("RGB", (8, 8))
    for kind in ("PNG", "GIF", "JPEG", "WEBP", "TIFF", "BMP"):
        data = io.BytesIO()
        if kind in Image.SAVE:
            picture.save(data, kind)
            data.seek(0)
            ImageOps.exif_transpose(Image.open(data)).convert("RGB")
    frame = av.VideoFrame(16, 16, "yuv420p")
    frame.to_ndarray(format="rgb24", width=8, height=8, interpolation="AREA")


def _trial() -> dict[str, Any]:
    """Try what must not work, and say what happened."""
    import socket

    def attempt(what: Any) -> str:
        try:
            what()
        except OSError as error:
            return error.strerror or "refused"
        return "worked"

    def fork() -> None:
        if os.fork() == 0:
            os._exit(0)

    return {
        "file": attempt(lambda: open("/etc/passwd", "rb").close()),
        "network": attempt(lambda: socket.create_connection(("127.0.0.1", 9), 1)),
        "program": attempt(fork),
    }
