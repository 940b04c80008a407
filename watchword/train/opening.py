"""A checkpoint opened for learning, and what it has become written as one again."""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from watchword.config import family_from_dict
from watchword.errors import ConfigError
from watchword.hf.instructblip import (
    InstructBlipForConditionalGeneration,
    InstructBlipVideoForConditionalGeneration,
)
from watchword.hf.video_llava import VideoLlavaForConditionalGeneration
from watchword.media.spec import PixelSpec
from watchword.models import layouts
from watchword.nn import lora
from watchword.nn.devices import chosen_device
from watchword.pipeline.families import FAMILIES, Family, Words
from watchword.pipeline.opening import EMBEDDED, chosen_dtype, read_config
from watchword.shapes import Tensor
from watchword.train.recipes import Recipe
from watchword.weights import adapters, files, hub

CLASSES: dict[str, Any] = {
    "instructblip": InstructBlipForConditionalGeneration,
    "instructblipvideo": InstructBlipVideoForConditionalGeneration,
    "video_llava": VideoLlavaForConditionalGeneration,
}
"""The documented classes, which know how to load and save themselves."""

OWN = ("config.json", "generation_config.json", "README.md", "LICENSE", ".gitattributes")
"""Files of a checkpoint folder that a saved model has anew, or that tell of the old one."""


@dataclass(frozen=True)
class Opened:
    """A checkpoint.

    Attributes:
        model: one of the documented classes.
        family: how it sees.
        words: its tokenizers.
        specs: how pictures and clips become pixels.
        folder: where its files are.
        name: as it was asked for.
        device: where it is.
    """

    model: Any
    family: Family
    words: Words
    specs: dict[str, PixelSpec]
    folder: Path
    name: str
    device: torch.device

    @property
    def config(self) -> Any:
        """The model's."""
        return self.model.config


def open_model(
    name: str | os.PathLike | None, *, device: str | torch.device, dtype: str, quantize: str | None = None
) -> Opened:
    """Open a checkpoint folder or hub id; the embedded model when None.

    Args:
        dtype: "auto" as stored, float16 as bfloat16: what float16 learns overflows.
        quantize: format of the linears' weights; None leaves them dense.

    Raises:
        CheckpointError, ConfigError: see `watchword.load`; and for learning in float16.
    """
    folder = EMBEDDED if name is None else hub.fetch(name)
    where = chosen_device(device)
    config = family_from_dict(read_config(folder), str(folder / "config.json"))
    kind = chosen_dtype(dtype, files.open_weights(folder).dtype, where)
    if kind == torch.float16:
        if dtype != "auto":
            raise ConfigError("train: float16 overflows while it learns; use bfloat16 or float32")
        kind = torch.bfloat16
    family = FAMILIES[config.model_type]
    extra = {} if quantize is None else {"quantization_config": quantization(quantize)}
    model = CLASSES[config.model_type].from_pretrained(folder, dtype=kind, device_map=where, **extra)
    told = "the embedded model" if name is None else os.fspath(name)
    return Opened(model, family, family.words(folder), family.specs(folder), folder, told, where)


def quantization(name: str) -> Any:
    """The documented config of a format."""
    from watchword.hf.quantization import BitsAndBytesConfig

    if name == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")


def identity(folder: Path) -> str:
    """A name for a checkpoint's files: their names and sizes, and the config's text."""
    found = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in (".safetensors", ".bin", ".json"):
            found.update(f"{path.relative_to(folder)} {path.stat().st_size}\n".encode())
    return found.hexdigest()


def write_model(opened: Opened, recipe: Recipe, target: Path, state: dict[str, Tensor]) -> None:
    """Fill a folder with what was learned: an adapter in the PEFT format, or a whole checkpoint.

    Args:
        state: the model's own state, whole.
    """
    if recipe.adapter:
        whole(opened.model, state)
        family = adapters.Family(**layouts.for_adapters(opened.model))
        base = "" if opened.folder == EMBEDDED else opened.name
        adapters.save_adapter(opened.model, target, family, name=lora.active(opened.model), base=base)
        return
    opened.model.save_pretrained(target, state_dict=state)
    for path in opened.folder.iterdir():
        weights = path.suffix in (".safetensors", ".bin") or path.name.endswith(".index.json")
        if path.is_dir() and path.name[0] != ".":
            shutil.copytree(path, target / path.name, dirs_exist_ok=True)
        elif path.is_file() and not weights and path.name not in OWN:
            shutil.copyfile(path, target / path.name)


def whole(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Give adapters that were spread over processes their whole tensors; nothing is learned after that."""
    for path, linear in lora.adapted(model).items():
        for name, one in linear.adapters.items():
            for part in "AB":
                if hasattr(getattr(one, part), "full_tensor"):
                    setattr(one, part, nn.Parameter(state[f"{path}.{lora.PREFIX}{name}.{part}"]))


def counts(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Of each part of a model how many numbers learn, and how many there are."""
    found: dict[str, tuple[int, int]] = {}
    for name, one in model.named_parameters():
        part = name.split(".")[0]
        learns, total = found.get(part, (0, 0))
        found[part] = (learns + one.numel() * one.requires_grad, total + one.numel())
    return found
