"""A checkpoint in fewer bits, as a folder of its own."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from watchword.config import family_from_dict
from watchword.models import build, layouts
from watchword.models.mapped import homes
from watchword.pipeline.folders import new_name, rewritten
from watchword.pipeline.opening import EMBEDDED, chosen_dtype, read_config
from watchword.weights import files, hub, packed
from watchword.weights.load import load_weights
from watchword.weights.quantize import POLICY, Quantizing, Recipe, Report


def quantize(
    source: str | os.PathLike,
    out: str | os.PathLike,
    recipe: Recipe,
    *,
    dtype: str | torch.dtype = "auto",
    progress: Callable[[int, int], None] | None = None,
    **hub_arguments: Any,
) -> Report:
    """Write a checkpoint folder with weights of few bits, which then loads by itself.

    It answers exactly as the dense checkpoint does when loaded with the same recipe. Its config.json names
    sizes and digests of the weight files; loading compares them. The folder is there when it is complete, and
    not before. Memory: the quantized model, once, and the largest of its tensors.

    Args:
        source: a dense checkpoint folder or hub id, or "embedded" for the tiny model that comes with us.
        out: the folder to write; there must be none of that name yet.
        dtype: type of what stays dense; "auto" takes that of the files, and on a CPU bfloat16 for float16.
        progress: called with (values read, values in all) while weights are read.
        **hub_arguments: `token`, `local_files_only`, see `weights.hub.fetch`.

    Raises:
        RequestError: the folder is there already, the one it should be in is not, or nothing can be written
            there.
        CheckpointError: files missing or not fitting.
        ConfigError: a checkpoint that is quantized already, or a recipe that does not fit it.
        CapacityError: the quantized model needs more memory than there is.
    """
    out = new_name(out)
    embedded = os.fspath(source) == "embedded" and not Path(source).exists()
    folder = EMBEDDED if embedded else hub.fetch(source, **hub_arguments)
    config = family_from_dict(read_config(folder), str(folder / "config.json"))
    packed.refuse_quantized(config, f"{folder}: quantize")
    model = build.build(config)
    weights = files.open_weights(folder)
    kind = chosen_dtype(dtype, weights.dtype, torch.device("cpu"))
    place = Quantizing(model, recipe, homes(model, "cpu", dtype=kind), unpacked=POLICY)
    shapes = {name: tuple(one.shape) for name, one in model.named_parameters()}
    packed.check_room(shapes, kind, place.plan, place.device, folder)
    with rewritten(folder, out) as partial:  # what cannot be written shows before the work
        load_weights(
            model, weights, dtype=kind, place=place.place, progress=progress, as_stored=place.as_stored,
            by_row=place.by_row, **layouts.of(model),
        )  # fmt: skip
        place.settle(model)
        _write(model, partial, recipe, kind)
    return replace(model.quantization, operators={})


def _write(model: torch.nn.Module, folder: Path, recipe: Recipe, kind: torch.dtype) -> None:
    """Weights, and a config that describes them."""
    state = {
        name: tensor.contiguous() for name, tensor in layouts.for_disk(model, model.state_dict()).items()
    }
    saved = files.save(state, folder, max_shard_size="1GB")  # digests are made of several files at a time
    written = [path.name for path in saved if path.suffix == ".safetensors"]
    path = folder / "config.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    raw["dtype"] = str(kind).removeprefix("torch.")
    raw.pop("torch_dtype", None)
    raw["quantization_config"] = recipe.described() | {
        "recipe_sha256": packed.recipe_digest(recipe),
        "files": packed.digests(folder, written),
    }
    path.write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
