"""By which matrix and range a decoder's colours become RGB."""

import av

__all__ = ["colour_of"]

_MATRICES = {1: "BT.709", 4: "FCC", 5: "BT.601", 6: "BT.601", 7: "SMPTE 240M", 9: "BT.2020", 10: "BT.2020"}


def colour_of(frame: av.VideoFrame) -> str:
    """Say by which matrix and range a frame's colours are turned into RGB.

    What the file does not state is read as FFmpeg does: BT.601, limited range.
    """
    kind = frame.format.name
    if frame.format.is_rgb or kind.startswith("pal"):
        return "RGB as stored"
    matrix = _MATRICES.get(int(frame.colorspace))
    full = kind.startswith("yuvj") or int(frame.color_range) == 2
    stated = full or int(frame.color_range) == 1
    spread = f"{'full' if full else 'limited'} range{'' if stated else ' (not stated)'}"
    if kind.startswith(("gray", "ya")):
        return f"grey, {spread}"
    return f"{matrix or 'BT.601 (not stated)'}, {spread}"
