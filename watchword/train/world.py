"""A world of shapes: scenes from a seed, and their frames at any size.

Things move, grow, shrink, turn, become another colour, appear and vanish, some one after the other. A `World`
holds a whole batch as arrays, so that thousands of clips a second can be drawn for training; the same world
drawn at 320 pixels makes the clips that are encoded as files. A picture is a world in which nothing happens.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from watchword.shapes import Float, Tensor, UInt8
from watchword.train import shapes
from watchword.train.shapes import (
    ACTIONS,
    COLOURS,
    GROWN,
    LARGE,
    MARGIN,
    MOST,
    SHAPES,
    SIZES,
    SMALL,
    STEPS,
    TRAVEL,
    Thing,
)

SUDDEN = ("becomes", "appears", "vanishes")
"""Actions that take a moment, not a stretch of time."""

TURNS = {"square": np.pi / 4, "cross": np.pi / 4, "triangle": np.pi / 3}
"""How far a shape turns: no farther than where it looks most unlike what it was, or few frames could meet it
when it looks the same again. Nobody sees a circle turn, so none does."""

LASTS = 0.05
"""How long sudden actions take."""

ACTORS = {False: (0.12, 0.4, 0.48), True: (0.06, 0.28, 0.66)}
"""How often nobody, one or two act, in ordinary worlds and in busy ones."""
FOLLOW = {False: 2 / 3, True: 0.85}
"""How often two act one after the other."""

TRIES, PATIENCE = 12, 6
"""Attempts at places drawn at once for each world, and how many times before the cast is drawn anew."""
FILL = 600
"""So many attempts are drawn at least, however few worlds need them: small arrays cost as much time."""

# Clips are seen in eight frames, or four. One stands at 0.5 to 0.54, when the first of two has happened and
# the second has not begun; and one at 0.75 or later, when something of the second is to be seen.
WHOLE = ((0.0, 0.15), (0.8, 1.0))
FIRST = ((0.02, 0.1), (0.38, 0.46))
SECOND = ((0.55, 0.6), (0.86, 0.92))
MOMENTS = {"whole": (0.3, 0.62), "first": (0.1, 0.38), "second": (0.6, 0.68)}


@dataclass(frozen=True)
class Looks:
    """What objects look like at some times, B T N.

    Attributes:
        shown: whether they are to be seen.
        colour: index into COLOURS.
        told: whether their looks, and those before, tell what they do; movement tells besides.
        gone: whether they have vanished.
        when: the middle of the time in which they act, without T.
    """

    shown: np.ndarray
    colour: np.ndarray
    told: np.ndarray
    gone: np.ndarray
    when: np.ndarray


@dataclass(frozen=True)
class World:
    """B worlds of up to three things N; unused places have radius 0 and lie behind `count`."""

    count: np.ndarray  # B, 1..3
    colour: np.ndarray  # B N, index into COLOURS
    becomes: np.ndarray  # B N, the same at the end
    shape: np.ndarray  # B N, index into SHAPES
    action: np.ndarray  # B N, index into ACTIONS
    size: np.ndarray  # B N, index into SIZES, at the start
    order: np.ndarray  # B N, 0: no order, 1: acts first, 2: acts second
    start: np.ndarray  # B N 2, centre x y
    end: np.ndarray  # B N 2
    radius: np.ndarray  # B N 2, at the start and at the end
    turn: np.ndarray  # B N, angle at the end
    span: np.ndarray  # B N 2, when the thing acts, in parts of the clip
    tint: np.ndarray  # B N 3, what is added to the colour, in grey levels
    ground: np.ndarray  # B 2 3, the two colours of the background
    pattern: np.ndarray  # B, index into PATTERNS
    grain: np.ndarray  # B 8 8, noise that one of the patterns uses
    angle: np.ndarray  # B 2, direction and period of stripes and gradients

    def __len__(self) -> int:
        return len(self.count)

    def pick(self, rows: np.ndarray) -> "World":
        """The worlds at these places, or where a mask is True."""
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def things(self, row: int) -> list[Thing]:
        """The things of one world, in the fixed order of colours, then shapes."""
        places = sorted(range(self.count[row]), key=lambda i: (self.colour[row, i], self.shape[row, i]))
        return [self.thing(row, i) for i in places]

    def thing(self, row: int, place: int) -> Thing:
        """One thing in words."""
        colours, action = tuple(COLOURS), ACTIONS[self.action[row, place]]
        return Thing(
            colours[self.colour[row, place]],
            SHAPES[self.shape[row, place]],
            action,
            SIZES[self.size[row, place]],
            becomes=colours[self.becomes[row, place]] if action == "becomes" else "",
            order=int(self.order[row, place]),
            path=tuple((float(x), float(y)) for x, y in (self.start[row, place], self.end[row, place])),
        )

    def progress(self, times: np.ndarray) -> np.ndarray:
        """How much of each thing's change is done (B T N, 0 to 1) at these times (B T)."""
        begin, finish = self.span[:, None, :, 0], self.span[:, None, :, 1]
        done: np.ndarray = np.clip((times[:, :, None] - begin) / (finish - begin), 0, 1)
        return done

    def state(self, times: np.ndarray) -> np.ndarray:
        """Centre x, y, radius, angle, 1 in the new colour, how much to be seen: B T N 6."""
        p = self.progress(times)
        centre = self.start[:, None] * (1 - p[..., None]) + self.end[:, None] * p[..., None]
        radius = self.radius[:, None, :, 0] * (1 - p) + self.radius[:, None, :, 1] * p
        doing = self.action[:, None]
        # at once: half way from blue to red is purple
        new = np.where(doing == ACTIONS.index("becomes"), p >= 0.5, 0)
        seen = np.where(doing == ACTIONS.index("appears"), p, 1)
        seen = np.where(doing == ACTIONS.index("vanishes"), 1 - p, seen)
        return np.stack([*np.moveaxis(centre, -1, 0), radius, self.turn[:, None] * p, new, seen], axis=-1)

    def looks(self, times: np.ndarray) -> Looks:
        """What everyone looks like at these times."""
        *_, new, seen = np.moveaxis(self.state(times), -1, 0)
        there = (seen > 0.5) & (self.radius[:, None, :, 0] > 0)
        own = np.isin(self.action, [ACTIONS.index(name) for name in ("turns", "becomes", "appears")])
        told = own[:, None] & (self.progress(times) >= 0.5)
        colour = np.where(new > 0, self.becomes[:, None], self.colour[:, None])
        gone = ~there & (self.action == ACTIONS.index("vanishes"))[:, None]
        return Looks(there, colour, told & there, gone, self.span.mean(axis=-1))


