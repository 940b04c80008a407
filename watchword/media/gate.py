"""What may be opened. Every file, address, byte string and file object goes through `admit` first.

A `Policy` says where files may lie, which hosts may be asked, how large all may be and which formats are
tried; no decoder sees what did not pass.
"""

import base64
import binascii
import io
import os
import re
import stat
import sys
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from watchword.errors import MediaError
from watchword.media.address import fetch
from watchword.media.policy import OPEN, Policy

__all__ = ["OPEN", "Admitted", "Kept", "Policy", "admit", "admit_folder", "is_source"]

_IN_MEMORY = 32 * 1024**2  # larger streams lie in a temporary file
_CHUNK = 256 * 1024
# Of a file that was a file when it was looked at: never wait for a pipe, never follow a link put there since.
_CAREFUL = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)

_ADDRESS = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+)://(?:[^/?#@]*@)?([^/?#]*)")


@dataclass(frozen=True)
class Admitted:
    """A source that passed the gate: a name for messages, and a way to read it from the start repeatedly."""

    name: str
    path: str | None
    rewind: Callable[[], Any]


def is_source(value: object) -> bool:
    """Say whether this is something to open (path, bytes, file object) rather than frames."""
    return isinstance(value, (str, os.PathLike, bytes, bytearray, memoryview)) or (
        callable(getattr(value, "read", None)) and not hasattr(value, "tobytes")
    )


def admit(source: object, policy: Policy = OPEN) -> Admitted:
    """Let a path, address, byte string or binary file object through, or say why not.

    A file object is read from its beginning, whatever its position; one that cannot seek, and standard input,
    is copied into a temporary file first. What was admitted already passes as it is, so that it can be
    checked early and read late.

    Raises:
        MediaError: an address that is not allowed, no such file, a folder, a special file, empty, too large,
            or outside the folders allowed.
    """
    if isinstance(source, Admitted):
        return source
    if isinstance(source, (str, os.PathLike)):
        return _admit_path(source, policy)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _admit_bytes("bytes", bytes(source), policy)
    if not callable(getattr(source, "read", None)):
        raise MediaError(
            f"{type(source).__name__} is nothing to open; give a path, bytes, a binary file object or frames"
        )
    return _admit_file(source, policy)


def admit_folder(folder: str, policy: Policy) -> str:
    """Let a folder of pictures through: its true path, links resolved."""
    path = os.path.realpath(folder)
    _check_inside(folder, path, policy)
    return path


def _admit_path(source: str | os.PathLike[str], policy: Policy) -> Admitted:
    name = os.fspath(source)
    if not isinstance(name, str):
        raise MediaError(f"{name[:40]!r}: a path in bytes; give it as text")
    if name == "-" and policy.folders is None:
        return _admit_stream("standard input", sys.stdin.buffer, policy)
    if name[:5].lower() == "data:":
        return _admit_data(name, policy)
    address = _ADDRESS.match(name)
    if address and policy.hosts:
        label, file = fetch(name, policy.network())
        return _own(label, file, policy)
    if address:
        raise MediaError(
            f"{address[1]}://{address[2]}: an address; only local files are opened, so download it first"
        )
    return _admit_local(name, policy)


def _admit_local(name: str, policy: Policy) -> Admitted:
    """Let a local file through. Where folders are named it stays open: what was checked is what is read."""
    told = name[:200] if name.isprintable() else repr(name[:200])
    try:
        path = os.path.realpath(name)
        _check_inside(told, path, policy)
        found = os.stat(path)
        if stat.S_ISDIR(found.st_mode):
            raise MediaError(
                f"{told}: a folder, where a picture or video file was expected; name a file in it"
            )
        if not stat.S_ISREG(found.st_mode):
            raise MediaError(f"{told}: not an ordinary file; give the path of a picture or video")
        policy.check_size(told, found.st_size)
        descriptor = os.open(path, os.O_RDONLY | _CAREFUL)
        opened = os.fstat(descriptor)
        if policy.folders is None or not stat.S_ISREG(opened.st_mode) or _moved(descriptor, path):
            os.close(descriptor)
        else:
            file = os.fdopen(descriptor, "rb")
            return _own(told, file, policy)
    except MediaError:  # a ValueError too
        raise
    except FileNotFoundError as error:
        raise MediaError(f"{told}: no such file; check the path") from error
    except (OSError, ValueError) as error:  # no permission, a name too long, a zero byte in it
        reason = getattr(error, "strerror", None) or error
        raise MediaError(f"{name[:200]!r}: cannot be read ({reason}); check the path") from error
    if policy.folders is not None:
        raise MediaError(f"{told}: was moved while it was opened; try again")
    return Admitted(told, path, lambda: open(path, "rb"))


