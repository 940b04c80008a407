"""Turns any picture or video into `T H W 3` frames and then into pixel tensors.

    file → gate (may it be opened? by policy) → decode (which frames, by pick) → Clip → pixels

Names resolve on first use, so that choosing frames needs neither torch nor a decoder.
"""

import importlib
from typing import Any

__all__ = [
    "OPEN",
    "STRICT",
    "Clip",
    "PixelSpec",
    "Policy",
    "Timeline",
    "at",
    "at_indices",
    "between",
    "every",
    "everything",
    "from_flags",
    "parse_time",
    "read_frames",
    "read_image",
    "read_media",
    "scenes",
    "segments",
    "to_pixels",
    "uniform",
]

_HOMES = {
    "OPEN": "policy",
    "STRICT": "policy",
    "Clip": "frames",
    "PixelSpec": "spec",
    "Policy": "policy",
    "Timeline": "timeline",
    "at": "pick",
    "at_indices": "pick",
    "between": "pick",
    "every": "pick",
    "everything": "pick",
    "from_flags": "flags",
    "parse_time": "flags",
    "read_frames": "decode",
    "read_image": "decode",
    "read_media": "decode",
    "scenes": "pick",
    "segments": "pick",
    "to_pixels": "pixels",
    "uniform": "pick",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