def sample(rng: np.random.Generator, number: int, *, still: bool = False, busy: bool = False) -> World:
    """That many worlds, in which nothing touches anything else or the border.

    Args:
        still: nothing happens, as in a picture.
        busy: two act more often, and more often one after the other.
    """
    count = 1 + np.arange(number) % MOST
    if number < MOST:
        count = rng.integers(1, MOST, size=number, endpoint=True)
    rng.shuffle(count)
    actors = np.minimum(rng.choice(3, size=number, p=ACTORS[busy]), count) * (not still)
    roles = cast(rng, count, actors, FOLLOW[busy])
    worlds = placed(rng, roles)
    bad, rounds = np.flatnonzero(~roomy(worlds)), 0
    while len(bad):
        rounds += 1
        if rounds % PATIENCE == 0:  # a few casts have next to no room
            for name, fresh_roles in cast(rng, count[bad], actors[bad], FOLLOW[busy]).items():
                roles[name][bad] = fresh_roles
        tries = max(TRIES, FILL // len(bad))
        some = {name: values[bad].repeat(tries, axis=0) for name, values in roles.items()}
        fresh = placed(rng, some)
        good = roomy(fresh).reshape(-1, tries)
        solved = np.flatnonzero(good.any(axis=1))
        chosen = solved * tries + good[solved].argmax(axis=1)
        for f in fields(World):
            getattr(worlds, f.name)[bad[solved]] = getattr(fresh, f.name)[chosen]
        bad = np.delete(bad, solved)
    return worlds


def cast(
    rng: np.random.Generator, count: np.ndarray, actors: np.ndarray, follow: float
) -> dict[str, np.ndarray]:
    """Who is there and does what. Drawn once: worlds with much movement collide more often, and would become
    rare if drawn again with each attempt."""
    b = len(count)
    present = np.arange(MOST) < count[:, None]
    kinds = rng.random((b, len(COLOURS) * len(SHAPES))).argsort(axis=1)[:, :MOST]  # no two alike in one world
    colour, shape = kinds // len(SHAPES), kinds % len(SHAPES)
    action = doings(rng, shape, np.arange(MOST) < actors[:, None])
    new = action == ACTIONS.index("becomes")
    steady = rng.integers(0, 2, (b, MOST))
    big = np.isin(action, [ACTIONS.index(name) for name in ("shrinks", "turns")])
    order, span = timing(rng, action, actors, follow)
    return {
        "count": count.copy(),
        "colour": colour,
        "becomes": np.where(new, free_colours(rng, colour, present), colour),
        "shape": shape,
        "action": action,
        "size": np.where(action == ACTIONS.index("grows"), 0, np.where(big, 1, steady)),
        "order": order,
        "span": span,
    }


def placed(rng: np.random.Generator, roles: dict[str, np.ndarray]) -> World:
    """Everyone with a size and a way to go, drawn without looking whether they collide."""
    action, b = roles["action"], len(roles["count"])
    grows, shrinks, turns = (action == ACTIONS.index(name) for name in ("grows", "shrinks", "turns"))
    present = np.arange(MOST) < roles["count"][:, None]
    radius = radii(rng, roles["size"], grows, shrinks) * present[..., None]
    reach = radius.max(axis=-1) * 1.27 + MARGIN  # of the outermost corner, turned as it may be
    step = np.array([STEPS.get(name, (0, 0)) for name in ACTIONS])[action]
    travel = np.minimum(rng.uniform(*TRAVEL, (b, MOST)), 1 - 2 * reach)[..., None] * step
    lowest = reach[..., None] + np.maximum(-travel, 0)
    highest = 1 - reach[..., None] - np.maximum(travel, 0)
    start = rng.uniform(lowest, np.maximum(highest, lowest + 1e-6))
    far = np.array([TURNS.get(name, 0.0) for name in SHAPES])[roles["shape"]]
    return World(
        **roles,
        start=start,
        end=start + travel,
        radius=radius,
        turn=np.where(turns, far * rng.choice((-1, 1), (b, MOST)), 0.0),
        tint=rng.uniform(-10, 10, (b, MOST, 3)),
        **shapes.backgrounds(rng, b),
    )


def doings(rng: np.random.Generator, shape: np.ndarray, acting: np.ndarray) -> np.ndarray:
    """What everyone does. Each way to move counts half, or moving would be most of what happens."""
    weights = np.array([0.0 if name == "still" else 0.5 if name in STEPS else 1.0 for name in ACTIONS])
    drawn = rng.choice(len(ACTIONS), size=shape.shape, p=weights / weights.sum())
    turns = ACTIONS.index("turns")
    weights[turns] = 0
    others = rng.choice(len(ACTIONS), size=shape.shape, p=weights / weights.sum())
    drawn = np.where((drawn == turns) & (shape == SHAPES.index("circle")), others, drawn)
    return np.where(acting, drawn, 0)


def timing(
    rng: np.random.Generator, action: np.ndarray, actors: np.ndarray, follow: float
) -> tuple[np.ndarray, np.ndarray]:
    """Who acts first, if anybody (B N), and from when to when everyone acts (B N 2).

    Of two, one acts after the other in the share `follow` of the worlds, else both at once.
    """
    b = len(action)
    follows = (actors == 2) & (rng.random(b) < follow)
    first = rng.integers(0, 2, b)
    order = np.zeros((b, MOST), int)
    order[follows, :2] = np.stack([1 + first, 2 - first], axis=1)[follows]
    spans, moments = [], []
    for begin, finish in (WHOLE, FIRST, SECOND):
        both = [rng.uniform(*each, b) for each in (begin, finish)]
        spans.append(np.repeat(np.stack(both, axis=-1)[:, None], MOST, axis=1))  # those at once begin at once
    for low, high in MOMENTS.values():
        middle = rng.uniform(low, high, (b, 1)).repeat(MOST, axis=1)
        moments.append(np.stack([middle, middle + LASTS], axis=-1))
    sudden = np.isin(action, [ACTIONS.index(name) for name in SUDDEN])[..., None]
    found = [np.where(sudden, moment, span) for span, moment in zip(spans, moments)]
    return order, np.select([order[..., None] == 1, order[..., None] == 2], found[1:], found[0])


def radii(rng: np.random.Generator, size: np.ndarray, grows: np.ndarray, shrinks: np.ndarray) -> np.ndarray:
    """Radius at the start and at the end, B N 2."""
    low, high = np.array([SMALL, LARGE])[size].transpose(2, 0, 1)
    radius = np.repeat(rng.uniform(low, high)[..., None], 2, axis=-1)
    big, little = rng.uniform(*GROWN, size.shape), rng.uniform(*SMALL, size.shape)
    radius[..., 1] = np.where(grows, big, np.where(shrinks, little, radius[..., 1]))
    radius[..., 0] = np.where(shrinks, big, radius[..., 0])
    return radius


def free_colours(rng: np.random.Generator, colour: np.ndarray, present: np.ndarray) -> np.ndarray:
    """For everyone a colour that nobody of its world has."""
    taken = ((colour[:, :, None] == np.arange(len(COLOURS))) & present[:, :, None]).any(axis=1)
    chance = rng.random((*colour.shape, len(COLOURS)))
    return np.where(taken[:, None], -1, chance).argmax(axis=-1)


def roomy(worlds: World) -> np.ndarray:
    """True for worlds in which things keep a distance from each other wherever they are when."""
    good = np.ones(len(worlds), dtype=bool)
    state = worlds.state(np.repeat(np.linspace(0, 1, 9)[None], len(worlds), axis=0))
    for i in range(MOST):
        for j in range(i):
            apart = np.hypot(*(state[:, :, i, :2] - state[:, :, j, :2]).transpose(2, 0, 1))
            needed = 1.15 * (state[:, :, i, 2] + state[:, :, j, 2]) + MARGIN
            good &= (apart > needed).all(axis=1) | (worlds.count <= i)
    return good


def render(
    worlds: World, times: np.ndarray, side: int
) -> tuple[Float[Tensor, "B T 3 h w"], Float[Tensor, "B T h w"]]:
    """The worlds at these times (B T), `side` pixels square, edges smoothed over a pixel.

    Returns:
        The frames, in grey levels 0 to 255, and which part of each pixel is covered by a thing.
    """
    axis = (torch.arange(side, dtype=torch.float32) + 0.5) / side
    y, x = axis[:, None], axis[None]
    state = torch.from_numpy(worlds.state(times)).float()  # B T N 6
    canvas = shapes.paint_ground(worlds, side)[:, None].expand(-1, times.shape[1], -1, -1, -1).contiguous()
    covered = torch.zeros(len(worlds), times.shape[1], side, side)
    palette, tint = torch.tensor(list(COLOURS.values()), dtype=torch.float32), torch.from_numpy(worlds.tint)
    old, new = (palette[torch.from_numpy(which)] + tint.float() for which in (worlds.colour, worlds.becomes))
    shape = torch.from_numpy(worlds.shape)
    for i in range(worlds.count.max()):
        cx, cy, r, angle, mix, seen = (t[..., None, None] for t in state[:, :, i].unbind(-1))
        r = torch.where(r > 0, r, -1)  # nothing is inside a thing that is not there
        right, down = x - cx, y - cy
        turned = (
            right * torch.cos(angle) + down * torch.sin(angle),
            down * torch.cos(angle) - right * torch.sin(angle),
        )
        cover = shapes.distance(*turned, r, shape[:, i]).mul_(-side).add_(0.5).clamp_(0, 1) * seen
        covered += cover
        colour = torch.lerp(
            old[:, i, None, :, None, None], new[:, i, None, :, None, None], mix[:, :, None]
        ).clamp(0, 255)
        canvas.lerp_(colour.expand_as(canvas), cover[:, :, None].expand_as(canvas))
    return canvas, covered


def clips(
    seed: int, number: int, side: int, frames: tuple[int, int] = (16, 48), *, still: bool = False
) -> Iterator[tuple[World, UInt8[Tensor, "T h w 3"]]]:
    """Worlds one by one (each a batch of one), and their frames as they go into a file.

    Args:
        frames: the fewest and the most that a clip has.
        still: pictures, which have one.
    """
    rng = np.random.default_rng(seed)
    for _ in range(number):
        found = sample(rng, 1, still=still)
        count = 1 if still else int(rng.integers(*frames, endpoint=True))
        pixels = render(found, shapes.frame_times(count)[None], side)[0][0]
        yield found, pixels.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
