"""What is done to frames before the vision tower: `PixelSpec`, read from `preprocessor_config.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from watchword.errors import ConfigError

__all__ = ["BICUBIC", "CLIP_MEAN", "CLIP_STD", "FILTERS", "PixelSpec", "Size"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

BICUBIC = 3
# Pillow's numbers, as `resample` is stored in files, and torch's names. Box (4) and Hamming (5) exist in
# Pillow only.
FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}

_KEYS = (
    {"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"}, {"longest_edge"},
    {"max_height", "max_width"},
)  # fmt: skip


@dataclass(frozen=True)
class Size:
    """A target size: exactly (height, width), or by one edge with the aspect ratio kept."""

    height: int | None = None
    width: int | None = None
    shortest_edge: int | None = None
    longest_edge: int | None = None
    max_height: int | None = None
    max_width: int | None = None

    @classmethod
    def of(cls, value: Any, *, square: bool = True, name: str = "size") -> "Size":
        """Read a size as files and callers write it: a mapping, (height, width), or one number.

        Args:
            value: the size.
            square: one number means both edges; otherwise the shortest edge.
            name: the field, for messages.
        """
        if isinstance(value, Size):
            return value
        if isinstance(value, Mapping):
            given = {str(k): v for k, v in value.items() if v is not None}
        elif isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
            given = {"height": value[0], "width": value[1]}
        else:
            given = {"height": value, "width": value} if square else {"shortest_edge": value}
        if set(given) not in _KEYS:
            raise ConfigError(
                f"{name}: keys {sorted(given)}; expected one of {', '.join(str(sorted(k)) for k in _KEYS)}"
            )
        for key, number in given.items():
            if (
                isinstance(number, bool)
                or not isinstance(number, (int, float))
                or number != int(number)
                or number < 1
            ):
                raise ConfigError(f"{name}: {key} is {number!r}; expected a whole number of pixels from 1 up")
        return cls(**{key: int(number) for key, number in given.items()})

    def as_dict(self) -> dict[str, int]:
        """Give the keys that are set, as files write them."""
        return {key: number for key, number in asdict(self).items() if number is not None}

    def exact(self, name: str) -> tuple[int, int]:
        """Give (height, width) of a size that must be exact."""
        if self.height is None or self.width is None:
            raise ConfigError(f"{name}: {self.as_dict()}, where height and width were expected")
        return self.height, self.width

    def target(self, height: int, width: int) -> tuple[int, int]:
        """Give the (height, width) to which a frame of this size is resized. Fractions are cut, not rounded.

        Source: the reference's `get_resize_output_image_size`, `get_size_with_aspect_ratio` and
        `get_image_size_for_max_height_width`.
        """
        if self.height and self.width:
            return self.height, self.width
        if self.max_height and self.max_width:
            scale = min(self.max_height / height, self.max_width / width)
            return max(1, int(height * scale)), max(1, int(width * scale))
        if not self.shortest_edge:
            raise ConfigError(
                f"size: {self.as_dict()} does not say how to resize; add shortest_edge, or height and width"
            )
        short, long = min(height, width), max(height, width)
        edge: float = self.shortest_edge
        if self.longest_edge and long / short * edge > self.longest_edge:
            edge = self.longest_edge * short / long
            if round(edge) == short:  # the long side may then stay a pixel too long, as in the reference
                return height, width
        new_short, new_long = round(edge), int(edge * long / short)
        return (new_long, new_short) if width <= height else (new_short, new_long)


@dataclass(frozen=True)
class PixelSpec:
    """Every step from 0-255 frames to normalised pixels. Steps run in the order of the fields.

    Attributes:
        path: whose arithmetic is reproduced bit for bit. "pillow": the reference's image processors (Pillow
            resizes 8-bit pictures, floats are squeezed into 8 bits first; crops round down; scaling in
            float64). "tensor": its video processors (torch resizes with antialiasing; crops round to even;
            scaling and normalising are one step).
        do_convert_rgb: grey becomes RGB; transparency is dropped from Pillow pictures and blended on white in
            clips.
        do_resize: resize to `size` with the filter `resample` (Pillow's number).
        do_center_crop: cut the middle `crop_size`; smaller frames are padded with zeros.
        do_rescale: multiply by `rescale_factor`.
        do_normalize: subtract `image_mean`, divide by `image_std`, per colour.
    """

    path: str = "pillow"
    do_convert_rgb: bool = True
    do_resize: bool = True
    size: Size | None = None
    resample: int = BICUBIC
    do_center_crop: bool = False
    crop_size: Size | None = None
    do_rescale: bool = True
    rescale_factor: int | float = 1 / 255
    do_normalize: bool = True
    image_mean: tuple[float, ...] | int | float = CLIP_MEAN
    image_std: tuple[float, ...] | int | float = CLIP_STD

    def __post_init__(self) -> None:
        if self.path not in ("pillow", "tensor"):
            raise ConfigError(f"path: {self.path!r}, expected 'pillow' or 'tensor'")
        if self.do_resize and self.size is None:
            raise ConfigError("size: missing, and do_resize is on; give a size or switch it off")
        if self.do_center_crop:
            if self.crop_size is None:
                raise ConfigError(
                    "crop_size: missing, and do_center_crop is on; give a size or switch it off"
                )
            self.crop_size.exact("crop_size")
        if self.do_resize and (
            self.resample not in FILTERS or (self.path == "tensor" and self.resample > BICUBIC)
        ):
            known = ", ".join(f"{k} {v}" for k, v in FILTERS.items() if self.path == "pillow" or k <= BICUBIC)
            raise ConfigError(
                f"resample: {self.resample!r} is not a filter of the {self.path} path; expected {known}"
            )
        if (
            self.path == "pillow"
            and self.do_resize
            and self.size
            and (self.size.longest_edge or self.size.max_height)
        ):
            raise ConfigError(
                f"size: {self.size.as_dict()} on the Pillow path; "
                "expected shortest_edge alone, or height and width"
            )
        deviations = self.image_std if isinstance(self.image_std, tuple) else (self.image_std,)
        if self.do_normalize and not all(deviations):
            raise ConfigError(f"image_std: {self.image_std} holds a zero, by which pixels would be divided")

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], *, path: str | None = None) -> "PixelSpec":
        """Read the settings of a `preprocessor_config.json`; fields that do not concern pixels are left.

        Args:
            raw: the file's content.
            path: whose arithmetic; by default tensors for video processors and "...Fast" image processors,
                else Pillow.
        """
        kind = str(raw.get("video_processor_type") or raw.get("image_processor_type") or "")
        path = path or ("tensor" if kind.endswith(("VideoProcessor", "Fast")) else "pillow")
        given = {f.name: raw[f.name] for f in fields(cls) if raw.get(f.name) is not None and f.name != "path"}
        if "size" in given:
            square = raw.get("default_to_square")
            given["size"] = Size.of(
                given["size"], square=square if square is not None else "crop_size" not in given
            )
        if "crop_size" in given:
            given["crop_size"] = Size.of(given["crop_size"], name="crop_size")
        if "resample" in given:
            given["resample"] = _filter(given["resample"])
        for name in ("image_mean", "image_std"):
            value = given.get(name)
            if value is not None and not isinstance(value, (int, float)):
                given[name] = tuple(float(part) for part in value)
        return cls(path=path, **given)


def _filter(value: Any) -> int:
    """Read a filter as a number, a Pillow or torchvision enum member, or a name."""
    value = getattr(value, "value", value)
    if isinstance(value, str):
        value = {name: number for number, name in FILTERS.items()}.get(value.removesuffix("-exact"), value)
    if value not in FILTERS:
        known = ", ".join(f"{number} {name}" for number, name in FILTERS.items())
        raise ConfigError(f"resample: {value!r} is not a filter; expected {known}")
    return int(value)
