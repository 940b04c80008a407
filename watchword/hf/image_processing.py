"""The documented image processors: pictures → `pixel_values`, by the Pillow path."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from watchword.errors import RequestError, refuse_unknown
from watchword.hf.arguments import refuse_others
from watchword.hf.features import BatchFeature, join_rows, tensor_kind
from watchword.hf.preprocessing import Preprocessor
from watchword.media.decode import read_frames, read_image
from watchword.media.frames import (
    as_clips,
    as_numpy,
    as_pictures,
    channel_place,
    is_array,
    picture_array,
    stack,
)
from watchword.media.gate import is_source
from watchword.media.pick import everything
from watchword.media.pixels import to_pixels
from watchword.media.spec import BICUBIC, CLIP_MEAN, CLIP_STD, PixelSpec, Size
from watchword.shapes import Tensor

__all__ = ["BlipImageProcessor", "InstructBlipVideoImageProcessor", "VideoLlavaImageProcessor"]

SizeLike = (
    Mapping[str, int] | Sequence[int] | int | None
)  # {"height", "width"}, {"shortest_edge"}, a pair, a number
PerColour = Sequence[float | int] | float | int | None


class _ImageProcessor(Preprocessor):
    """Settings files of image processors, and the way from pictures to rows of pixels."""

    files = ("preprocessor_config.json", "processor_config.json")
    section = "image_processor"
    type_key = "image_processor_type"
    fields: ClassVar[tuple[str, ...]] = (
        "do_resize", "size", "resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean",
        "image_std", "do_convert_rgb",
    )  # fmt: skip
    square: ClassVar[bool] = True

    def __init__(
        self, do_resize: bool = True, size: SizeLike = None, resample: int = BICUBIC,
        do_rescale: bool = True, rescale_factor: int | float = 1 / 255, do_normalize: bool = True,
        image_mean: PerColour = None, image_std: PerColour = None,
        do_convert_rgb: bool = True, **kwargs: Any,
    ) -> None:  # fmt: skip
        self._keep(kwargs)
        self.do_resize = do_resize
        self.size = Size.of({"height": 384, "width": 384} if size is None else size).as_dict()
        self.resample = resample
        self.do_rescale = do_rescale
        self.rescale_factor = rescale_factor
        self.do_normalize = do_normalize
        self.image_mean = list(CLIP_MEAN) if image_mean is None else image_mean
        self.image_std = list(CLIP_STD) if image_std is None else image_std
        self.do_convert_rgb = do_convert_rgb

    def _spec(self, given: dict[str, Any]) -> PixelSpec:
        """The steps for one call: what the caller gave, else the attributes."""
        chosen = {
            name: getattr(self, name) if given.get(name) is None else given[name] for name in self.fields
        }
        switches = {name: bool(value) for name, value in chosen.items() if name.startswith("do_")}
        return PixelSpec.from_dict({**chosen, **switches, "default_to_square": self.square}, path="pillow")

    def _pictures(self, images: object, spec: PixelSpec, places: "_Places") -> list[Tensor]:
        rows = []
        for item in as_pictures(images):
            array = read_image(item) if is_source(item) else picture_array(item, rgb=spec.do_convert_rgb)
            rows.append(places.pixels(array, spec, known=not is_array(item)))
        return rows

    def _clips(self, videos: object, spec: PixelSpec, places: "_Places") -> list[Tensor]:
        rows = []
        for clip in as_clips(videos, alpha=False):
            if isinstance(clip, list):
                clip = stack([read_image(path) for path in clip])
            array = read_frames(clip, everything()).frames if is_source(clip) else as_numpy(clip)
            rows.append(places.pixels(array, spec, known=is_source(clip)))
        return rows


def _need_exact(spec: PixelSpec) -> None:
    """InstructBLIP's towers take one size, so the aspect ratio is never kept."""
    if spec.do_resize and spec.size is not None:
        spec.size.exact("size")


