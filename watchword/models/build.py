"""From a config to a family: the one place where both doors choose and make a model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from watchword.config import Config
from watchword.errors import ConfigError
from watchword.models import clip, eva, instructblip, language, qformer, video_llava
from watchword.shapes import Tensor

FAMILIES = {
    "instructblip": instructblip.InstructBlip,
    "instructblipvideo": instructblip.InstructBlip,
    "video_llava": video_llava.VideoLlava,
}
"""model_type → class."""


class NoValues(TorchFunctionMode):
    """Draws no values: on the meta device there are none, and drawing them there makes torch import its
    compiler, which takes longer than everything else before the first word (benchmarks/startup.md)."""

    drawing = (Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: Mapping | None = None
    ) -> Any:
        """What was called, unless it only draws."""
        kwargs = kwargs or {}
        if func not in self.drawing:
            return func(*args, **kwargs)
        return args[0] if args else kwargs["tensor"]  # `nn.init` names it


@contextmanager
def nowhere() -> Iterator[None]:
    """What is made here has shapes and names, but takes no memory and has no values."""
    with torch.device("meta"), NoValues():
        yield


def build(config: Config, *, backend: str = "sdpa") -> nn.Module:
    """The family that a config describes, on the meta device: shapes and names, no memory.

    Raises:
        ConfigError: a model type that is not implemented; the message lists those that are.
    """
    if config.model_type not in FAMILIES:
        raise ConfigError(
            f"config.json: model_type {config.model_type!r} is not implemented; "
            f"known are {', '.join(FAMILIES)}"
        )
    with nowhere():
        return FAMILIES[config.model_type](config, backend=backend)


@torch.no_grad()
def initialise(model: nn.Module) -> None:
    """Fresh values for a whole family or a part of one, each part by its own rules."""
    if isinstance(model, video_llava.VideoLlava):
        clip.initialise(model.image_tower)
        clip.initialise(model.video_tower)
        video_llava.initialise(model)
        language.initialise(model.language_model)
    elif isinstance(model, instructblip.InstructBlip):
        eva.initialise(model.vision_model)
        qformer.initialise(model.qformer)
        instructblip.initialise(model)
        language.initialise(model.language_model)
    elif isinstance(model, eva.EvaVision):
        eva.initialise(model)
    elif isinstance(model, qformer.QFormer):
        qformer.initialise(model)
