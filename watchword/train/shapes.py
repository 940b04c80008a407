"""A world of moving shapes: scenes from a seed, and their frames at any size.

A `Scenes` value holds a whole batch as arrays, so that thousands of clips a second can be drawn for
training; the same scene drawn at 320 pixels makes the clips that are encoded as files. Lengths are
fractions of the frame's side, the origin is the top left corner, y points down. To widen the world add a
word to one of the tuples below: a colour needs its RGB value, a shape its signed distance in `distance`, an
action its change of place or size in `sample`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from watchword.shapes import Float, Tensor, UInt8

COLOURS = {
    "red": (215, 35, 35),
    "green": (35, 165, 60),
    "blue": (40, 75, 225),
    "yellow": (245, 220, 40),
    "purple": (150, 45, 190),
    "white": (250, 250, 250),
}
SHAPES = ("circle", "square", "triangle", "cross")
ACTIONS = ("still", "left", "right", "up", "down", "grows", "shrinks")
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
TRIES = 12
"""Attempts at a crowded scene that are drawn at once."""


@dataclass(frozen=True)
class Thing:
    """One object in words. The last three are for `train.world`.

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


@dataclass(frozen=True)
class Scenes:
    """A batch of B scenes of up to three objects N; unused places have radius 0 and lie behind `count`."""

    count: np.ndarray  # B, 1..3
    colour: np.ndarray  # B N, index into COLOURS
    shape: np.ndarray  # B N, index into SHAPES
    action: np.ndarray  # B N, index into ACTIONS
    size: np.ndarray  # B N, index into SIZES, at the start
    start: np.ndarray  # B N 2, centre x y
    end: np.ndarray  # B N 2
    radius: np.ndarray  # B N 2, at the start and at the end
    span: np.ndarray  # B 2, the part of the clip during which things happen
    tint: np.ndarray  # B N 3, what is added to the colour, in grey levels
    ground: np.ndarray  # B 2 3, the two colours of the background
    pattern: np.ndarray  # B, index into PATTERNS
    grain: np.ndarray  # B 8 8, noise that one of the patterns uses
    angle: np.ndarray  # B 2, direction and period of stripes and gradients

    def __len__(self) -> int:
        return len(self.count)

    def pick(self, rows: np.ndarray) -> "Scenes":
        """The scenes at these places, or where a mask is True."""
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def things(self, row: int) -> list[Thing]:
        """The objects of one scene, in the fixed order of colours, then shapes: the order in which answers
        list them."""
        places = sorted(range(self.count[row]), key=lambda i: (self.colour[row, i], self.shape[row, i]))
        colours = tuple(COLOURS)
        return [
            Thing(
                colours[self.colour[row, i]],
                SHAPES[self.shape[row, i]],
                ACTIONS[self.action[row, i]],
                SIZES[self.size[row, i]],
            )
            for i in places
        ]

    def progress(self, times: np.ndarray) -> np.ndarray:
        """How much of the change is done (B T, 0 to 1) at these times (B T, fractions of the clip)."""
        begin, finish = self.span[:, :1], self.span[:, 1:]
        done: np.ndarray = np.clip((times - begin) / (finish - begin), 0, 1)
        return done

    def state(self, times: np.ndarray) -> np.ndarray:
        """Centre x, y and radius of every object at these times: B T N 3."""
        p = self.progress(times)[:, :, None, None]
        centre = self.start[:, None] * (1 - p) + self.end[:, None] * p
        radius = self.radius[:, None, :, :1] * (1 - p) + self.radius[:, None, :, 1:] * p
        return np.concatenate([centre, radius], axis=-1)

    def looks(self, times: np.ndarray) -> "Looks":
        """What everyone looks like at these times: always the same."""
        there = np.broadcast_to(self.radius[:, None, :, 0] > 0, (*times.shape, MOST))
        return Looks(there, np.broadcast_to(self.colour[:, None], there.shape), np.zeros_like(there))


@dataclass(frozen=True)
class Looks:
    """What objects look like at some times, all B T N.

    Attributes:
        shown: whether they are to be seen.
        colour: index into COLOURS.
        told: whether their looks, and those before, tell what they do; movement tells besides.
    """

    shown: np.ndarray
    colour: np.ndarray
    told: np.ndarray


PATTERNS = ("plain", "gradient", "stripes", "noise")


def sample(rng: np.random.Generator, number: int) -> Scenes:
    """That many scenes, in which nothing touches anything else or the border, as many with one, two and
    three objects."""
    count = 1 + np.arange(number) % MOST
    if number < MOST:  # too few to have as many of each: one clip alone must not always show one object
        count = rng.integers(1, MOST, size=number, endpoint=True)
    rng.shuffle(count)
    # Nobody, one or two act; never more, so that the description stays one sentence. Drawn once, not again
    # with each
    # attempt, since busy scenes collide more often and would become rare.
    actors = np.minimum(rng.choice(3, size=number, p=(0.2, 0.5, 0.3)), count)
    scenes = propose(rng, count, actors)
    bad = np.flatnonzero(~roomy(scenes))
    while len(bad):
        fresh = propose(rng, np.repeat(count[bad], TRIES), np.repeat(actors[bad], TRIES))
        good = roomy(fresh).reshape(-1, TRIES)
        solved = np.flatnonzero(good.any(axis=1))
        chosen = solved * TRIES + good[solved].argmax(axis=1)
        for f in fields(Scenes):
            getattr(scenes, f.name)[bad[solved]] = getattr(fresh, f.name)[chosen]
        bad = np.delete(bad, solved)
    return scenes