class _Places:
    """Where the colours are in what comes in, and where they shall be in what goes out."""

    def __init__(self, data_format: object, input_data_format: object) -> None:
        self.given: Any = getattr(input_data_format, "value", input_data_format)
        self.wanted = getattr(data_format, "value", data_format)
        if self.wanted not in (None, "channels_first", "channels_last"):
            raise RequestError(f"data_format: {self.wanted!r}, expected 'channels_first' or 'channels_last'")

    def pixels(self, frames: np.ndarray, spec: PixelSpec, *, known: bool = False) -> Tensor:
        """Give the pixels, their colours where they were asked for; None means where they came in.

        Args:
            frames: a picture or clip.
            spec: the steps.
            known: it was opened or is a Pillow picture, so its colours are last whatever its height is.
        """
        given = "channels_last" if known else self.given or f"channels_{channel_place(frames.shape)}"
        pixels = to_pixels(frames, spec, channels=given)
        return pixels if (self.wanted or given) == "channels_first" else pixels.movedim(-3, -1).contiguous()


def _joined_pictures(rows: list[Tensor], kind: str | None) -> Any:
    sizes = sorted({tuple(row.shape) for row in rows})
    if kind is not None and len(sizes) > 1:
        raise RequestError(
            f"images of sizes {sizes} cannot be one tensor; resize or crop them, or no return_tensors"
        )
    return [row.numpy() for row in rows] if kind is None else join_rows(rows, kind)


def _joined_clips(rows: list[Tensor], kind: str | None) -> Any:
    return [list(row.numpy()) for row in rows] if kind is None else join_rows(rows, kind)


class BlipImageProcessor(_ImageProcessor):
    """Pictures for InstructBLIP: resized to exactly (height, width), scaled, normalised.

    Transparency of Pillow pictures is dropped, not blended. Arrays are taken as they are, with 3 colours
    first or last. Paths are opened with their EXIF orientation honoured.

    Args:
        do_resize: resize to `size`.
        size: {"height": 384, "width": 384} by default; one number is both.
        resample: Pillow's number of the filter; 3 is bicubic.
        do_rescale: multiply by `rescale_factor`.
        rescale_factor: 1/255, which makes 0-255 into 0-1.
        do_normalize: subtract `image_mean` and divide by `image_std`.
        image_mean: per colour; CLIP's by default.
        image_std: per colour; CLIP's by default.
        do_convert_rgb: convert Pillow pictures to RGB.

    >>> import numpy as np
    >>> BlipImageProcessor(size=8)(np.zeros((20, 30, 3), np.uint8), return_tensors="pt").pixel_values.shape
    torch.Size([1, 3, 8, 8])
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012 - documented as a list

    @refuse_others
    def preprocess(
        self, images: Any, do_resize: bool | None = None, size: SizeLike = None,
        resample: int | None = None, do_rescale: bool | None = None,
        rescale_factor: int | float | None = None,
        do_normalize: bool | None = None, image_mean: PerColour = None,
        image_std: PerColour = None, return_tensors: str | None = None,
        do_convert_rgb: bool | None = None, data_format: Any = "channels_first",
        input_data_format: Any = None,
    ) -> BatchFeature:  # fmt: skip
        """Turn pictures into `pixel_values`; what is not given comes from the attributes.

        Args:
            images: Pillow images, arrays, tensors, paths; one, a list, nested lists, or a batch array.
            do_resize: see the constructor, as for all settings.
            size: see the constructor.
            resample: see the constructor.
            do_rescale: see the constructor.
            rescale_factor: see the constructor.
            do_normalize: see the constructor.
            image_mean: see the constructor.
            image_std: see the constructor.
            return_tensors: "pt" or "np" for one tensor of all pictures; None for a list of arrays.
            do_convert_rgb: see the constructor.
            data_format: where the colours shall be, "channels_first" or "channels_last"; None: as they came.
            input_data_format: where they are; None: told by the axis of length 3 or 1.
        """
        kind = tensor_kind(return_tensors)
        spec = self._spec({
            "do_resize": do_resize, "size": size, "resample": resample, "do_rescale": do_rescale,
            "rescale_factor": rescale_factor, "do_normalize": do_normalize, "image_mean": image_mean,
            "image_std": image_std, "do_convert_rgb": do_convert_rgb,
        })  # fmt: skip
        _need_exact(spec)
        rows = self._pictures(images, spec, _Places(data_format, input_data_format))
        return BatchFeature({"pixel_values": _joined_pictures(rows, kind)})


class InstructBlipVideoImageProcessor(_ImageProcessor):
    """Clips for InstructBlipVideo, frame by frame as pictures; `InstructBlipVideoVideoProcessor` is newer.

    The arguments are those of `BlipImageProcessor`. Clips of different lengths give a list with one tensor
    per clip.
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012 - documented as a list

    @refuse_others
    def preprocess(
        self, images: Any = None, do_resize: bool | None = None, size: SizeLike = None,
        resample: int | None = None, do_rescale: bool | None = None,
        rescale_factor: int | float | None = None,
        do_normalize: bool | None = None, image_mean: PerColour = None,
        image_std: PerColour = None, return_tensors: str | None = None,
        do_convert_rgb: bool | None = None, data_format: Any = "channels_first",
        input_data_format: Any = None,
    ) -> BatchFeature:  # fmt: skip
        """Turn clips into `pixel_values` of (clips, frames, 3, height, width); arguments as for pictures."""
        warnings.warn(
            "InstructBlipVideoImageProcessor is deprecated; use InstructBlipVideoVideoProcessor",
            DeprecationWarning,
            stacklevel=3,
        )
        kind = tensor_kind(return_tensors)
        spec = self._spec({
            "do_resize": do_resize, "size": size, "resample": resample, "do_rescale": do_rescale,
            "rescale_factor": rescale_factor, "do_normalize": do_normalize, "image_mean": image_mean,
            "image_std": image_std, "do_convert_rgb": do_convert_rgb,
        })  # fmt: skip
        _need_exact(spec)
        rows = self._clips(images, spec, _Places(data_format, input_data_format))
        return BatchFeature({"pixel_values": _joined_clips(rows, kind)})


