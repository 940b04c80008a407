"""Open a path, bytes, a file object or given frames, and give frames with their times.

How a video is read stands in `video`; here lie the doors, and what is no video: pictures, folders, arrays.
"""

import os
import re
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import numpy as np
from PIL import Image

from watchword.errors import MediaError, RequestError
from watchword.media.budget import Budget
from watchword.media.frames import Clip, as_uint8_frames, available, is_frames, note_of, stack
from watchword.media.gate import OPEN, Admitted, Policy, admit, admit_folder
from watchword.media.pick import Everything, Pick, Timeline, uniform
from watchword.media.pictures import find_picture, load_picture, moves, moves_in_pillow, read_image, whole
from watchword.media.sandbox import sandboxed
from watchword.media.timeline import THUMB
from watchword.media.video import read_video

__all__ = ["read_admitted", "read_frames", "read_image", "read_media"]

EIGHT = uniform(8)  # the number of frames Video-LLaVA was trained on


def read_frames(
    source: object,
    pick: Pick = EIGHT,
    *,
    rotate: bool = True,
    fast: bool = False,
    policy: Policy = OPEN,
    sandbox: bool = False,
) -> Clip:
    """Read the chosen frames of a clip.

    Args:
        source: a path, `-` for standard input, bytes, a binary file object, a folder of numbered pictures, or
            frames: an array or tensor of frames, a list of Pillow images or arrays. Where the policy says so,
            addresses. A still picture is a clip of one frame.
        pick: which frames; see `watchword.media.pick`.
        rotate: turn frames upright as the container says, as players do. With False the pixels are the
            decoder's own.
        fast: let the decoder make large frames of a video small, the shorter edge 224 pixels: quicker and
            lighter, but not the pixels of which parity with the reference is promised.
        policy: what may be opened.
        sandbox: read in a limited child process, whatever the policy says; see `media.sandbox`.

    Raises:
        MediaError: it cannot be opened, is not a picture or video, has no picture stream, its data ends
            early, it is damaged at a wanted frame, or it does not have a frame asked for.
    """
    if isinstance(source, Clip):
        return _again(source, pick)
    if is_frames(source):
        return _chosen(as_uint8_frames(source), pick, "frames")
    policy = policy.boxed(sandbox)
    if isinstance(source, (str, os.PathLike)) and os.path.isdir(source):
        return _read_folder(os.fspath(source), pick, policy)
    media = admit(source, policy)
    if policy.sandbox:
        return sandboxed(media, pick, policy, rotate=rotate, fast=fast)
    return read_admitted(media, pick, policy, rotate=rotate, fast=fast)


def read_admitted(media: Admitted, pick: Pick, policy: Policy, *, rotate: bool, fast: bool) -> Clip:
    """Read the chosen frames of what passed the gate, in this process."""
    picture = find_picture(media, policy)
    if picture is not None:
        with picture, whole(media.name):
            if not moves(picture):
                pixels = load_picture(picture, media.name)
                return _chosen(pixels[None], Everything(), media.name, kind="picture")
            if moves_in_pillow(picture):
                return _read_animation(picture, pick, media.name, policy)
    return read_video(media, pick, policy, rotate=rotate, fast=fast)


def read_media(
    source: object,
    pick: Pick = EIGHT,
    *,
    rotate: bool = True,
    fast: bool = False,
    policy: Policy = OPEN,
    sandbox: bool = False,
) -> Clip:
    """Read a picture or a video, told apart by content, never by name: `Clip.kind` says which it is.

    An animated picture is a video. Given frames are a picture when they are a Pillow image or an array of
    three axes.
    """
    if isinstance(source, Image.Image) or (is_frames(source) and getattr(source, "ndim", 4) == 3):
        return _chosen(read_image(source, policy=policy)[None], Everything(), "picture", kind="picture")
    return read_frames(source, pick, rotate=rotate, fast=fast, policy=policy, sandbox=sandbox)


def _chosen(frames: np.ndarray, pick: Pick, name: str, kind: Literal["picture", "video"] = "video") -> Clip:
    """Choose among frames that are all there."""
    if not len(frames):
        raise MediaError(f"{name}: an array of no frames; give at least one")
    timeline = Timeline(len(frames), changes=_changes(frames) if getattr(pick, "looks", False) else ())
    indices = available(pick.choose(timeline), len(frames), name)
    note = note_of(pick, indices, timeline)
    return Clip(frames[list(indices)], indices, None, len(frames), kind=kind, note=note)


