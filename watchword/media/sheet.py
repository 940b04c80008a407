"""Frames → one picture to look at: a contact sheet with times, and rows of heat maps over the frames."""

import math
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from watchword.errors import MediaError, RequestError
from watchword.media.frames import Clip
from watchword.media.heat import WHOLE, Box, Heat, glow, mapped

__all__ = ["check_sheet_name", "contact_sheet", "save_sheet", "told_time"]

GROUND, EDGE, INK, GOLD, MUTED = (17, 19, 24), (52, 56, 66), (236, 238, 243), (255, 193, 84), (148, 154, 168)
MARGIN, GAP, LABEL = 28, 10, 24
BIG, MIDDLE, SMALL = 22, 17, 13
INKS = {BIG: INK, MIDDLE: GOLD, SMALL: MUTED}
WIDEST = 1600
"""Pixels between the margins of a sheet, where tiles may be as small as that asks."""
TILES = (72, 240)
"""Shortest and longest that the long side of a tile gets by itself."""
MOST_PIXELS = 60_000_000
MOST_LINES = 4
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def contact_sheet(
    clip: Clip,
    *,
    title: str = "",
    caption: str = "",
    heats: Sequence[Heat] = (),
    box: Box = WHOLE,
    footer: str = "",
    columns: int | None = None,
    tile: int | None = None,
) -> Image.Image:
    """Draw frames side by side with their times; with heat maps, a row of frames and one for each map.

    Args:
        clip: the frames.
        title: a line in large letters on top.
        caption: a line beneath it.
        heats: rows of heat maps; the patch with a row's largest value is outlined.
        box: the part of a frame that the maps cover: left, top, right, bottom as fractions of the frame. What
            lies outside is shown dark.
        footer: small print at the bottom.
        columns: frames in a row of the sheet without maps; by default chosen for a sheet wider than high.
        tile: pixels of the long side of a frame.

    Raises:
        RequestError: a map for another number of frames, or a sheet that is too large.
    """
    frames = clip.frames
    height, width = frames.shape[1:3]
    _check_heats(heats, len(frames))
    front = _front(heats)
    across = len(frames) if heats else columns or _columns(len(frames), width / height)
    room = (WIDEST - front) // across - GAP
    long = tile or min(max(room, TILES[0]), TILES[1])
    scale = long / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    cell = max(size[0], 48)
    inner = max(front + across * (cell + GAP) - GAP, 360)
    head = _lines(title, BIG, inner) + _lines(caption, MIDDLE, inner)
    foot = _lines(footer, SMALL, inner - (190 if heats else 0))
    rows = math.ceil(len(frames) / across)
    tops = [size[1] + LABEL + GAP] * rows + [size[1] + GAP] * len(heats)
    tall = 2 * MARGIN + _height(head) + sum(tops) + _height(foot)
    if (inner + 2 * MARGIN) * tall > MOST_PIXELS:
        raise RequestError(
            f"sheet: {len(frames)} frames of {size[0]}x{size[1]} make a picture of {inner}x{tall} pixels, "
            f"at most {MOST_PIXELS:,} are drawn; ask for fewer frames or smaller tiles"
        )
    sheet = Image.new("RGB", (inner + 2 * MARGIN, tall), GROUND)
    draw = ImageDraw.Draw(sheet)
    y = _write(draw, head, MARGIN)
    places = [MARGIN + front + number % across * (cell + GAP) for number in range(len(frames))]
    for number, frame in enumerate(frames):
        picture = Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)
        top = y + number // across * tops[0]
        sheet.paste(picture, (places[number], top))
        edge = places[number] - 1, top - 1, places[number] + size[0], top + size[1]
        draw.rectangle(edge, outline=EDGE)  # or dark frames have no end
        _label(draw, clip, number, (places[number], top + size[1] + 5), size[0])
        for row, heat in enumerate(heats):
            top = y + sum(tops[: rows + row])
            sheet.paste(mapped(picture, heat, number, box), (places[number], top))
            draw.rectangle((places[number] - 1, top - 1, edge[2], top + size[1]), outline=EDGE)
    for row, heat in enumerate(heats):
        _name_row(draw, heat, y + sum(tops[: rows + row]), size[1])
    y += sum(tops)
    _write(draw, foot, y)
    if heats:
        _scale_bar(sheet, draw, y)
    return sheet


def _check_heats(heats: Sequence[Heat], frames: int) -> None:
    for heat in heats:
        if heat.values.ndim != 3 or len(heat.values) != frames:
            raise RequestError(
                f"sheet: heat {heat.name!r} has shape {heat.values.shape} for {frames} frames; expected "
                "(frames, height, width)"
            )


def check_sheet_name(path: str | os.PathLike) -> None:
    """Refuse a name that does not say which kind of picture to write.

    Raises:
        RequestError: no known ending.
    """
    ending = os.path.splitext(path)[1].lower()
    if ending not in FORMATS:
        raise RequestError(
            f"{os.fspath(path)}: ends in {ending!r}, expected a picture's name: {', '.join(FORMATS)}"
        )


