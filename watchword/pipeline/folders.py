"""Checkpoint folders that are written anew: complete or not there."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from watchword.errors import RequestError
from watchword.weights import hub

KEPT = (*hub.SETTINGS, "LICENSE*")
"""What is copied of an old folder; its weights are written anew."""


def new_name(out: str | os.PathLike) -> Path:
    """The path of a folder that is to be written.

    Raises:
        RequestError: it is there already, or the one it should be in is not.
    """
    out = Path(out)
    if out.exists() or not out.absolute().parent.is_dir():
        found = "is there already" if out.exists() else f"{out.absolute().parent} is no folder"
        raise RequestError(f"{out}: {found}; expected the name of a new folder; choose another")
    return out


@contextmanager
def beside(out: Path) -> Iterator[Path]:
    """A folder of no lasting name next to where `out` will be; gone with what is in it in the end.

    Raises:
        RequestError: it, or something in it, cannot be written.
    """
    try:
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.absolute().parent))
    except OSError as error:
        raise _unwritable(out, error) from error
    try:
        yield partial
    except OSError as error:
        if error.filename is not None and partial.name not in str(error.filename):
            raise  # something else that was read meanwhile
        raise _unwritable(out, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _unwritable(out: Path, error: OSError) -> RequestError:
    return RequestError(
        f"{out}: cannot be written ({error.strerror}); expected room, and the right to write; choose "
        "another place"
    )


@contextmanager
def rewritten(source: Path, out: Path) -> Iterator[Path]:
    """A folder with the settings of `source`, to be filled; it becomes `out` when all went well."""
    with beside(out) as partial:
        copy_settings(source, partial)
        yield partial
        partial.chmod(source.stat().st_mode)  # mkdtemp makes it private
        os.rename(partial, out)


def copy_settings(source: Path, target: Path) -> None:
    """Configs, tokenizers and processors of a folder, but not what describes its weights."""
    for pattern in KEPT:
        for path in sorted(source.glob(pattern)):
            if path.is_file() and not path.name.endswith(".index.json"):
                there = target / path.relative_to(source)
                there.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, there)
