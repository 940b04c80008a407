"""The documented video processors: clips → pixels, by the tensor path."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch

from watchword.errors import RequestError, refuse_unknown
from watchword.hf.features import BatchFeature, VideoMetadata, join_rows, tensor_kind
from watchword.hf.preprocessing import Preprocessor
from watchword.media.decode import read_frames, read_image
from watchword.media.frames import as_clips, channel_place, stack
from watchword.media.gate import is_source
from watchword.media.pick import Pick, Timeline, everything
from watchword.media.pixels import to_pixels
from watchword.media.spec import BICUBIC, CLIP_MEAN, CLIP_STD, PixelSpec, Size
from watchword.shapes import Tensor

__all__ = ["InstructBlipVideoVideoProcessor", "VideoLlavaVideoProcessor"]

_PIXEL_FIELDS = (
    "do_convert_rgb", "do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale",
    "rescale_factor", "do_normalize", "image_mean", "image_std",
)  # fmt: skip
_DEFAULTS: dict[str, Any] = {
    "do_convert_rgb": True, "do_resize": True, "size": None, "size_divisor": None, "default_to_square": True,
    "resample": BICUBIC, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
    "image_mean": list(CLIP_MEAN), "image_std": list(CLIP_STD), "do_pad": None, "do_center_crop": None,
    "crop_size": None, "data_format": "channels_first", "input_data_format": None, "device": None,
    "do_sample_frames": False, "video_metadata": None, "fps": None, "num_frames": None,
    "return_metadata": False,
}  # fmt: skip


class VideoProcessor(Preprocessor):
    """What both video processors share. Arguments of the constructor and of `preprocess`, the latter winning:

    Args:
        do_convert_rgb: grey becomes RGB, transparency is blended on white.
        do_resize: resize to `size` with the filter `resample` (Pillow's number; 3 is bicubic).
        size: {"height", "width"}, or {"shortest_edge"} to keep the aspect ratio; one number is both edges or
            the short edge, as `default_to_square` says.
        do_center_crop: cut the middle `crop_size`; smaller frames are padded with zeros.
        do_rescale: multiply by `rescale_factor`, 1/255.
        do_normalize: subtract `image_mean` and divide by `image_std`, per colour.
        data_format: where the colours shall be, "channels_first" or "channels_last".
        input_data_format: where they are; None: told by the axis of length 3, 1 or 4.
        device: where to compute.
        do_sample_frames: choose `num_frames` frames evenly, or `fps` frames a second; with neither, all.
            Without it, both are ignored and all frames are used.
        video_metadata: what is known of the clips (`total_num_frames`, `fps`), one mapping or one per clip.
        return_metadata: add `video_metadata` to the result.
        return_tensors: "pt" or "np" joins the clips; clips of different lengths or sizes stay a list with one
            tensor per clip. None gives the list.
        do_pad: not supported, like `size_divisor`; refused when set.
    """

    files = ("video_preprocessor_config.json", "preprocessor_config.json", "processor_config.json")
    section = "video_processor"
    type_key = "video_processor_type"
    fields = tuple(_DEFAULTS)
    defaults: ClassVar[Mapping[str, Any]] = {}
    size: dict[str, int]
    crop_size: dict[str, int] | None
    default_to_square: bool

    def __init__(self, **kwargs: Any) -> None:
        self._keep(kwargs)
        settings = {**_DEFAULTS, **self.defaults, **{k: v for k, v in kwargs.items() if v is not None}}
        for name in self.fields:
            setattr(self, name, deepcopy(settings[name]))
        self.size = Size.of(self.size, square=self.default_to_square).as_dict()
        self.crop_size = (
            None if self.crop_size is None else Size.of(self.crop_size, name="crop_size").as_dict()
        )

    def preprocess(self, videos: Any, **kwargs: Any) -> BatchFeature:
        """Turn clips into pixels of (clips, frames, 3, height, width).

        Args:
            videos: clips as arrays or tensors of frames, lists of frames (Pillow images or arrays), paths;
                one or a list of them, or a 5-axis batch. A single picture is a clip of one frame.
            **kwargs: see the class.

        Raises:
            UnknownArgument: an argument that is not among those.
            RequestError: arguments that contradict each other or the clips.
            MediaError: a clip that cannot be read, or whose values are not finite.
        """
        name = type(self).__name__
        refuse_unknown(f"{name}.preprocess", kwargs, (*self.fields, "return_tensors"))
        kind = tensor_kind(kwargs.pop("return_tensors", None))
        settings = {field: getattr(self, field) for field in self.fields}
        settings |= {field: value for field, value in kwargs.items() if value is not None}
        for field in ("do_pad", "size_divisor"):
            if settings[field]:
                raise RequestError(f"{name}: {field}={settings[field]!r} is not supported; leave it out")
        spec = _spec(settings)
        pick = (
            _Sampled(settings["num_frames"], settings["fps"])
            if settings["do_sample_frames"]
            else everything()
        )
        clips = as_clips(videos)
        known = _metadata(settings["video_metadata"], len(clips))
        rows, metadata = [], []
        for clip, given in zip(clips, known, strict=True):
            frames, about = _frames(clip, given, pick)
            given_place = "channels_last" if is_source(clip) else settings["input_data_format"]
            rows.append(_pixels(frames, spec, {**settings, "input_data_format": given_place}))
            metadata.append(about)
        result = {self.model_input_names[0]: join_rows(rows, kind)}
        return BatchFeature({**result, "video_metadata": metadata} if settings["return_metadata"] else result)


class InstructBlipVideoVideoProcessor(VideoProcessor):
    """Clips for InstructBlipVideo: frames resized to exactly (height, width), 384 by default.

    Arguments are those of `VideoProcessor`.

    >>> import numpy as np
    >>> clip = np.zeros((4, 20, 30, 3), np.uint8)
    >>> InstructBlipVideoVideoProcessor(size=8)(clip, return_tensors="pt").pixel_values.shape
    torch.Size([1, 4, 3, 8, 8])
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012 - documented as a list
    defaults = {"size": {"height": 384, "width": 384}}  # noqa: RUF012


class VideoLlavaVideoProcessor(VideoProcessor):
    """Clips for Video-LLaVA: the short edge resized to 224, the middle 224x224 cut out.

    Arguments are those of `VideoProcessor`.
    """

    model_input_names = ["pixel_values_videos"]  # noqa: RUF012 - documented as a list
    defaults = {  # noqa: RUF012
        "size": {"shortest_edge": 224},
        "default_to_square": False,
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
    }


@dataclass(frozen=True)
class _Sampled:
    """The documented sampling: `num_frames` evenly, or as many as `fps` a second make.

    Source: `BaseVideoProcessor.sample_frames`; it works in float32, which differs from `uniform` for some
        counts.
    """

    num_frames: int | None
    fps: int | float | None
    relative: ClassVar[bool] = True
    asked: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        if self.num_frames is not None and self.fps is not None:
            raise RequestError(
                f"num_frames={self.num_frames} and fps={self.fps} exclude each other; give one"
            )

    def choose(self, timeline: Timeline) -> tuple[int, ...]:
        """Give the indices, or say why they cannot be given."""
        total, count = timeline.total, self.num_frames
        if count is None and self.fps is None:
            return tuple(range(total))
        if count is None and timeline.fps is None:
            raise RequestError(
                f"fps={self.fps}: the clip's own frame rate is unknown; "
                "give it in video_metadata, or num_frames"
            )
        if count is None:
            count = int(total / timeline.fps * self.fps)  # type: ignore[operator]
        if not 1 <= count <= total:
            raise RequestError(f"{count} frames asked for, the clip has {total}; ask for 1 to {total}")
        return tuple(torch.arange(0, total, total / count).int().tolist()[:count])


def _spec(settings: Mapping[str, Any]) -> PixelSpec:
    chosen = {name: settings[name] for name in _PIXEL_FIELDS}
    switches = {name: bool(value) for name, value in chosen.items() if name.startswith("do_")}
    return PixelSpec.from_dict(
        {**chosen, **switches, "default_to_square": settings["default_to_square"]}, path="tensor"
    )


def _metadata(given: Any, count: int) -> list[VideoMetadata | None]:
    """Read `video_metadata`: one mapping, or a list (nested as the clips may be) with one per clip."""
    if given is None:
        return [None] * count
    flat = [given] if isinstance(given, Mapping) else [
        item for part in given for item in (part if isinstance(part, (list, tuple)) else [part])
    ]  # fmt: skip
    if len(flat) != count:
        raise RequestError(f"video_metadata: {len(flat)} given for {count} clips; give one per clip")
    for item in flat:
        refuse_unknown("video_metadata", item, (field.name for field in fields(VideoMetadata)))
    return [VideoMetadata(**item) for item in flat]


def _frames(clip: Any, given: VideoMetadata | None, pick: Pick) -> tuple[Any, VideoMetadata]:
    """Open or take one clip, choose its frames, and say what is known of it."""
    if is_source(clip):
        read = read_frames(clip, pick)
        height, width = read.frames.shape[1:3]
        seconds = read.total / read.fps if read.fps else None
        about = VideoMetadata(read.total, read.fps, width, height, seconds, "pyav", list(read.indices))
        return read.frames, about
    if isinstance(clip, list):  # files of single pictures
        clip = stack([read_image(path) for path in clip])
    about = given or _measured(clip)
    if not isinstance(
        pick, _Sampled
    ):  # the frames were chosen by the caller, the metadata tells of the whole clip
        return clip, about
    indices = list(pick.choose(Timeline(about.total_num_frames, about.fps)))
    if max(indices) >= len(clip):
        raise RequestError(
            f"video_metadata: total_num_frames is {about.total_num_frames}, the clip has {len(clip)} frames; "
            "correct it, or switch do_sample_frames off"
        )
    return clip[indices], replace(about, frames_indices=indices)


def _measured(clip: Any) -> VideoMetadata:
    """What an array says of itself."""
    first = channel_place(clip.shape, (1, 3, 4)) == "first"
    height, width = clip.shape[-2:] if first else clip.shape[-3:-1]
    return VideoMetadata(len(clip), height=height, width=width, frames_indices=list(range(len(clip))))


def _pixels(frames: Any, spec: PixelSpec, settings: Mapping[str, Any]) -> Tensor:
    if settings["device"] is not None:
        frames = torch.as_tensor(frames).to(settings["device"])
    pixels = to_pixels(frames, spec, channels=settings["input_data_format"])
    place = getattr(settings["data_format"], "value", settings["data_format"])
    if place not in ("channels_first", "channels_last"):
        raise RequestError(f"data_format: {place!r}, expected 'channels_first' or 'channels_last'")
    return pixels if place == "channels_first" else pixels.movedim(-3, -1).contiguous()
