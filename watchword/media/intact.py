"""Does a file hold all the bytes that its own headers promise?

Decoders read a cut-off clip up to the cut and stop as if it ended there; frames chosen by the clip's length
would then silently be other frames. The containers themselves know better: MP4, AVI and Matroska write the
size of what follows.
"""

import os
from typing import Any

__all__ = ["defect"]


def defect(file: Any) -> str | None:
    """Say what is missing at the end of this media file, or None if nothing is, or nothing can be known.

    Understands ISO media (MP4, MOV, 3GP), RIFF (AVI), Matroska and WebM, and MPEG transport streams.
    """
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(400)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip", b"styp"):
        return _iso(file, length)
    if head[:4] == b"RIFF":
        return _missing(8 + int.from_bytes(head[4:8], "little"), length)
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return _matroska(head, length)
    if head[:1] == head[188:189] == head[376:377] == b"G" and length % 188:
        return f"its last packet has {length % 188} of 188 bytes"
    return None


def _missing(promised: int, length: int) -> str | None:
    return f"{promised - length:,} bytes are missing" if promised > length else None


def _iso(file: Any, length: int) -> str | None:
    """Walk the top-level boxes: 4 bytes size, 4 bytes type, and 8 more bytes of size if the first says 1."""
    position, kinds = 0, set()
    while position < length:
        file.seek(position)
        header = file.read(16)
        if len(header) < 8:
            return "its last box is cut off"
        size, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        elif size == 0:  # to the end of the file
            size = length - position
        if size < 8 or not kind.isascii():  # trailing rubbish after whole boxes: nothing a reader needs
            break
        kinds.add(kind)
        if position + size > length:
            return _missing(position + size, length)
        position += size
    return None if b"moov" in kinds else "its index (moov) is missing"


def _matroska(head: bytes, length: int) -> str | None:
    """Read the EBML header's size, skip it, and read the size of the Segment that holds everything else."""
    header, width = _vint(head, 4)
    start = 4 + width + (header or 0)
    if header is None or head[start : start + 4] != b"\x18\x53\x80\x67":
        return None
    segment, width = _vint(head, start + 4)
    return None if segment is None else _missing(start + 4 + width + segment, length)


def _vint(data: bytes, at: int) -> tuple[int | None, int]:
    """Read a variable-length integer: (value, bytes used). All bits set means that the size is unknown."""
    if at >= len(data) or data[at] == 0:
        return None, 1
    width = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)
    return (None if value == (1 << 7 * width) - 1 else value), width
