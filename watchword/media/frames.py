"""Frames as arrays: the `Clip`, and how pictures, arrays and lists that a caller hands in become arrays."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from watchword.errors import MediaError, RequestError
from watchword.media.gate import is_source
from watchword.media.pick import Between, Pick, Scenes, Segments
from watchword.media.timeline import Timeline

__all__ = [
    "Clip",
    "as_clips",
    "as_pictures",
    "as_uint8_frames",
    "channel_place",
    "check_size",
    "is_frames",
    "picture_array",
]

Place = Literal["first", "last"]


@dataclass(frozen=True)
class Clip:
    """Frames and where they come from.

    Attributes:
        frames: red, green, blue, 0-255, upright unless rotation was switched off.
        indices: the number of each frame in its clip, counted from 0.
        times: seconds after the clip's first frame, or None when the source has no clock (arrays, folders).
        total: how many frames the whole clip has.
        fps: average frames a second, or None.
        kind: "picture" when the source is a still picture, else "video".
        rotation: degrees counter-clockwise by which the frames were turned upright.
        colour: by which matrix and range colours were turned into RGB ("BT.709, limited range"), of a video.
        note: what a user should know about the choice ("the clip has 5 frames, 8 were asked for"), or "".
        timeline: what the choice was made by.
    """

    frames: UInt8[np.ndarray, "T H W 3"]
    indices: tuple[int, ...]
    times: tuple[float, ...] | None
    total: int
    fps: float | None = None
    kind: Literal["picture", "video"] = "video"
    rotation: int = 0
    note: str = ""
    colour: str = ""
    timeline: Timeline | None = field(default=None, compare=False, repr=False)

    def split(self, pick: Segments) -> list["Clip"]:
        """Divide a clip that was read with `media.segments(...)` into one for each stretch.

        `Clip.times` stay seconds of the whole clip.
        """
        if self.timeline is None:
            raise RequestError("split: this clip was not read from a video; read one with media.segments")
        spans = pick.spans(self.timeline)
        if [i for _, _, indices in spans for i in indices] != list(self.indices):
            raise RequestError(
                f"split: the clip was not read with {pick}; read it with the choice that it is split by"
            )
        parts, begin = [], 0
        for _, _, indices in spans:
            stop = begin + len(indices)
            times = None if self.times is None else self.times[begin:stop]
            parts.append(replace(self, frames=self.frames[begin:stop], indices=indices, times=times))
            begin = stop
        return parts


def available(indices: tuple[int, ...], total: int, name: str) -> tuple[int, ...]:
    """Give the indices, if the clip has them all."""
    absent = [index for index in indices if index >= total]
    if absent:
        raise MediaError(
            f"{name}: no frame {absent[0]}, the clip has {total}; ask for indices from 0 to {total - 1}"
        )
    return indices


def note_of(pick: Pick, indices: tuple[int, ...], timeline: Timeline | None = None) -> str:
    """What a user should know about a choice: that there were fewer frames or scenes than asked for."""
    if isinstance(pick, Scenes) and timeline is not None and len(indices) == pick.count:
        scenes = len(pick.cuts(timeline)[1]) + 1
        told = "1 scene" if scenes == 1 else f"{scenes} scenes"
        return f"{told} found, {pick.count} asked for; the longest are divided" if scenes < pick.count else ""
    if pick.asked is None or len(indices) >= pick.asked:
        return ""
    frames = "1 frame" if len(indices) == 1 else f"{len(indices)} frames"
    where = "that part of the clip" if isinstance(pick, Between) else "the clip"
    return f"{where} has {frames}, {pick.asked} were asked for; all are used"


def is_tensor(value: object) -> bool:
    """Say whether this is a torch tensor, without importing torch."""
    return hasattr(value, "detach") and hasattr(value, "__array__")


def is_array(value: object) -> bool:
    """Say whether this is a numpy array or a torch tensor."""
    return isinstance(value, np.ndarray) or is_tensor(value)


def is_frame(value: object) -> bool:
    """Say whether this is one picture: a Pillow image or a three-dimensional array."""
    return isinstance(value, Image.Image) or (is_array(value) and value.ndim == 3)  # type: ignore[attr-defined]


def is_frames(value: object) -> bool:
    """Say whether this is pictures or arrays rather than something to open."""
    if isinstance(value, (list, tuple)):
        return bool(value) and all(is_frames(item) for item in value)
    return isinstance(value, (Image.Image, Clip)) or is_array(value)


def as_numpy(value: object) -> np.ndarray:
    """Give an array or tensor as a numpy array, from whatever device."""
    if is_tensor(value):
        tensor = value.detach().cpu()  # type: ignore[attr-defined]
        return np.asarray(tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor)
    return np.asarray(value)


def channel_place(shape: Sequence[int], counts: tuple[int, ...] = (1, 3)) -> Place:
    """Say whether the colour axis of `(..., a, b, c)` comes first or last of the three, by its length.

    When both could be it, it is the first.

    Raises:
        RequestError: neither end has a length in `counts`.

    Source: the reference's `infer_channel_dimension_format`.
    """
    for count in (
        counts,
        (4,) if 4 in counts else (),
    ):  # four of something is less likely colour than one or three
        few = tuple(n for n in count if n != 4) if count is counts else count
        if shape[-3] in few:
            return "first"
        if shape[-1] in few:
            return "last"
    wanted = " or ".join(str(n) for n in counts)
    raise RequestError(
        f"frames of shape {tuple(shape)}: no axis of {wanted} colours first or last; "
        "convert to RGB, or name the place with input_data_format"
    )


def picture_array(image: object, *, rgb: bool = True, alpha: bool = False) -> np.ndarray:
    """Give one picture as an array, its values untouched.

    Args:
        image: a Pillow image, or an array or tensor with three axes.
        rgb: convert Pillow images to RGB. Transparency is dropped, not blended, as the reference does.
        alpha: keep the transparency of Pillow images that have it, as a fourth colour, for clips.
    """
    if not isinstance(image, Image.Image):
        if not is_frame(image):
            raise RequestError(
                f"{_describe(image)} is no picture; give a Pillow image or an array (height, width, colours)"
            )
        return as_numpy(image)
    if alpha and (image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info):
        return np.array(image.convert("RGBA"))
    return np.array(image.convert("RGB") if rgb and image.mode != "RGB" else image)


def eight_bit(frames: Any) -> Any:
    """16-bit grey of Pillow scaled to 8 bits, which it would cut at 255: white nearly everywhere.

    Processors, which are given pictures and not files, cut it as the reference does.
    """
    if isinstance(frames, (list, tuple)):
        return [eight_bit(one) for one in frames]
    if isinstance(frames, Image.Image) and (
        frames.mode.startswith("I;16") or (frames.mode == "I" and frames.format == "PPM")
    ):
        return Image.fromarray((np.asarray(frames).astype(np.uint16) >> 8).astype(np.uint8))
    return frames


def as_pictures(images: object) -> list[object]:
    """Flatten one picture, nested lists or a batch array into a list of pictures and sources to open."""
    if isinstance(images, Image.Image) or is_source(images):
        return [images]
    if is_array(images):
        if images.ndim == 3:  # type: ignore[attr-defined]
            return [images]
        if images.ndim == 4:  # type: ignore[attr-defined]
            return list(images)  # type: ignore[call-overload]
    if isinstance(images, (list, tuple)) and images:
        return [picture for item in images for picture in as_pictures(item)]
    raise RequestError(
        f"images: {_describe(images)} is not a picture; give Pillow images, arrays with 3 axes "
        "(4 for a batch), paths, or lists of these"
    )


def as_clips(videos: object, *, alpha: bool = True, _depth: int = 0) -> list[object]:
    """Sort one clip, a list of frames, a list of clips or nested lists into a list of clips.

    Each clip is a 4-axis array or tensor, something to open, or a list of picture files (three lists deep).

    Args:
        videos: what the caller gave.
        alpha: keep the transparency of Pillow frames as a fourth colour.

    Source: the reference's `make_batched_videos`; beyond it, tuples and 5-axis batches are taken.
    """
    if is_source(videos):
        return [videos]
    if isinstance(videos, Clip):
        return [videos.frames]
    if isinstance(videos, Image.Image):
        return [picture_array(videos, alpha=alpha)[None]]
    if is_array(videos) and 3 <= videos.ndim <= 5:  # type: ignore[attr-defined]
        return {3: lambda v: [v[None]], 4: lambda v: [v], 5: list}[videos.ndim](videos)  # type: ignore[attr-defined]
    if isinstance(videos, (list, tuple)) and videos:
        if all(is_frame(item) for item in videos):
            return [stack([picture_array(item, alpha=alpha) for item in videos])]
        if _depth == 2 and all(is_source(item) for item in videos):
            return [list(videos)]
        return [clip for item in videos for clip in as_clips(item, alpha=alpha, _depth=_depth + 1)]
    raise RequestError(
        f"videos: {_describe(videos)} is not a clip; give arrays with 4 axes (5 for a batch), lists of "
        "frames, paths, or lists of these"
    )


def as_uint8_frames(frames: object, name: str = "frames") -> UInt8[np.ndarray, "T H W 3"]:
    """Give one clip's frames as 0-255 RGB with colours last. Arrays say by their shape where colours are."""
    clips = as_clips(eight_bit(frames))
    if len(clips) != 1 or not is_array(clips[0]):
        raise MediaError(f"{name}: {len(clips)} clips, where one was expected; read them one by one")
    array = as_numpy(clips[0])
    if array.dtype != np.uint8:
        raise MediaError(
            f"{name}: values of type {array.dtype}, where whole numbers 0-255 (uint8) were expected"
        )
    if not _is_decoded(frames) and channel_place(array.shape, (1, 3, 4)) == "first":
        array = np.moveaxis(array, -3, -1)
    if array.shape[-1] == 4:
        raise MediaError(
            f"{name}: four colours (transparency), where red, green, blue were expected; drop the fourth"
        )
    return np.ascontiguousarray(array if array.shape[-1] == 3 else np.repeat(array, 3, axis=-1))


def _is_decoded(frames: object) -> bool:
    """Whether colours are last whatever the size: pictures of Pillow and clips, not arrays."""
    if isinstance(frames, (list, tuple)):
        return all(_is_decoded(one) for one in frames)
    return isinstance(frames, (Image.Image, Clip))


def check_size(name: str, index: int, kept: dict[int, np.ndarray]) -> None:
    """Refuse a frame of another size at once, before more of them than the budget allows are kept."""
    first = next(iter(kept))
    if kept[index].shape != kept[first].shape:
        raise MediaError(
            f"{name}: frame {index} has shape {kept[index].shape}, frame {first} {kept[first].shape}; choose "
            "among frames of one size"
        )


def stack(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Join frames of one size into a clip."""
    for number, frame in enumerate(frames):
        if frame.shape != frames[0].shape:
            raise MediaError(
                f"frame {number} has shape {frame.shape}, the first has {frames[0].shape}; "
                "give frames of one size"
            )
    return np.stack(frames)


def _describe(value: object) -> str:
    if is_array(value):
        return f"an array of {value.ndim} axes"  # type: ignore[attr-defined]
    return f"an empty {type(value).__name__}" if isinstance(value, (list, tuple)) else type(value).__name__
