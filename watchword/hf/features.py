"""What processors return: a mapping whose values are attributes too, and what is known of a clip."""

from collections import UserDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from watchword.errors import RequestError
from watchword.shapes import Tensor

__all__ = ["BatchFeature", "VideoMetadata", "join_rows", "tensor_kind"]


class BatchFeature(UserDict):  # type: ignore[type-arg]
    """Inputs for a model, by name: `inputs["pixel_values"]`, `inputs.pixel_values`, `model(**inputs)`.

    Args:
        data: the values by name.
        tensor_type: "pt" or "np" turns lists into tensors or arrays; None leaves everything as it is.
    """

    def __init__(self, data: Mapping[str, Any] | None = None, tensor_type: object = None) -> None:
        super().__init__(data)
        self.convert_to_tensors(tensor_type)

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        if key != "data" and not hasattr(type(self), key):  # a name that would hide a method stays a key only
            object.__setattr__(self, key, value)

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        self.__dict__.pop(key, None)

    def convert_to_tensors(self, tensor_type: object = None) -> "BatchFeature":
        """Turn every value into a tensor ("pt") or array ("np"), in place.

        Raises:
            RequestError: rows of different lengths, which a padding would make equal.
        """
        kind = tensor_kind(tensor_type)
        for key in list(self) if kind else ():
            try:
                self[key] = _tensor(self[key]) if kind == "pt" else _array(self[key])
            except (ValueError, TypeError, RuntimeError) as error:
                lengths = [len(row) if hasattr(row, "__len__") else 1 for row in self[key]]
                raise RequestError(
                    f"{key}: rows of lengths {lengths} cannot be one tensor; pass padding=True, "
                    "or no return_tensors"
                ) from error
        return self

    def to(self, *args: Any, **kwargs: Any) -> "BatchFeature":
        """Send tensors to a device, floats among them also to a type; in place, and returned.

        Args:
            *args: a device, a dtype, or both, as in `Tensor.to`.
            **kwargs: `device`, `dtype`, `non_blocking`.
        """
        device = kwargs.get("device")
        if device is None and args and not isinstance(args[0], torch.dtype):
            if not isinstance(args[0], (str, int, torch.device)):
                raise RequestError(f"to: {args[0]!r} is neither a device nor a dtype")
            device = args[0]
        places = {"device": device, "non_blocking": kwargs.get("non_blocking", False)}

        def moved(value: Any) -> Any:
            if isinstance(value, (list, tuple)):
                return type(value)(moved(item) for item in value)
            if not isinstance(value, Tensor):
                return value
            if value.is_floating_point():
                return value.to(*args, **kwargs)
            return value if device is None else value.to(**places)

        for key in list(self):
            self[key] = moved(self[key])
        return self


@dataclass
class VideoMetadata(Mapping):  # type: ignore[type-arg]
    """What is known of a clip; readable by attribute and by key.

    Attributes:
        total_num_frames: frames in the whole clip.
        fps: frames a second, or None.
        width: pixels, before resizing.
        height: pixels, before resizing.
        duration: seconds, or None.
        video_backend: which library decoded it, or None for arrays.
        frames_indices: the frames that were used.
    """

    total_num_frames: int
    fps: int | float | None = None
    width: int | None = None
    height: int | None = None
    duration: int | float | None = None
    video_backend: str | None = None
    frames_indices: list[int] | None = None

    def __getitem__(self, key: str) -> Any:
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return (field.name for field in fields(self))

    def __len__(self) -> int:
        return len(fields(self))

    @property
    def timestamps(self) -> list[float]:
        """Seconds of the used frames, by the frame rate."""
        if self.fps is None or self.frames_indices is None:
            raise RequestError(
                "timestamps: the clip's fps or frames_indices are unknown; give both in video_metadata"
            )
        return [index / self.fps for index in self.frames_indices]


def tensor_kind(value: object) -> str | None:
    """Read `return_tensors`: "pt", "np" or None, or an enum member with such a value.

    Raises:
        RequestError: another library's tensors.
    """
    kind = getattr(value, "value", value)
    if kind not in (None, "pt", "np"):
        raise RequestError(f"return_tensors: {kind!r}, expected 'pt' (torch), 'np' (numpy) or None")
    return kind


def join_rows(rows: Sequence[Tensor], kind: str | None) -> Any:
    """Join rows of equal shape into one tensor or array; rows that differ stay a list, one tensor each."""
    arrays: Sequence[Any] = [row.cpu().numpy() for row in rows] if kind == "np" else rows
    if kind is None or any(row.shape != rows[0].shape for row in rows):
        return list(arrays)
    return np.stack(arrays) if kind == "np" else torch.stack(list(arrays))


def _tensor(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], Tensor):
        return torch.stack(list(value))
    if isinstance(value, (list, tuple)) and value and not isinstance(value[0], (int, float)):
        value = np.array(value)  # far quicker than torch.tensor on a list of arrays
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else torch.tensor(value)


def _array(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.cpu().numpy()
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], Tensor):
        return np.stack([row.cpu().numpy() for row in value])
    return np.asarray(value)
