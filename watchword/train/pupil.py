"""What the training loop knows of a model that learns, and its learning rate."""

import math
from typing import Any, ClassVar

import torch
from torch import nn

from watchword.shapes import Tensor
from watchword.train.lessons import Batch, Lessons


class Pupil(nn.Module):
    """A model with its temporary heads."""

    lessons: ClassVar[type[Lessons]] = Lessons
    """Its kind of batches."""
    model: Any

    @property
    def device(self) -> torch.device:
        """Where it learns."""
        return next(self.parameters()).device

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """What to minimise, and how well each thing goes."""
        raise NotImplementedError

    def seeing(self) -> tuple[nn.Module, ...]:
        """What learns at the vision tower's rate."""
        raise NotImplementedError


def step_size(step: int, steps: int, peak: float, *, warm_up: int = 100, floor: float = 0.02) -> float:
    """Learning rate: a straight climb, then half a cosine down to `floor` of the peak."""
    climb = min(1.0, (step + 1) / warm_up)
    return peak * climb * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))
