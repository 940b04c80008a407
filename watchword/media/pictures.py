"""Still and animated pictures, read with Pillow."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

from watchword.errors import MediaError, WatchwordError
from watchword.media.frames import as_uint8_frames, eight_bit, is_frames, picture_array
from watchword.media.gate import OPEN, Admitted, Policy, admit
from watchword.media.pick import Everything
from watchword.media.sandbox import sandboxed

__all__ = ["find_picture", "load_picture", "moves", "moves_in_pillow", "read_admitted_image", "read_image"]

# FFmpeg decodes moving GIF and PNG like any video, but not these.
_PILLOW_MOVES = ("WEBP", "AVIF")
_MOVING = ("GIF", "PNG", *_PILLOW_MOVES)  # pages of a TIFF and views of an MPO are no animation

_HEIF = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"avif")

_BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, RuntimeError, LookupError, TypeError, AttributeError,
    OverflowError, struct.error, Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow raises at damaged files."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → what turns it upright."""


def read_image(source: object, *, policy: Policy = OPEN, sandbox: bool = False) -> UInt8[np.ndarray, "H W 3"]:
    """Read a picture, turned upright by its EXIF orientation, as 0-255 RGB.

    Transparency is dropped, not blended, as the reference does; of an animated picture it is the first frame.

    Args:
        source: a path, bytes, a binary file object, a Pillow image, or an array that is a picture already.
        policy: what may be opened.
        sandbox: read in a limited child process, whatever the policy says.

    Raises:
        MediaError: it cannot be opened, is no picture, is damaged, or is larger than the budget.
    """
    if isinstance(source, Image.Image):
        return load_picture(source, "picture")
    if is_frames(source):
        return as_uint8_frames(source, "picture")[0]
    policy = policy.boxed(sandbox)
    media = admit(source, policy)
    if policy.sandbox:
        return sandboxed(media, Everything(), policy, door="image").frames[0]
    return read_admitted_image(media, policy)


def read_admitted_image(media: Admitted, policy: Policy) -> UInt8[np.ndarray, "H W 3"]:
    """Read a picture that passed the gate, in this process."""
    picture = find_picture(media, policy)
    if picture is None:
        known = ", ".join(policy.pictures)
        raise MediaError(f"{media.name}: not a picture ({known}); for a video use read_frames")
    with picture:
        return load_picture(picture, media.name)


def find_picture(media: Admitted, policy: Policy) -> Image.Image | None:
    """Read a picture's header and check its size before anything is decoded; None when it is no picture.

    Whoever gets the picture closes it.
    """
    Image.init()
    formats = [name for name in policy.pictures if name in Image.OPEN]
    try:
        picture = Image.open(media.path or media.rewind(), formats=formats)
    except UnidentifiedImageError:
        _refuse_heif(media)
        return None
    except Image.DecompressionBombError as error:
        raise MediaError(f"{media.name}: too large ({error}); make it smaller") from error
    except _BROKEN as error:
        raise MediaError(f"{media.name}: a damaged picture ({error}); get the file whole") from error
    try:
        policy.check_pixels(media.name, *picture.size)
    except MediaError:
        picture.close()
        raise
    return picture


def _refuse_heif(media: Admitted) -> None:
    """FFmpeg would take a HEIF picture for a video and show its first tile as the whole."""
    with media.rewind() as file:
        head = file.read(12)
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF:
        raise MediaError(f"{media.name}: a HEIF picture, which is not read here; convert it to JPEG or PNG")


def load_picture(picture: Image.Image, name: str) -> UInt8[np.ndarray, "H W 3"]:
    """Decode an opened picture, upright and as RGB."""
    with whole(name):
        orientation: Any = picture.getexif().get(ExifTags.Base.Orientation)  # nothing else of EXIF is read
        turn = _UPRIGHT.get(orientation)
        grey = eight_bit(picture)
        return picture_array(grey if turn is None else grey.transpose(turn))


@contextmanager
def whole(name: str) -> Iterator[None]:
    """What Pillow raises at a damaged picture becomes a `MediaError`."""
    try:
        yield
    except WatchwordError:
        raise
    except _BROKEN as error:
        raise MediaError(f"{name}: a damaged picture ({error}); get the file whole") from error


def moves(picture: Image.Image) -> bool:
    """Say whether an opened picture is an animation."""
    return picture.format in _MOVING and getattr(picture, "is_animated", False)


def moves_in_pillow(picture: Image.Image) -> bool:
    """Say whether an opened picture is an animation that only Pillow decodes."""
    return moves(picture) and picture.format in _PILLOW_MOVES
