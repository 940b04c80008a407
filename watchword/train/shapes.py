"""What worlds are made of: colours, shapes, actions, sizes, backgrounds, and the words for a thing.

Lengths are fractions of the frame's side, the origin is the top left corner, y points down. To widen the
world add a word to one of the tuples below: a colour needs its RGB value, a shape its signed distance in
`OUTLINES`, an action its change in `train.world`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from watchword.shapes import Float, Tensor

COLOURS = {
    "red": (215, 35, 35),
    "green": (35, 165, 60),
    "blue": (40, 75, 225),
    "yellow": (245, 220, 40),
    "purple": (150, 45, 190),
    "white": (250, 250, 250),
}
SHAPES = ("circle", "square", "triangle", "cross")
ACTIONS = (
    "still", "left", "right", "up", "down", "grows", "shrinks", "turns", "becomes", "appears", "vanishes",
)  # fmt: skip
SIZES = ("small", "large")

STEPS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
"""Directions of the actions that change the place."""

SMALL = (5.0 / 56, 6.4 / 56)
LARGE = (9.0 / 56, 11.5 / 56)
GROWN = (10.8 / 56, 12.5 / 56)
TRAVEL = (17.0 / 56, 32.0 / 56)
MARGIN = 1.5 / 56
MOST = 3
"""Largest number of objects in a scene."""


@dataclass(frozen=True)
class Thing:
    """One object in words.

    Attributes:
        becomes: the colour that it has in the end, if it becomes another.
        order: 1 acts first, 2 acts second; 0 where there is no order.
        path: its centre at the start and at the end.
    """

    colour: str
    shape: str
    action: str
    size: str
    becomes: str = ""
    order: int = 0
    path: tuple[tuple[float, float], ...] = ()

    @property
    def name(self) -> str:
        """As it is called in questions and answers."""
        return f"{self.colour} {self.shape}"


PATTERNS = ("plain", "gradient", "stripes", "noise")


def backgrounds(rng: np.random.Generator, number: int) -> dict[str, np.ndarray]:
    """Muted backgrounds: greys with a cast, never as bright as white nor as strong as the objects'
    colours."""
    grey = rng.uniform(20, 165, (number, 2, 1))
    grey[:, 1] = np.clip(grey[:, 0] + rng.uniform(-50, 50, (number, 1)), 10, 175)
    cast = rng.uniform(-18, 18, (number, 1, 3)) + rng.uniform(-8, 8, (number, 2, 3))
    return {
        "ground": np.clip(grey + cast, 0, 190),
        "pattern": rng.integers(0, len(PATTERNS), number),
        "grain": rng.random((number, 8, 8)),
        "angle": np.stack([rng.uniform(0, 2 * np.pi, number), rng.uniform(0.12, 0.5, number)], axis=1),
    }


def frame_times(frames: int, picked: int | None = None) -> np.ndarray:
    """Times of the frames of a clip, as fractions of its length; of those that the documented choice picks,
    if asked."""
    every = np.arange(frames) / max(frames - 1, 1)
    return every if picked is None else every[np.floor(np.arange(picked) * frames / picked).astype(int)]


def distance(x: Tensor, y: Tensor, r: Tensor, shape: Tensor) -> Tensor:
    """Signed distance (b T h w) to the outline of shapes (b, index into SHAPES) of radius r around the
    origin."""
    away = torch.empty_like(x + y + r)
    for index, name in enumerate(SHAPES):
        rows = (shape == index).nonzero()[:, 0]
        away[rows] = OUTLINES[name](x[rows], y[rows], r[rows])
    return away


def circle(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    """Of radius r."""
    return torch.sqrt(x * x + y * y) - r


def square(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    """Upright, about as large in area as the circle."""
    return torch.maximum(x.abs(), y.abs()) - 0.88 * r


def triangle(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    """Upright, with its tip above."""
    return torch.maximum(y - 0.75 * r, 0.872 * x.abs() - 0.490 * y - 0.56 * r)


def cross(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    """Upright, like a plus sign."""
    x, y = x.abs(), y.abs()
    return torch.maximum(torch.maximum(x, y) - 1.02 * r, torch.minimum(x, y) - 0.36 * r)


OUTLINES = {"circle": circle, "square": square, "triangle": triangle, "cross": cross}


def paint_ground(scenes: Any, side: int) -> Float[Tensor, "B 3 h w"]:
    """The backgrounds: a mix of two colours by a pattern."""
    axis = (torch.arange(side, dtype=torch.float32) + 0.5) / side - 0.5
    turn, period = torch.from_numpy(scenes.angle).float()[:, :, None, None].unbind(1)
    along = axis[None, None] * torch.cos(turn) + axis[None, :, None] * torch.sin(turn)
    mix = torch.zeros(len(scenes), side, side)
    pattern = torch.from_numpy(scenes.pattern)[:, None, None]
    mix = torch.where(pattern == 1, along + 0.5, mix)
    mix = torch.where(pattern == 2, 0.5 + 0.5 * torch.sin(2 * torch.pi * along / period), mix)
    grain = F.interpolate(
        torch.from_numpy(scenes.grain).float()[:, None], size=(side, side), mode="bilinear"
    )[:, 0]
    mix = torch.where(pattern == 3, grain, mix).clamp(0, 1)[:, None]
    first, second = torch.from_numpy(scenes.ground).float()[..., None, None].unbind(1)
    return first + mix * (second - first)