def _moved(descriptor: int, path: str) -> bool:
    """Say whether the open file lies elsewhere than was checked: a link was put there in between."""
    link = f"/proc/self/fd/{descriptor}"
    return os.path.exists("/proc/self/fd") and os.path.realpath(link) != path


def _check_inside(name: str, path: str, policy: Policy) -> None:
    if policy.folders is not None and not any(_inside(path, folder) for folder in policy.folders):
        allowed = "the folders allowed" if policy.folders else "what may be read"  # strangers see no paths
        raise MediaError(f"{name}: outside {allowed}; move it there, or give its bytes")


def _admit_bytes(name: str, data: bytes, policy: Policy) -> Admitted:
    policy.check_size(name, len(data))
    return Admitted(name, None, lambda: io.BytesIO(data))


def _admit_data(name: str, policy: Policy) -> Admitted:
    """Let a `data:` address through: its bytes are in it. What it says of its kind is not believed."""
    head, comma, data = name.partition(",")
    label = f"{head[:40]}..."
    if len(name) > policy.max_data_url:
        raise MediaError(
            f"{label}: {len(name):,} characters, at most {policy.max_data_url:,} are read; "
            "give a file, or raise Policy.max_data_url"
        )
    if not comma or not head.lower().endswith(";base64"):
        raise MediaError(
            f"{label}: not written in base64; expected data:image/png;base64,... or give the bytes"
        )
    try:
        return _admit_bytes(label, base64.b64decode(data, validate=True), policy)
    except binascii.Error as error:
        raise MediaError(f"{label}: broken base64 ({error}); encode the file again") from error


def _admit_file(source: Any, policy: Policy) -> Admitted:
    named = getattr(source, "name", None)
    name = named if isinstance(named, str) else "file object"
    if not (hasattr(source, "seekable") and source.seekable()):
        return _admit_stream(name, source, policy)
    source.seek(0)
    _check_bytes(name, source.read(1))
    policy.check_size(name, source.seek(0, os.SEEK_END) or source.tell())
    return Admitted(name, None, lambda: Kept(source))


def _admit_stream(name: str, source: Any, policy: Policy) -> Admitted:
    """Copy what can be read only once, so that it can be read again; large ones onto the disk."""
    file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115  closed with its last reader
    try:
        while file.tell() <= policy.max_bytes and (chunk := source.read(_CHUNK)):
            _check_bytes(name, chunk)
            file.write(chunk)
    except BaseException:
        file.close()
        raise
    return _own(name, file, policy)


def _own(name: str, file: Any, policy: Policy) -> Admitted:
    """Hand out a file that was opened here; it is closed when nobody holds what was admitted any more."""
    admitted = Admitted(name, None, lambda: Kept(file))
    weakref.finalize(admitted, file.close)
    file.seek(0, os.SEEK_END)
    policy.check_size(name, file.tell())
    return admitted


class Kept:
    """A file object that is read from its beginning, at a place of its own; closing this does not close it.

    Several of these read one file, one while another is half through it, so each goes to its place first.
    """

    def __init__(self, file: Any) -> None:
        self.file = file
        self.place = 0

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        self.file.seek(self.place)
        data: bytes = self.file.read(size)
        self.place += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place, as files do."""
        self.file.seek(self.place)
        self.file.seek(offset, whence)  # not every file says where that is
        self.place = self.file.tell()
        return self.place

    def tell(self) -> int:
        """The place."""
        return self.place

    def seekable(self) -> bool:
        """It can seek."""
        return True

    def readable(self) -> bool:
        """It can be read."""
        return True

    def close(self) -> None:
        """Leave the file open for its owner."""

    def __enter__(self) -> "Kept":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _check_bytes(name: str, data: object) -> None:
    if not isinstance(data, bytes):
        raise MediaError(f"{name}: reads as text, where bytes were expected; open it in binary mode ('rb')")


def _inside(path: str, folder: str) -> bool:
    root = os.path.realpath(folder)
    return os.path.commonpath([path, root]) == root