def save_sheet(sheet: Image.Image, path: str | os.PathLike) -> None:
    """Write a sheet as the kind of picture that its name says.

    Raises:
        RequestError: a name without a known ending.
        MediaError: a place that cannot be written to.
    """
    check_sheet_name(path)
    kind = FORMATS[os.path.splitext(path)[1].lower()]
    try:
        sheet.save(path, kind, **({"quality": 92} if kind == "JPEG" else {}))
    except OSError as error:
        raise MediaError(
            f"{os.fspath(path)}: cannot be written ({error.strerror or error}); name another place"
        ) from error


def told_time(seconds: float) -> str:
    """A time as it stands under a frame: 3.50 s, 1:05.2, 1:02:03.

    >>> told_time(3.5), told_time(65.25), told_time(3723)
    ('3.50 s', '1:05.2', '1:02:03')
    """
    if seconds < 59.995:
        return f"{seconds:.2f} s"
    if seconds < 3599.95:
        tenths = math.floor(seconds * 10 + 1e-6)
        return f"{tenths // 600}:{tenths % 600 / 10:04.1f}"
    whole = math.floor(seconds + 1e-6)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _columns(count: int, aspect: float) -> int:
    """As many as make the whole about twice as wide as high, with full rows as far as possible."""
    if count <= 4:
        return count
    across = min(count, max(2, math.ceil(math.sqrt(count * 2.2 / aspect))), 20)
    return math.ceil(count / math.ceil(count / across))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _length(text: str, size: int) -> float:
    return float(_font(size).getlength(text))


def _lines(text: str, size: int, room: int) -> list[tuple[str, int]]:
    """Words over lines that fit, with the letters' size; beyond four lines an ellipsis."""
    lines: list[str] = []
    for word in "".join(letter if letter.isprintable() else " " for letter in text).split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _length(longer, size) <= room:
            lines[-1] = longer
            continue
        while _length(word, size) > room and len(lines) <= MOST_LINES:  # a word without end
            cut = max(1, int(len(word) * room / _length(word, size)) - 1)
            lines.append(word[:cut])
            word = word[cut:]
        lines.append(word)
        if len(lines) > MOST_LINES:
            lines = [*lines[: MOST_LINES - 1], f"{lines[MOST_LINES - 1]} …"]
            break
    return [(line, size) for line in lines]


def _height(lines: Sequence[tuple[str, int]]) -> int:
    return sum(_step(size) for _, size in lines) + (GAP if lines else 0)


def _step(size: int) -> int:
    return round(size * 1.45)


def _write(draw: ImageDraw.ImageDraw, lines: Sequence[tuple[str, int]], y: int) -> int:
    """Lines of text; returns where they end."""
    for text, size in lines:
        draw.text((MARGIN, y), text, fill=INKS[size], font=_font(size))
        y += _step(size)
    return y + (GAP if lines else 0)


def _label(draw: ImageDraw.ImageDraw, clip: Clip, number: int, place: tuple[int, int], room: int) -> None:
    """The time on the left and the frame's number on the right; the number alone without a clock."""
    index = f"#{clip.indices[number]}"
    if clip.times is None:
        draw.text(place, index, fill=MUTED, font=_font(SMALL))
        return
    time = told_time(clip.times[number])
    draw.text(place, time, fill=INK, font=_font(SMALL))
    if _length(f"{time}  {index}", SMALL) <= room:
        right = place[0] + room - _length(index, SMALL)
        draw.text((right, place[1]), index, fill=MUTED, font=_font(SMALL))


def _front(heats: Sequence[Heat]) -> int:
    """Room for the names in front of rows."""
    if not heats:
        return 0
    widest = max(max(_length(heat.name, MIDDLE), _length(heat.note, SMALL)) for heat in heats)
    return min(math.ceil(widest), 180) + 16


def _name_row(draw: ImageDraw.ImageDraw, heat: Heat, top: int, height: int) -> None:
    name = heat.name
    while _length(name, MIDDLE) > 180 and len(name) > 1:
        name = name[:-2] + "…"
    y = top + height // 2 - (20 if heat.note else 12)
    draw.text((MARGIN, y), name, fill=INK, font=_font(MIDDLE))
    if heat.note:
        draw.text((MARGIN, y + 23), heat.note, fill=MUTED, font=_font(SMALL))


def _scale_bar(sheet: Image.Image, draw: ImageDraw.ImageDraw, y: int) -> None:
    """What the colours mean, at the right end of the small print."""
    wide, right = 90, sheet.width - MARGIN
    most, least = _length("most", SMALL), _length("least", SMALL)
    left = int(right - most - 8 - wide)
    ramp = np.broadcast_to(glow(np.linspace(0, 1, wide)[None]), (10, wide, 3)).astype(np.uint8)
    sheet.paste(Image.fromarray(np.ascontiguousarray(ramp)), (left, y + 4))
    draw.text((left - 8 - least, y), "least", fill=MUTED, font=_font(SMALL))
    draw.text((right - most, y), "most", fill=MUTED, font=_font(SMALL))
