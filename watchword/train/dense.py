"""Temporary lessons that the renderer can give: what and where is the object that each patch sees, and what
has it done.

Small linear heads read the vision tower's features, and the language model's states at visual positions,
while the model learns; they are thrown away afterwards. Answers alone teach the same, only many times
slower (docs/demo-training.md).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from watchword.shapes import Bool, Float, Int, Tensor
from watchword.train.shapes import ACTIONS, COLOURS, MOST, SHAPES
from watchword.train.world import World

SPREAD = 0.29
"""Standard deviation of a place that is uniform on the frame; brings regressions to unit size."""
ORDERS = 3
"""No order, first, second."""
CELLS = 7
"""Cells along a patch's side in which outlines are taught."""


@dataclass
class Lesson:
    """What each patch of each frame of a batch should tell; N counts patches row by row, class token left
    out."""

    count: Int[Tensor, "B T"]  # objects that the frame shows
    seen: Bool[Tensor, "B T N"]  # the patch shows an object; the rest only means something where True
    colour: Int[Tensor, "B T N"]
    shape: Int[Tensor, "B T N"]
    place: Float[Tensor, "B T N 3"]  # x, y and radius of the whole object
    action: Int[Tensor, "B T N"]
    telling: Bool[Tensor, "B T N"]  # enough has happened (or will not happen) to name the action
    when: Float[Tensor, "B T N"]  # the middle of the time in which it acts
    order: Int[Tensor, "B T N"]  # 0: none, 1: it acts first, 2: second
    dated: Bool[Tensor, "B T N"]  # telling, late in the clip, of a thing that acts at a time of its own
    change: Float[Tensor, "B T N 3"]  # of the place since the first frame
    outline: Float[Tensor, "B T N c"]  # the part of each small cell of the patch that shows an object