def propose(rng: np.random.Generator, count: np.ndarray, actors: np.ndarray) -> Scenes:
    """Scenes with those numbers of objects and actors, drawn without looking whether the objects collide."""
    b = len(count)
    present = np.arange(MOST) < count[:, None]
    kinds = rng.random((b, len(COLOURS) * len(SHAPES))).argsort(axis=1)[:, :MOST]  # no two alike in one scene
    colour, shape = kinds // len(SHAPES), kinds % len(SHAPES)
    action = np.where(np.arange(MOST) < actors[:, None], rng.integers(1, len(ACTIONS), (b, MOST)), 0)
    grows, shrinks = action == ACTIONS.index("grows"), action == ACTIONS.index("shrinks")
    size = np.where(grows, 0, np.where(shrinks, 1, rng.integers(0, 2, (b, MOST))))
    low, high = np.array([SMALL, LARGE])[size].transpose(2, 0, 1)
    radius = np.repeat(rng.uniform(low, high)[..., None], 2, axis=-1) * present[..., None]
    big = rng.uniform(*GROWN, (b, MOST)) * present
    radius[..., 1] = np.where(
        grows, big, np.where(shrinks, rng.uniform(*SMALL, (b, MOST)) * present, radius[..., 1])
    )
    radius[..., 0] = np.where(shrinks, big, radius[..., 0])

    reach = radius.max(axis=-1) * 1.15 + MARGIN  # of the outermost corner
    step = np.array([STEPS.get(name, (0, 0)) for name in ACTIONS])[action]
    travel = np.minimum(rng.uniform(*TRAVEL, (b, MOST)), 1 - 2 * reach)[..., None] * step
    lowest = reach[..., None] + np.maximum(-travel, 0)
    highest = 1 - reach[..., None] - np.maximum(travel, 0)
    start = rng.uniform(lowest, np.maximum(highest, lowest + 1e-6))
    begin = rng.uniform(0, 0.15, b)
    return Scenes(
        count=count.copy(),
        colour=colour,
        shape=shape,
        action=action,
        size=size,
        start=start,
        end=start + travel,
        radius=radius,
        span=np.stack([begin, rng.uniform(0.8, 1.0, b)], axis=1),
        tint=rng.uniform(-10, 10, (b, MOST, 3)),
        **backgrounds(rng, b),
    )


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


def roomy(scenes: Scenes) -> np.ndarray:
    """True for scenes in which, at every moment, objects keep a distance from each other."""
    times = np.repeat(np.linspace(0, 1, 9)[None], len(scenes), axis=0)
    state = scenes.state(times)
    good = np.ones(len(scenes), dtype=bool)
    for i in range(MOST):
        for j in range(i):
            apart = np.hypot(*(state[:, :, i, :2] - state[:, :, j, :2]).transpose(2, 0, 1))
            needed = 1.1 * (state[:, :, i, 2] + state[:, :, j, 2]) + MARGIN
            good &= (apart > needed).all(axis=1) | (scenes.count <= i)
    return good


def frame_times(frames: int, picked: int | None = None) -> np.ndarray:
    """Times of the frames of a clip, as fractions of its length; of those that the documented choice picks,
    if asked."""
    every = np.arange(frames) / max(frames - 1, 1)
    return every if picked is None else every[np.floor(np.arange(picked) * frames / picked).astype(int)]


def render(
    scenes: Scenes, times: np.ndarray, side: int
) -> tuple[Float[Tensor, "B T 3 h w"], Float[Tensor, "B T h w"]]:
    """The scenes at these times (B T), `side` pixels square, edges smoothed over a pixel.

    Returns:
        The frames, in grey levels 0 to 255, and which part of each pixel is covered by an object.
    """
    axis = (torch.arange(side, dtype=torch.float32) + 0.5) / side
    y, x = axis[:, None], axis[None]
    state = torch.from_numpy(scenes.state(times)).float()  # B T N 3
    canvas = paint_ground(scenes, side)[:, None].expand(-1, times.shape[1], -1, -1, -1).contiguous()
    covered = torch.zeros(len(scenes), times.shape[1], side, side)
    palette = torch.tensor(list(COLOURS.values()), dtype=torch.float32)
    colour = (palette[torch.from_numpy(scenes.colour)] + torch.from_numpy(scenes.tint).float()).clamp(0, 255)
    shape = torch.from_numpy(scenes.shape)
    for i in range(scenes.count.max()):
        cx, cy, r = (t[..., None, None] for t in state[:, :, i].unbind(-1))
        r = torch.where(r > 0, r, -1)  # nothing is inside an object that is not there
        cover = distance(x - cx, y - cy, r, shape[:, i]).mul_(-side).add_(0.5).clamp_(0, 1)
        covered += cover  # objects keep apart, so the sum stays below 1
        canvas.lerp_(colour[:, i, None, :, None, None].expand_as(canvas), cover[:, :, None].expand_as(canvas))
    return canvas, covered


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


def clips(
    seed: int, number: int, side: int, frames: tuple[int, int] = (16, 48)
) -> Iterator[tuple[Scenes, int, UInt8[Tensor, "T h w 3"]]]:
    """Endless-looking clips one by one: the scene (a batch of one), and its frames as they go into a file."""
    rng = np.random.default_rng(seed)
    for _ in range(number):
        scene = sample(rng, 1)
        count = int(rng.integers(*frames, endpoint=True))
        pixels = render(scene, frame_times(count)[None], side)[0][0]
        yield scene, count, pixels.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
