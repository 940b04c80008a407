"""Heat maps over frames."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

__all__ = ["WHOLE", "Box", "Heat", "glow", "mapped", "overlay"]

Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
"""Left, top, right, bottom as fractions of a frame."""

# The colours of matplotlib's "inferno", eight of them; between them straight lines.
GLOW = np.array(
    [(0, 0, 4), (46, 10, 90), (106, 23, 110), (166, 45, 96), (216, 76, 62), (245, 125, 21), (250, 193, 39),
     (252, 255, 164)], np.float32,
)  # fmt: skip


@dataclass(frozen=True)
class Heat:
    """A row of heat maps, one for each frame.

    Attributes:
        name: what stands in front of the row.
        values: frames, rows, columns: 0 and up, in any unit; the largest value of all is shown brightest.
        note: small print beneath the name.
    """

    name: str
    values: Float[np.ndarray, "..."]
    note: str = ""

    @property
    def peak(self) -> tuple[int, int, int]:
        """Frame, row and column of the largest value."""
        frame, row, column = np.unravel_index(int(self.values.argmax()), self.values.shape)
        return int(frame), int(row), int(column)


def mapped(picture: Image.Image, heat: Heat, number: int, box: Box) -> Image.Image:
    """Lay frame `number`'s map over it, on the scale of the whole row, and outline the row's peak."""
    highest = float(heat.values.max())
    values = heat.values[number] / highest if highest > 0 else heat.values[number]
    frame, row, column = heat.peak
    return overlay(picture, values, box, outline=(row, column) if highest > 0 and frame == number else None)


def overlay(
    picture: Image.Image,
    values: Float[np.ndarray, "h w"],
    box: Box = WHOLE,
    *,
    outline: tuple[int, int] | None = None,
) -> Image.Image:
    """Lay one heat map over a frame.

    Args:
        picture: the frame.
        values: 0 to 1.
        box: where the map lies, as fractions of the frame.
        outline: (row, column) of the patch to outline, or None.
    """
    width, height = picture.size
    left, top, right, bottom = (
        round(part * side) for part, side in zip(box, (width, height, width, height), strict=True)
    )
    area = max(1, right - left), max(1, bottom - top)
    smooth = Image.fromarray(np.asarray(values, np.float32)).resize(area, Image.Resampling.BICUBIC)
    warm = Image.fromarray(np.clip(np.asarray(smooth), 0, 1))  # bicubic curves swing over both ends
    canvas = Image.new("F", picture.size, -1.0)
    canvas.paste(warm, (left, top))
    heat = np.asarray(canvas)
    base = np.asarray(picture, np.float32)
    grey = base.mean(axis=-1, keepdims=True)
    base = (0.35 * grey + 0.65 * base) * np.where(heat < 0, 0.22, 0.72)[..., None]
    strength = np.clip(heat, 0, 1)[..., None]
    mix = 0.72 * strength**0.7
    drawn = Image.fromarray(np.clip(base * (1 - mix) + glow(strength[..., 0]) * mix, 0, 255).astype(np.uint8))
    if outline is not None:
        row, column = outline
        patch = (right - left) / values.shape[1], (bottom - top) / values.shape[0]
        corner = left + column * patch[0], top + row * patch[1]
        far = tuple(start + max(size - 1, 0) for start, size in zip(corner, patch))  # a patch of less than 1
        ImageDraw.Draw(drawn).rectangle((*corner, *far), outline=(255, 255, 255), width=2)
    return drawn


def glow(values: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w 3"]:
    """The colour of each value from 0 to 1."""
    places = np.linspace(0, 1, len(GLOW))
    return np.stack([np.interp(values, places, GLOW[:, colour]) for colour in range(3)], axis=-1)
