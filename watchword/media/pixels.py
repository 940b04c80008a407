"""Frames → pixel tensor: resize, crop, scale, normalise, exactly as the reference does it.

The reference has two arithmetics, and they differ by up to one grey level and, for some sizes, by one pixel
of crop: image processors work in Pillow and numpy, video processors in torch. `PixelSpec.path` says which one
is wanted.
"""

import logging
import math
import platform

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from watchword.errors import MediaError, RequestError
from watchword.media.frames import Place, as_numpy, channel_place
from watchword.media.spec import FILTERS, PixelSpec, Size
from watchword.shapes import Float, Tensor

__all__ = ["resize_by_pillow", "to_pixels"]

logger = logging.getLogger(__name__)


def to_pixels(frames: np.ndarray | Tensor, spec: PixelSpec, *, channels: str | None = None) -> Tensor:
    """Turn frames of one size into the vision tower's input, all in one pass.

    Args:
        frames: (..., height, width, colours) or (..., colours, height, width): one picture, the frames of a
            clip, or a batch of clips of equal length; whole numbers 0-255, or floats.
        spec: the steps, see `PixelSpec`.
        channels: "channels_first" or "channels_last"; by default told by the axis of length 3 or 1 (for clips
            also 4).

    Returns:
        (..., 3, h, w), normalised float32, with the leading axes of the frames. With scaling and normalising
        both switched off, values keep their type.

    Raises:
        MediaError: floats that are not finite or, on the Pillow path, in no range that 8 bits can hold.
        RequestError: no colour axis, or colours that do not fit `image_mean`.
    """
    if frames.ndim < 3:
        raise RequestError(
            f"frames of {frames.ndim} axes {tuple(frames.shape)}; expected height, width and colours"
        )
    if 0 in frames.shape:
        raise MediaError(f"frames of shape {tuple(frames.shape)} hold no pixel; expected at least one")
    place = _place(tuple(frames.shape), spec, channels)
    _check_values(frames, spec)
    lead = frames.shape[:-3]
    flat = frames.reshape(-1, *frames.shape[-3:])
    pixels = (
        _by_pillow(as_numpy(flat), spec, place) if spec.path == "pillow" else _by_tensor(flat, spec, place)
    )
    return pixels.reshape(*lead, *pixels.shape[1:])


def _place(shape: tuple[int, ...], spec: PixelSpec, channels: str | None) -> Place:
    channels = getattr(channels, "value", channels)
    if channels is None:
        return channel_place(shape, (1, 3) if spec.path == "pillow" else (1, 3, 4))
    if channels not in ("channels_first", "channels_last"):
        raise RequestError(f"input_data_format: {channels!r}, expected 'channels_first' or 'channels_last'")
    return "first" if channels == "channels_first" else "last"


def _check_values(frames: np.ndarray | Tensor, spec: PixelSpec) -> None:
    """Refuse NaN and infinity, which would spread over the answer; warn of what is scaled twice."""
    values = frames.detach() if isinstance(frames, Tensor) else np.asarray(frames)
    if not (
        values.is_floating_point() if isinstance(values, Tensor) else np.issubdtype(values.dtype, np.floating)
    ):
        return
    finite = torch.isfinite(values) if isinstance(values, Tensor) else np.isfinite(values)
    bad = int((~finite).sum())
    if bad:
        raise MediaError(
            f"frames: {bad} of {math.prod(values.shape)} values are NaN or infinite; expected finite numbers"
        )
    if spec.do_rescale and float(values.min()) >= 0 and float(values.max()) <= 1:
        logger.warning("frames are between 0 and 1 already and are scaled again; else pass do_rescale=False")


def _check_colours(count: int, spec: PixelSpec) -> None:
    """Colours must be as many as there are means and deviations."""
    for name in ("image_mean", "image_std"):
        value = getattr(spec, name)
        if spec.do_normalize and isinstance(value, tuple) and len(value) != count:
            raise RequestError(
                f"frames of {count} colours, {name} has {len(value)} values; "
                f"convert the frames to RGB, or change {name}"
            )


# The Pillow path
# -------------------------------------------------------------------------------------------------


def _by_pillow(frames: np.ndarray, spec: PixelSpec, place: Place) -> Tensor:
    """Reproduce the reference's numpy image processors.

    Source: `image_transforms.py`: `resize`, `center_crop`, `rescale` (float64, then float32), `normalize`.
    """
    images = np.moveaxis(frames, 1, -1) if place == "first" else frames  # N H W c
    _check_colours(images.shape[-1], spec)
    if spec.do_resize and spec.size is not None:
        height, width = spec.size.target(*images.shape[1:3])
        images = np.stack([resize_by_pillow(image, height, width, spec.resample) for image in images])
    if spec.do_center_crop and spec.crop_size is not None:
        images = _crop_numpy(images, spec.crop_size)
    if spec.do_rescale:
        images = (images.astype(np.float64) * spec.rescale_factor).astype(np.float32)
    if spec.do_normalize:
        images = images if np.issubdtype(images.dtype, np.floating) else images.astype(np.float32)
        images = (images - np.array(spec.image_mean, images.dtype)) / np.array(spec.image_std, images.dtype)
    if np.issubdtype(images.dtype, np.floating):
        images = images.astype(np.float32, copy=False)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1)))  # N c h w


