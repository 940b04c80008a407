"""What this machine's decoders can read, for `watchword doctor`."""

import av
import PIL
from PIL import Image, features

from watchword.media.policy import CODECS, PICTURES

__all__ = ["decoders", "picture_formats", "versions"]

_MORE = {"av1": ("libdav1d", "libaom-av1")}  # decoders of other names that do it as well
_BY = {"MPO": "JPEG"}  # opened by another format's reader
_NEEDS = {"AVIF": "avif", "JPEG": "jpg", "MPO": "jpg", "PNG": "zlib", "TIFF": "libtiff", "WEBP": "webp"}


def versions() -> dict[str, str]:
    """Who decodes: names and versions."""
    return {"PyAV": av.__version__, "FFmpeg": av.ffmpeg_version_info, "Pillow": PIL.__version__}


def decoders() -> dict[str, bool]:
    """Which of the codecs that a strict policy allows are in this build of FFmpeg."""
    return {name: any(map(_can_read, (name, *_MORE.get(name, ())))) for name in CODECS}


def picture_formats() -> dict[str, bool]:
    """Which of the picture formats that are tried are in this build of Pillow."""
    Image.init()
    return {name: _BY.get(name, name) in Image.OPEN and _has(_NEEDS.get(name)) for name in PICTURES}


def _can_read(name: str) -> bool:
    try:
        return bool(av.codec.Codec(name, "r").is_decoder)
    except ValueError:  # unknown here
        return False


def _has(library: str | None) -> bool:
    """Whether Pillow was built with a library; the name is unknown to a Pillow too old for it."""
    known = {*features.modules, *features.codecs}
    return library is None or (library in known and bool(features.check(library)))
