"""Checkpoints that are complete or absent: written under another name, brought to the disk, then renamed."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from watchword.errors import CapacityError, CheckpointError
from watchword.shapes import Tensor
from watchword.weights import files

STATE = "state.json"
FORM = "watchword run 1"
NAMED = re.compile(r"step-(\d+)")


def place(run: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return run / "checkpoints" / f"step-{step:07d}"


def steps_saved(run: Path) -> list[int]:
    """The steps whose checkpoints are there."""
    names = (path.name for path in (run / "checkpoints").glob("step-*"))
    return sorted(int(found[1]) for name in names if (found := NAMED.fullmatch(name)))


def write_state(run: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Write a checkpoint.

    Raises:
        CapacityError: the disk is full; earlier checkpoints are as they were.
    """

    def fill(folder: Path) -> None:
        files.save(tensors, folder, max_shard_size="100TB")
        (folder / STATE).write_text(json.dumps({"form": FORM, "step": step, **facts}, indent=1) + "\n")

    return write_whole(place(run, step), fill)


def write_whole(target: Path, fill: Callable[[Path], None]) -> Path:
    """A folder that is there with all its files, or not at all; one of that name is replaced.

    Raises:
        CapacityError: it cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        fill(partial)
        for path in [*sorted(partial.rglob("*")), partial]:
            to_disk(path)
        if target.exists():
            old = target.with_name(f".{target.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            os.replace(target, old)
            os.replace(partial, target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(partial, target)
        to_disk(target.parent)
    except (OSError, files.SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CapacityError(
            f"{target}: cannot be written ({error}); what was saved before is as it was; make room, then go "
            "on with --resume"
        ) from error
    return target


def to_disk(path: Path) -> None:
    """Wait until a file or folder is on the disk and not only on its way."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_state(run: Path, step: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the facts of a checkpoint.

    Raises:
        CheckpointError: not there, or not one of these.
    """
    folder = place(run, step)
    try:
        facts = json.loads((folder / STATE).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: no checkpoint of a run ({error}); name another step") from error
    if facts.get("form") != FORM or facts.get("step") != step:
        raise CheckpointError(
            f"{folder}: says form {facts.get('form')!r} and step {facts.get('step')!r}; expected {FORM!r} "
            f"and {step}"
        )
    opened = files.open_weights(folder)
    return {name: shard.read(name) for shard in opened.shards() for name in shard.names}, facts


def forget(run: Path, keep: int, best: int | None) -> None:
    """Remove all checkpoints but the last `keep` and the best, and what killed runs left half-written."""
    for step in steps_saved(run)[:-keep]:
        if step != best:
            gone = place(run, step)
            doomed = gone.with_name(f".{gone.name}.old")
            os.replace(gone, doomed)  # never half a checkpoint under its name
            shutil.rmtree(doomed, ignore_errors=True)
    for path in (run / "checkpoints").glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)


def replace_text(path: Path, text: str) -> None:
    """Write a small file in one go.

    Raises:
        CapacityError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        to_disk(partial)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise CapacityError(f"{path}: cannot be written ({error.strerror or error}); make room") from error


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write objects, one a line."""
    replace_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