def resize_by_pillow(image: np.ndarray, height: int, width: int, resample: int) -> np.ndarray:
    """Resize one (H, W, colours) picture through 8 bits.

    Floats that are whole numbers 0-255 are cast; floats in [0, 1] are taken to 255, cut to 8 bits, resized,
    and divided by 255 again, so that they come back coarser: this is what the reference's image processors
    do.
    """
    unit = False
    if image.dtype != np.uint8:
        lowest, highest = image.min(), image.max()
        whole = np.allclose(image, image.astype(int))
        unit = not whole and lowest >= 0 and highest <= 1
        if not unit and not (whole and lowest >= 0 and highest <= 255):
            raise MediaError(
                f"frames hold values from {lowest} to {highest}; "
                "resizing needs whole numbers 0-255, or fractions 0-1"
            )
        image = ((image.astype(np.float64) * 255).astype(np.float32) if unit else image).astype(np.uint8)
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else np.ascontiguousarray(image))
    resized = np.asarray(picture.resize((width, height), resample=resample)).reshape(
        height, width, image.shape[-1]
    )
    return (resized.astype(np.float64) * (1 / 255)).astype(np.float32) if unit else resized


def _crop_numpy(images: np.ndarray, size: Size) -> np.ndarray:
    """Cut the middle, its corner rounded down; what is missing is zeros, an odd one in front."""
    crop = size.exact("crop_size")
    result = np.zeros((len(images), *crop, images.shape[-1]), images.dtype)
    source, target = [slice(None)], [slice(None)]
    for have, want in zip(images.shape[1:3], crop, strict=True):
        begin, pad = max(0, (have - want) // 2), max(0, -((have - want) // 2))
        source.append(slice(begin, begin + want))
        target.append(slice(pad, pad + min(have, want)))
    result[tuple(target)] = images[tuple(source)]
    return result


# The tensor path
# -------------------------------------------------------------------------------------------------


def _by_tensor(frames: np.ndarray | Tensor, spec: PixelSpec, place: Place) -> Tensor:
    """Reproduce the reference's torch video processors.

    Source: `BaseVideoProcessor._preprocess` and torchvision's `resize`, `center_crop` and `normalize` for
        tensors.
    """
    if isinstance(frames, np.ndarray):
        frames = np.ascontiguousarray(frames)
        frames = torch.from_numpy(frames if frames.flags.writeable else frames.copy())
    video = frames
    video = video.movedim(-1, 1) if place == "last" else video  # N c H W
    if spec.do_convert_rgb:
        video = _to_rgb(video)
    _check_colours(video.shape[1], spec)
    if spec.do_resize and spec.size is not None:
        video = _resize_tensor(video, spec.size.target(*video.shape[-2:]), FILTERS[spec.resample])
    if spec.do_center_crop and spec.crop_size is not None:
        video = _crop_tensor(video, spec.crop_size)
    if spec.do_normalize:
        # One step with the factor folded into mean and deviation, in float32: the last bits depend on it.
        factor = 1.0 / spec.rescale_factor if spec.do_rescale else 1.0
        mean = torch.tensor(spec.image_mean, device=video.device).mul(factor).reshape(-1, 1, 1)
        std = torch.tensor(spec.image_std, device=video.device).mul(factor).reshape(-1, 1, 1)
        video = video.to(torch.float32).sub(mean).div_(std)
    elif spec.do_rescale:
        video = video * spec.rescale_factor
    return (video.to(torch.float32) if video.is_floating_point() else video).contiguous()


def _to_rgb(video: Tensor) -> Tensor:
    """Repeat grey; blend transparency on white. Fully opaque frames just lose their fourth colour."""
    colours = video.shape[1]
    if colours == 1:
        return video.expand(-1, 3, -1, -1)
    if colours != 4:
        return video
    alpha = video[:, 3:]
    if not bool((alpha < 255).any()):
        return video[:, :3]
    share = alpha / 255.0
    blended: Float[Tensor, "N 3 H W"] = (1 - share) * 255 + share * video[:, :3]
    return blended


def _resize_tensor(video: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Resize with antialiasing. 8-bit frames stay so where torch has the kernel, else are rounded back."""
    if tuple(video.shape[-2:]) == size:
        return video
    kind = video.dtype
    native = [torch.float32, torch.float64]
    if mode == "nearest" or (video.device.type == "cpu" and (mode != "bilinear" or _fast_bilinear())):
        native.append(torch.uint8)
    if (
        kind != torch.uint8 or kind not in native
    ):  # the 8-bit kernel reads colours last as they lie, one copy less
        video = video.contiguous()
    work = video if kind in native else video.to(torch.float32)
    if mode == "nearest":
        work = functional.interpolate(work, size=size, mode="nearest-exact")
    else:
        work = functional.interpolate(work, size=size, mode=mode, align_corners=False, antialias=True)
    if kind in native:
        return work
    if kind == torch.uint8 and mode in ("bicubic", "lanczos"):
        work = work.clamp(0, 255)
    return (work if kind.is_floating_point else work.round()).to(kind)


def _fast_bilinear() -> bool:
    """Whether torch has a bilinear kernel for 8-bit frames on this processor."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") or platform.machine() in (
        "aarch64",
        "arm64",
    )


def _crop_tensor(video: Tensor, size: Size) -> Tensor:
    """Cut the middle, its corner rounded to even; what is missing is zeros, an odd one behind."""
    crop = size.exact("crop_size")
    padding: list[int] = []  # left, right, top, bottom
    for have, want in zip(reversed(video.shape[-2:]), reversed(crop), strict=True):
        lack = max(0, want - have)
        padding += [lack // 2, (lack + 1) // 2]
    if any(padding):
        video = functional.pad(video, padding)
    top, left = (round((have - want) / 2) for have, want in zip(video.shape[-2:], crop, strict=True))
    return video[..., top : top + crop[0], left : left + crop[1]]
