"""What a checkpoint will need, from its config.json alone: bytes to hold and to read, operations to do."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from watchword.config import family_from_dict
from watchword.errors import CheckpointError, ConfigError
from watchword.models import build
from watchword.pipeline.families import FAMILIES
from watchword.pipeline.opening import CACHE_BYTES, chosen_dtype, read_config
from watchword.weights import files, sizes
from watchword.weights import quantize as quantization
from watchword.weights.packed import form_of, read_recipe

EMBEDDINGS = ("embed_tokens", "embed_positions", "shared", "relative_attention_bias")

WORDS = 64
"""Positions for words, in a prompt whose length nobody gave."""


@dataclass(frozen=True)
class Plan:
    """A checkpoint as arithmetic sees it.

    Attributes:
        config: of the family.
        shapes: of all its parameters.
        form: how it will be held: a dense type or a packed format.
        dtype: type of what stays dense.
        packed: of each parameter that does not, its format.
        frames: of a clip, unless told otherwise; None for a family of pictures.
        card: whether a card holds it.
    """

    config: Any
    shapes: Mapping[str, tuple[int, ...]]
    form: str
    dtype: torch.dtype
    packed: Mapping[str, str]
    frames: int | None
    card: bool = False

    @property
    def text(self) -> Any:
        """The config of the text model."""
        return self.config.text_config

    def prompt(self, frames: int | None = None) -> int:
        """Positions of a usual prompt about a clip of so many frames, or a picture."""
        return self.config.visual_tokens(frames or self.frames) + WORDS

    def need(self, positions: int, rows: int = 1, keep: int = CACHE_BYTES) -> sizes.Need:
        """What it takes in memory."""
        return sizes.need(
            self.shapes, self.text, self.dtype, self.packed, positions=positions, rows=rows, keep=keep,
            card=self.card,
        )  # fmt: skip

    def step_bytes(self, positions: int, rows: int = 1) -> int:
        """Bytes that one step must read: every weight it multiplies with, and the keys and values."""
        wanted = {name: shape for name, shape in self._text().items() if not _looked_up(name)
                  and not (self.text.is_encoder_decoder and ".encoder." in name)}  # fmt: skip
        weights = sum(sizes.weight_bytes(wanted, self.dtype, self.packed, read=True, card=self.card).values())
        return weights + sizes.cache_bytes(self.text, positions, rows, itemsize=self.dtype.itemsize)

    def prompt_flops(self, positions: int, frames: int | None) -> float:
        """Operations before the first word: the tower on every frame, and the text model on the prompt.

        The Q-Former and the projections are left out; they are few. A decoder's last layer computes keys and
        values of all positions and the rest of the last one.
        """
        side = {name: shape for name, shape in self._text().items() if _in_layers(name, shape)}
        layers, width = self.text.num_hidden_layers, self.text.hidden_size
        if self.text.is_encoder_decoder:
            whole = [math.prod(shape) for name, shape in side.items() if ".decoder." not in name]
            return 2 * positions * sum(whole) + 4 * positions**2 * width * layers + self.tower_flops(frames)
        once = [math.prod(shape) for name, shape in side.items() if f".layers.{layers - 1}." in name
                and not name.endswith(("k_proj.weight", "v_proj.weight"))]  # fmt: skip
        whole = [math.prod(shape) for shape in side.values()]
        products = 2 * positions * (sum(whole) - sum(once)) + 2 * sum(once)
        attention = 2 * positions**2 * width * (layers - 1) + 4 * positions * width
        return products + attention + self.tower_flops(frames)

    def tower_flops(self, frames: int | None) -> float:
        """Operations of the vision tower; its layers behind the chosen one are not computed."""
        vision = self.config.vision_config
        rows = (vision.image_size // vision.patch_size) ** 2 + 1
        names = ("vision_model.",) if "vision_model" in self._parts() else (
            "video_tower." if frames else "image_tower.",)  # fmt: skip
        side = [shape for name, shape in self.shapes.items() if name.startswith(names)
                and _in_layers(name, shape)]  # fmt: skip
        layer = getattr(self.config, "vision_feature_layer", -1)
        depth = vision.num_hidden_layers
        last = max(layer) if isinstance(layer, list | tuple) else layer
        used = (last + 1 + depth if last < 0 else last) / depth
        attention = 4 * rows**2 * vision.hidden_size * depth
        return (frames or 1) * used * (2 * rows * sum(map(math.prod, side)) + attention)

    def _text(self) -> dict[str, tuple[int, ...]]:
        return {name: shape for name, shape in self.shapes.items() if name.startswith("language_model.")}

    def _parts(self) -> set[str]:
        return {name.split(".")[0] for name in self.shapes}


def plan(
    folder: Path,
    *,
    quantize: str | None = None,
    dtype: str = "auto",
    device: torch.device = torch.device("cpu"),  # noqa: B008 it never changes
) -> Plan:
    """Read config.json, and the headers of the weights where there are any; no weights.

    Raises:
        ConfigError: no config.json, or one that is not implemented; an unknown format or type.
        CheckpointError: weights that cannot be read.
    """
    config = family_from_dict(read_config(folder), str(folder / "config.json"))
    stored = _stored(folder, config)
    kind = chosen_dtype(dtype, stored, device)
    model = build.build(config)
    recipe = recipe_of(folder, config, quantize)
    packed = {} if recipe is None else quantization.plan(model, recipe, strict=quantize is not None)
    shapes = {name: tuple(one.shape) for name, one in model.named_parameters()}  # tied ones once
    family = FAMILIES[config.model_type]
    return Plan(
        config=config,
        shapes=shapes,
        form=str(kind).removeprefix("torch.") if recipe is None else recipe.form,
        dtype=kind,
        packed={f"{path}.weight": form for path, form in packed.items()},
        frames=None if config.model_type == "instructblip" else family.frames,
        card=device.type == "cuda",
    )


def recipe_of(folder: Path, config: Any, quantize: str | None) -> quantization.Recipe | None:
    """How the weights will be quantized: as the folder says, or as asked for; None for dense ones."""
    described = getattr(config, "quantization_config", None)
    if described is None:
        return None if quantize is None else quantization.Recipe(quantize)
    if quantize is not None:
        form = form_of(described, folder)
        raise ConfigError(
            f"{folder}: is quantized already ({form}), and {quantize!r} is asked for; leave the format out"
        )
    return read_recipe(described, folder)


def _stored(folder: Path, config: Any) -> torch.dtype:
    """The type of the weights in the folder; where not all of them are, what config.json says."""
    raw = config.to_dict()
    name = raw.get("dtype") or raw.get("torch_dtype")
    try:
        return files.open_weights(folder).dtype
    except CheckpointError:
        if name is None and any((folder / name).is_file() for name in files.SEARCH):
            raise
    name = name or "float32"
    return getattr(torch, str(name).removeprefix("torch."), torch.float32)


def _in_layers(name: str, shape: tuple[int, ...]) -> bool:
    """Whether it is a matrix that every position of a layer is multiplied with."""
    stacked = any(part in ("layers", "layer", "block", "blocks") for part in name.split("."))
    return stacked and len(shape) == 2 and not _looked_up(name)


def _looked_up(name: str) -> bool:
    """Whether rows are taken from it, and none of the rest is read."""
    return any(part in EMBEDDINGS for part in name.split("."))