def lesson(scenes: World, times: np.ndarray, covered: Float[Tensor, "B T h w"], grid: int) -> Lesson:
    """The targets for frames at these times, cut into grid x grid patches.

    Args:
        covered: the part of each pixel that shows an object, as `render` gives it.
    """
    state, looks = scenes.state(times)[..., :3], scenes.looks(times)  # B T N 3
    edge = np.arange(grid) / grid
    corner = np.stack(np.meshgrid(edge, edge), axis=-1).reshape(-1, 1, 2)  # patches in rows: P 1 2, x y
    centre = state[:, :, None, :, :2]  # B T 1 N 2
    gap = np.maximum(np.maximum(corner - centre, centre - corner - 1 / grid), 0)
    near = np.hypot(gap[..., 0], gap[..., 1])  # of the patch to the centre, B T P N
    covers = near < 0.85 * state[:, :, None, :, 2]
    touches, left = covers & looks.shown[:, :, None], covers & looks.gone[:, :, None]
    far = np.hypot(*np.moveaxis(corner + 0.5 / grid - centre, -1, 0))
    owner = np.where(touches, near + 1e-3 * far, np.where(left, 5, 9)).argmin(axis=-1)  # B T P
    row = np.arange(len(scenes))[:, None, None]
    time = np.arange(times.shape[1])[None, :, None]
    change = state - state[:, :1]
    still = scenes.action[row, owner] == 0
    seen = touches.any(axis=-1)
    moved = np.abs(change[row, time, owner]) / (0.12, 0.12, 0.035)
    telling = seen & ((moved.max(axis=-1) > 1) | looks.told[row, time, owner])
    telling |= ~seen & left.any(axis=-1)
    when = looks.when[row, owner]
    return Lesson(
        count=torch.from_numpy(looks.shown.sum(axis=-1)),
        seen=torch.from_numpy(seen),
        colour=torch.from_numpy(looks.colour[row, time, owner]),
        shape=torch.from_numpy(scenes.shape[row, owner]),
        place=torch.from_numpy((state[row, time, owner] - (0.5, 0.5, 0.15)) / (SPREAD, SPREAD, 0.05)).float(),
        action=torch.from_numpy(scenes.action[row, owner]),
        telling=torch.from_numpy(telling | seen & still & (time >= times.shape[1] // 2)),
        when=torch.from_numpy((when - 0.5) / SPREAD).float(),
        order=torch.from_numpy(scenes.order[row, owner]),
        dated=torch.from_numpy(telling & (time >= times.shape[1] * 3 // 4)),
        change=torch.from_numpy(change[row, time, owner] / (SPREAD, SPREAD, 0.05)).float(),
        outline=outline(covered, grid),
    )


def outline(covered: Float[Tensor, "B T h w"], grid: int) -> Float[Tensor, "B T N c"]:
    """Each patch as CELLS x CELLS cells, each the part of it that shows an object."""
    cells = F.adaptive_avg_pool2d(covered.clamp(0, 1), grid * CELLS)
    b, t = cells.shape[:2]
    cells = cells.view(b, t, grid, CELLS, grid, CELLS)  # B T rows c columns c
    return cells.transpose(3, 4).reshape(b, t, grid**2, CELLS**2)


class OutlineHead(nn.Module):
    """Reads an early layer's states: which cells of the patch show an object. Shapes are learned late
    without it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.read = nn.Linear(width, CELLS**2)

    def forward(self, states: Float[Tensor, "B T P D"], target: Lesson) -> Tensor:
        """The loss; the class token comes first and is left out."""
        return F.binary_cross_entropy_with_logits(self.read(states[:, :, 1:].float()), target.outline)


class SightHeads(nn.Module):
    """Reads a tower's features: what is where."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = (2, len(COLOURS), len(SHAPES), 3, MOST + 1)
        self.read = nn.Linear(width, sum(self.sizes))

    def forward(self, features: Float[Tensor, "B T P D"], target: Lesson) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and per head the share of right answers; the class token comes first."""
        seen, colour, shape, place, count = self.read(features.float()).split(self.sizes, dim=-1)
        where = target.seen
        counts = target.count[:, :, None].expand(count.shape[:3])
        place_loss = F.smooth_l1_loss(place[:, :, 1:][where], target.place[where])
        seen, colour, shape = seen[:, :, 1:], colour[:, :, 1:][where], shape[:, :, 1:][where]
        loss = (
            F.cross_entropy(seen.flatten(0, 2), where.long().flatten())
            + F.cross_entropy(colour, target.colour[where])
            + F.cross_entropy(shape, target.shape[where])
            + 4 * place_loss
            + 0.5 * F.cross_entropy(count.flatten(0, 2), counts.flatten())
        )
        with torch.no_grad():
            right = {
                "seen": (seen.argmax(-1) == where.long()).float().mean(),
                "colour": (colour.argmax(-1) == target.colour[where]).float().mean(),
                "shape": (shape.argmax(-1) == target.shape[where]).float().mean(),
                "place": place_loss.detach(),
                "count": (count.argmax(-1) == counts).float().mean(),
            }
        return loss, right


class MotionHeads(nn.Module):
    """Reads the language model's states at visual positions: what has the object done so far, when, and
    whether first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.sizes = (len(ACTIONS), 3, 1, ORDERS)
        self.read = nn.Linear(width, sum(self.sizes))

    def forward(self, states: Float[Tensor, "B T P D"], target: Lesson) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and the share of right answers; the class token comes first."""
        action, change, when, order = self.read(self.norm(states.float()))[:, :, 1:].split(self.sizes, dim=-1)
        action, change = action[target.telling], change[target.seen]
        when, order, told = when[target.dated][:, 0], order[target.dated], target.order[target.dated]
        change_loss = F.smooth_l1_loss(change, target.change[target.seen])
        dated = max(1, len(told))  # perhaps nobody acts
        when_loss = F.smooth_l1_loss(when, target.when[target.dated], reduction="sum") / dated
        order_loss = F.cross_entropy(order, told, reduction="sum") / dated
        loss = F.cross_entropy(action, target.action[target.telling]) + 2 * change_loss
        loss = loss + 2 * when_loss + order_loss
        with torch.no_grad():
            right = {
                "action": (action.argmax(-1) == target.action[target.telling]).float().mean(),
                "change": change_loss.detach(),
                "when": when_loss.detach(),
                "order": (order.argmax(-1) == told).float().sum() / dated,
            }
        return loss, right
