"""Numbers over steps as a picture: the loss of a training run."""

import math
import os
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from watchword.media.sheet import EDGE, GOLD, GROUND, INK, MUTED, save_sheet

__all__ = ["draw_curve"]

SIZE, LEFT, RIGHT, TOP, BOTTOM = (1000, 560), 78, 28, 64, 52
COLOURS = (MUTED, GOLD, (104, 190, 255), (140, 220, 140))
Points = Sequence[tuple[float, float]]


def draw_curve(path: str | os.PathLike, curves: Mapping[str, Points], *, title: str = "") -> None:
    """Draw curves over one another, with a scale that shows all finite points, and save the picture.

    Args:
        path: ends in .png, .jpg or .webp.
        curves: points (step, value) by name, each drawn in a colour of its own.

    Raises:
        RequestError: a name without a picture's ending.
        MediaError: a place that cannot be written to.
    """
    sheet = Image.new("RGB", SIZE, GROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((LEFT, 18), title, fill=INK, font=ImageFont.load_default(20))
    finite = {name: [one for one in points if math.isfinite(one[1])] for name, points in curves.items()}
    every = [one for points in finite.values() for one in points]
    if every:
        low, high = bounds([y for _, y in every])
        first, last = min(x for x, _ in every), max(x for x, _ in every)
        box = (first, max(last, first + 1), low, high)
        _axes(draw, box)
        for (name, points), colour, number in zip(finite.items(), COLOURS, range(len(COLOURS))):
            places = [_place(one, box) for one in points]
            if len(places) > 1:
                draw.line(places, fill=colour, width=2, joint="curve")
            else:
                for x, y in places:
                    draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
            draw.text((SIZE[0] - RIGHT - 170 * (len(finite) - number), 22), name, fill=colour,
                      font=ImageFont.load_default(15))  # fmt: skip
    save_sheet(sheet, path)


def bounds(values: Sequence[float]) -> tuple[float, float]:
    """Round numbers below and above all values."""
    low, high = min(values), max(values)
    step = step_of(max(high - low, abs(high) * 0.01, 1e-6))
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    return low, high if high > low else low + step


def step_of(span: float) -> float:
    """A round distance (1, 2 or 5 times a power of ten) of which four to ten make up the span."""
    power = 10 ** math.floor(math.log10(span))
    return next(factor * power for factor in (0.1, 0.2, 0.5, 1) if span / (factor * power) <= 10)


def _place(point: tuple[float, float], box: tuple[float, float, float, float]) -> tuple[float, float]:
    first, last, low, high = box
    across = (point[0] - first) / (last - first)
    up = (point[1] - low) / (high - low)
    return (
        LEFT + across * (SIZE[0] - LEFT - RIGHT),
        SIZE[1] - BOTTOM - up * (SIZE[1] - TOP - BOTTOM),
    )


def _axes(draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float]) -> None:
    """Lines at round values, with their numbers."""
    first, last, low, high = box
    font = ImageFont.load_default(14)
    step = step_of(high - low)
    for number in range(round((high - low) / step) + 1):
        value = low + number * step
        left, y = _place((first, value), box)
        draw.line((left, y, SIZE[0] - RIGHT, y), fill=EDGE)
        draw.text((LEFT - 10, y), f"{value:.6g}", fill=MUTED, font=font, anchor="rm")
    step = max(step_of(last - first), 1)
    at = math.ceil(first / step) * step
    while at <= last:
        x, bottom = _place((at, low), box)
        draw.text((x, bottom + 12), f"{at:.6g}", fill=MUTED, font=font, anchor="mt")
        at += step