class VideoLlavaImageProcessor(_ImageProcessor):
    """Pictures for Video-LLaVA: short edge resized to 224, the middle cut out, scaled, normalised.

    Args:
        do_resize: resize to `size`.
        size: {"shortest_edge": 224} by default, the aspect ratio is kept; or an exact height and width.
        resample: Pillow's number of the filter; 3 is bicubic.
        do_center_crop: cut out the middle.
        crop_size: {"height": 224, "width": 224} by default; smaller pictures are padded with zeros.
        do_rescale: multiply by `rescale_factor`.
        rescale_factor: 1/255, which makes 0-255 into 0-1.
        do_normalize: subtract `image_mean` and divide by `image_std`.
        image_mean: per colour; CLIP's by default.
        image_std: per colour; CLIP's by default.
        do_convert_rgb: convert Pillow pictures to RGB.
    """

    fields = (
        "do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor",
        "do_normalize", "image_mean", "image_std", "do_convert_rgb",
    )  # fmt: skip
    square = False
    model_input_names = ["pixel_values"]  # noqa: RUF012 - documented as a list

    def __init__(
        self, do_resize: bool = True, size: SizeLike = None, resample: int = BICUBIC,
        do_center_crop: bool = True, crop_size: SizeLike = None, do_rescale: bool = True,
        rescale_factor: int | float = 1 / 255, do_normalize: bool = True,
        image_mean: PerColour = None, image_std: PerColour = None,
        do_convert_rgb: bool = True, **kwargs: Any,
    ) -> None:  # fmt: skip
        self._keep(kwargs)
        self.do_resize = do_resize
        self.size = Size.of({"shortest_edge": 224} if size is None else size, square=False).as_dict()
        self.resample = resample
        self.do_center_crop = do_center_crop
        crop_size = {"height": 224, "width": 224} if crop_size is None else crop_size
        self.crop_size = Size.of(crop_size, name="crop_size").as_dict()
        self.do_rescale = do_rescale
        self.rescale_factor = rescale_factor
        self.do_normalize = do_normalize
        self.image_mean = list(CLIP_MEAN) if image_mean is None else image_mean
        self.image_std = list(CLIP_STD) if image_std is None else image_std
        self.do_convert_rgb = do_convert_rgb

    def resize(
        self, image: Any, size: SizeLike, resample: int = BICUBIC, data_format: Any = None,
        input_data_format: Any = None, **kwargs: Any,
    ) -> Any:  # fmt: skip
        """Resize one picture as an array: the short edge to `size["shortest_edge"]`, or to height and width.

        Args:
            image: an array with 3 or 1 colours, first or last.
            size: the target.
            resample: Pillow's number of the filter.
            data_format: where the colours shall be; None: as they came.
            input_data_format: where they are; None: told by the axis of length 3 or 1.
            **kwargs: none are known.
        """
        refuse_unknown(f"{type(self).__name__}.resize", kwargs, ())
        spec = PixelSpec(
            size=Size.of(size, square=False), resample=resample, do_rescale=False, do_normalize=False
        )
        places = _Places(data_format, input_data_format)
        return places.pixels(as_numpy(image), spec).numpy()

    @refuse_others
    def preprocess(
        self, images: Any = None, videos: Any = None, do_resize: bool | None = None,
        size: SizeLike = None, resample: int | None = None, do_center_crop: bool | None = None,
        crop_size: SizeLike = None, do_rescale: bool | None = None, rescale_factor: int | float | None = None,
        do_normalize: bool | None = None, image_mean: PerColour = None,
        image_std: PerColour = None, do_convert_rgb: bool | None = None,
        return_tensors: str | None = None, data_format: Any = "channels_first", input_data_format: Any = None,
    ) -> BatchFeature:  # fmt: skip
        """Turn pictures into `pixel_values_images`, and clips into `pixel_values_videos`.

        Args:
            images: Pillow images, arrays, tensors, paths; one, a list, nested lists, or a batch array.
            videos: clips, frame by frame as pictures; deprecated for `VideoLlavaVideoProcessor`. Clips of
                different lengths give a list with one tensor per clip.
            do_resize: see the constructor, as for all settings.
            size: see the constructor.
            resample: see the constructor.
            do_center_crop: see the constructor.
            crop_size: see the constructor.
            do_rescale: see the constructor.
            rescale_factor: see the constructor.
            do_normalize: see the constructor.
            image_mean: see the constructor.
            image_std: see the constructor.
            do_convert_rgb: see the constructor.
            return_tensors: "pt" or "np" for one tensor of all pictures; None for a list of arrays.
            data_format: where the colours shall be, "channels_first" or "channels_last"; None: as they came.
            input_data_format: where they are; None: told by the axis of length 3 or 1.
        """
        kind = tensor_kind(return_tensors)
        spec = self._spec({
            "do_resize": do_resize, "size": size, "resample": resample, "do_center_crop": do_center_crop,
            "crop_size": crop_size, "do_rescale": do_rescale, "rescale_factor": rescale_factor,
            "do_normalize": do_normalize, "image_mean": image_mean, "image_std": image_std,
            "do_convert_rgb": do_convert_rgb,
        })  # fmt: skip
        places = _Places(data_format, input_data_format)
        if images is None and videos is None:
            raise RequestError("VideoLlavaImageProcessor: neither images nor videos were given; give either")
        result = {}
        if videos is not None:
            warnings.warn(
                "videos= of VideoLlavaImageProcessor is deprecated; use VideoLlavaVideoProcessor",
                DeprecationWarning,
                stacklevel=3,
            )
            result["pixel_values_videos"] = _joined_clips(self._clips(videos, spec, places), kind)
        if images is not None:
            result["pixel_values_images"] = _joined_pictures(self._pictures(images, spec, places), kind)
        return BatchFeature(result)
