"""A checkpoint and its adapter become one checkpoint."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from watchword.config import family_from_dict
from watchword.models import build, layouts
from watchword.pipeline.folders import beside, new_name, rewritten
from watchword.pipeline.opening import EMBEDDED, read_config
from watchword.pipeline.quantizing import quantize as quantized
from watchword.weights import files, hub
from watchword.weights.adapters import Family, fold_adapter, load_adapter, read_first
from watchword.weights.load import load_weights
from watchword.weights.packed import refuse_quantized
from watchword.weights.quantize import Recipe


def merge(
    model: str | os.PathLike,
    adapter: str | os.PathLike,
    out: str | os.PathLike,
    *,
    quantize: Recipe | None = None,
    progress: Callable[[int, int], None] | None = None,
    **hub_arguments: Any,
) -> Path:
    """Write a checkpoint folder whose weights are those of a model with an adapter added.

    It answers as the model with the adapter does, up to the rounding of the weights to the type they are
    stored in. The folder is there when it is complete, and not before. Memory: the whole model, once.

    Args:
        model: a checkpoint folder or hub id, or "embedded" for the tiny model that comes with the library.
        adapter: the folder or hub id of a LoRA adapter in the PEFT format.
        out: the folder to write; there must be none of that name yet.
        quantize: store the sum in few bits, see `pipeline.quantizing`; on the way it takes the disk space of
            the dense one too.
        progress: called with (values read, values in all) while weights are read.
        **hub_arguments: `token`, `local_files_only`, see `weights.hub.fetch`.

    Raises:
        RequestError: the folder is there already, or the one it should be in is not.
        CheckpointError: files missing or not fitting.
        ConfigError: weights that are quantized, options of the adapter that are not implemented, or a recipe
            that does not fit the model.
    """
    out = new_name(out)
    place = read_first(adapter, **hub_arguments)
    embedded = os.fspath(model) == "embedded" and not Path(model).exists()
    source = EMBEDDED if embedded else hub.fetch(model, **hub_arguments)
    config = family_from_dict(read_config(source), str(source / "config.json"))
    refuse_quantized(config, f"{source}: merge")
    if quantize is not None:
        with beside(out) as room:
            quantized(merge(source, place, room / "dense", progress=progress), out, quantize)
        return out
    whole = build.build(config)
    load_weights(whole, files.open_weights(source), progress=progress, **layouts.of(whole))
    load_adapter(whole, place, Family(**layouts.for_adapters(whole)))
    fold_adapter(whole)
    with rewritten(source, out) as folder:
        files.save(layouts.for_disk(whole, whole.state_dict()), folder)
    return out