def _again(clip: Clip, pick: Pick) -> Clip:
    """Choose by number among the frames of a clip, which keep their own numbers and times.

    Not by time: they may be any frames of a film, in any order.
    """
    if clip.kind == "picture":
        pick = Everything()
    frames = as_uint8_frames(clip)
    changes = _changes(frames) if getattr(pick, "looks", False) else ()
    count = len(frames)
    timeline = Timeline(count, changes=changes)
    places = available(pick.choose(timeline), count, "clip")
    return replace(
        clip,
        frames=frames[list(places)],
        indices=tuple(clip.indices[place] for place in places),
        times=None if clip.times is None else tuple(clip.times[place] for place in places),
        note=note_of(pick, places, timeline),
        timeline=None,
    )


def _changes(frames: np.ndarray) -> list[float]:
    """How much each frame differs from the one before, 0-1, measured in small."""
    size = (THUMB, THUMB)
    small = [np.asarray(Image.fromarray(one).resize(size)).astype(np.int16) for one in frames]
    return [0.0, *(float(np.abs(b - a).mean()) / 255 for a, b in pairwise(small))]


def _refuse_looks(pick: Pick, name: str) -> None:
    if getattr(pick, "looks", False):
        raise RequestError(f"{name}: scenes are found in videos and frames only; choose by number")


def _read_folder(folder: str, pick: Pick, policy: Policy) -> Clip:
    """Read a folder of pictures as a clip, ordered by the numbers in their names."""
    _refuse_looks(pick, folder)
    path = admit_folder(folder, policy)
    files = [entry.name for entry in os.scandir(path) if entry.is_file() and entry.name[0] != "."]
    files.sort(
        key=lambda name: [(int(n), "") if n.isdecimal() else (-1, n) for n in re.split(r"(\d+)", name)]
    )
    if not files:
        raise MediaError(f"{folder}: a folder without files, where numbered pictures were expected")
    indices = available(pick.choose(Timeline(len(files))), len(files), folder)
    budget = policy.budget(folder)
    frames: dict[int, np.ndarray] = {}
    for index in set(indices):
        budget.clock()
        frames[index] = read_image(os.path.join(path, files[index]), policy=policy)
        policy.check_memory(folder, len(indices), frames[index].shape[1], frames[index].shape[0])
    return Clip(stack([frames[i] for i in indices]), indices, None, len(files), note=note_of(pick, indices))


def _read_animation(picture: Image.Image, pick: Pick, name: str, policy: Policy) -> Clip:
    """Read an animated picture that FFmpeg does not decode; each frame says how long it is shown."""
    _refuse_looks(pick, name)
    total: int = picture.n_frames  # type: ignore[attr-defined]
    budget = policy.budget(name)
    timeline = _clock(picture, total, name, budget) if getattr(pick, "timed", True) else Timeline(total)
    indices = available(pick.choose(timeline), total, name)
    kept, clock = {}, 0.0
    policy.check_memory(name, len(indices), *picture.size)
    for index in range(max(indices) + 1):
        budget.packet()
        budget.clock()
        picture.seek(index)
        frame = load_picture(picture, name)
        if index in indices:
            kept[index] = frame, clock
        clock += picture.info.get("duration", 0) / 1000
    frames, times = zip(*(kept[i] for i in indices), strict=True)
    known = timeline if timeline.times else None
    return Clip(stack(frames), indices, times, total, note=note_of(pick, indices), timeline=known)


def _clock(picture: Image.Image, total: int, name: str, budget: Budget) -> Timeline:
    """When each frame of an animated picture is shown; each is decoded for that."""
    times = [0.0]
    for index in range(total):
        budget.packet()
        picture.seek(index)
        load_picture(picture, name)
        times.append(times[-1] + picture.info.get("duration", 0) / 1000)
    if not times[-1]:
        return Timeline(total, name=name)
    return Timeline(total, total / times[-1], times[:-1], times[-1], name=name)
