"""Conversations as JSON files."""

import base64
import binascii
import json
import os
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from watchword.errors import MediaError, RequestError
from watchword.media.decode import read_image, read_media
from watchword.media.frames import Clip
from watchword.media.pick import at_indices
from watchword.media.policy import OPEN, Policy
from watchword.media.write import png
from watchword.pipeline.families import Exchange
from watchword.pipeline.reuse import digest
from watchword.prompt.text import is_text

FORM = "watchword chat 1"
"""What a file says of itself."""


@dataclass(frozen=True)
class Saved:
    """What a file holds.

    Attributes:
        history: what was said.
        waiting: media that were not asked about yet.
        paths: which of them came from which file, by the identity of the clip.
        frames, overflow, turns, adapter: as for `Chat`.
    """

    history: list[Exchange]
    waiting: list[Clip]
    paths: dict[int, str]
    frames: int | None
    overflow: Any
    turns: Any
    adapter: str | None = None


def write_chat(chat: Any, path: Any) -> None:
    """Write a conversation. What the file held before is there until all is written.

    Raises:
        RequestError: it cannot be written.
    """

    def told(clip: Clip) -> dict[str, Any]:
        return medium_to_dict(clip, chat.path_of(clip))

    raw = {
        "form": FORM,
        "model": chat.pipeline.name,
        "frames": chat.frames if isinstance(chat.frames, int) else None,
        "overflow": chat.overflow,
        "turns": chat.turns,
        "adapter": chat.adapter,
        "history": [
            {"question": one.question, "media": [told(clip) for clip in one.clips], "answer": one.answer}
            for one in chat.history
        ],
        "waiting": [told(clip) for clip in chat.waiting],
    }
    text = json.dumps(raw, ensure_ascii=False, indent=1)
    if not is_text(text):
        text = json.dumps(raw, indent=1)  # a path that is no UTF-8
    try:
        replace(os.path.realpath(path), (text + "\n").encode())
    except OSError as error:
        raise RequestError(
            f"{path}: cannot be written ({error.strerror}); expected room, and the right to write; choose "
            "another place"
        ) from error


def replace(path: str, content: bytes) -> None:
    """Write a file; one that is there is as it was until all is written, where that takes nothing from it: it
    is the caller's own, has no other name, and its folder may be written to."""
    folder = os.path.dirname(path)
    found = os.stat(path) if os.path.isfile(path) else None
    own = found is not None and (not hasattr(os, "geteuid") or found.st_uid == os.geteuid())
    if found is None or not own or found.st_nlink > 1 or not os.access(folder, os.W_OK):
        Path(path).write_bytes(content)
        return
    descriptor, partial = tempfile.mkstemp(dir=folder, prefix=".", suffix=".partial")
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        os.chmod(partial, stat.S_IMODE(found.st_mode))
        os.replace(partial, path)
    except OSError:
        with suppress(OSError):
            os.unlink(partial)
        raise


def read_chat(path: Any, policy: Policy = OPEN) -> Saved:
    """Read a conversation, and the pictures and clips that it is about.

    Raises:
        RequestError: no such file, or not one of these.
        MediaError: a picture or clip is not there any more, or is another one now.
    """
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"{path}: cannot be read ({reason}); expected a saved conversation") from error
    if not isinstance(raw, dict) or raw.get("form") != FORM:
        raise RequestError(f"{path}: not a saved conversation; expected a JSON object with form {FORM!r}")
    paths: dict[int, str] = {}
    try:
        closed = raw["turns"] == "original"
        history = [
            Exchange(
                text(one["question"]),
                tuple(medium_from_dict(medium, paths, policy) for medium in one["media"]),
                text(one["answer"]),
                closed,
            )
            for one in raw["history"]
        ]
        waiting = [medium_from_dict(medium, paths, policy) for medium in raw["waiting"]]
        adapter = raw.get("adapter")  # conversations of before there were any have none
        return Saved(history, waiting, paths, raw["frames"], raw["overflow"], raw["turns"], adapter)
    except (KeyError, TypeError, binascii.Error) as error:
        raise RequestError(
            f"{path}: a damaged conversation ({type(error).__name__}: {error}); save it again"
        ) from error


def medium_to_dict(clip: Clip, path: str | None) -> dict[str, Any]:
    """A picture or clip: where it lies and which frames of it, or all of it."""
    raw = {
        "kind": clip.kind,
        "frames": list(clip.indices),
        "times": None if clip.times is None else list(clip.times),
        "total": clip.total,
        "sha256": digest(clip).hex(),
    }
    return raw | ({"png": [png(frame) for frame in clip.frames]} if path is None else {"path": path})


def medium_from_dict(raw: dict[str, Any], paths: dict[int, str], policy: Policy) -> Clip:
    """The same picture or clip again."""
    if "path" in raw:
        clip = read_media(raw["path"], at_indices(raw["frames"]), policy=policy)
        paths[id(clip)] = raw["path"]
        name = raw["path"]
    else:
        frames = np.stack(
            [read_image(base64.b64decode(one, validate=True), policy=policy) for one in raw["png"]]
        )
        times = None if raw["times"] is None else tuple(raw["times"])
        clip = Clip(frames, tuple(raw["frames"]), times, raw["total"], kind=raw["kind"])
        name = "a picture in the conversation"
    if digest(clip).hex() != raw["sha256"]:
        raise MediaError(
            f"{name}: its content has changed since it was talked about; begin a new conversation"
        )
    return clip


def text(value: object) -> str:
    """A string, and nothing else."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} where words were expected")
    return value
