"""A checkpoint and its adapter become one checkpoint."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from watchword.config import family_from_dict
from watchword.errors import RequestError
from watchword.models import build, layouts
from watchword.pipeline.opening import EMBEDDED, read_config
from watchword.weights import files, hub
from watchword.weights.adapters import Family, fold_adapter, load_adapter, read_first
from watchword.weights.load import load_weights
from watchword.weights.packed import refuse_quantized

KEPT = (*hub.SETTINGS, "LICENSE*")
"""What is copied of the old folder; its weights are written anew."""


def merge(
    model: str | os.PathLike,
    adapter: str | os.PathLike,
    out: str | os.PathLike,
    *,
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
        progress: called with (values read, values in all) while weights are read.
        **hub_arguments: `token`, `local_files_only`, see `weights.hub.fetch`.

    Raises:
        RequestError: the folder is there already, or the one it should be in is not.
        CheckpointError: files missing or not fitting.
        ConfigError: weights that are quantized, or options of the adapter that are not implemented.
    """
    out = Path(out)
    if out.exists() or not out.absolute().parent.is_dir():
        found = "is there already" if out.exists() else f"{out.absolute().parent} is no folder"
        raise RequestError(f"{out}: {found}; expected the name of a new folder; choose another")
    place = read_first(adapter, **hub_arguments)
    embedded = os.fspath(model) == "embedded" and not Path(model).exists()
    source = EMBEDDED if embedded else hub.fetch(model, **hub_arguments)
    config = family_from_dict(read_config(source), str(source / "config.json"))
    refuse_quantized(config, f"{source}: merge")
    whole = build.build(config)
    load_weights(whole, files.open_weights(source), progress=progress, **layouts.of(whole))
    load_adapter(whole, place, Family(**layouts.for_adapters(whole)))
    fold_adapter(whole)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.absolute().parent))
    try:
        copy_settings(source, partial)
        files.save(layouts.for_disk(whole, whole.state_dict()), partial)
        partial.chmod(source.stat().st_mode)  # mkdtemp makes it private
        os.rename(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return out


def copy_settings(source: Path, target: Path) -> None:
    """Configs, tokenizers and processors of a folder, but not what describes its weights."""
    for pattern in KEPT:
        for path in sorted(source.glob(pattern)):
            if path.is_file() and not path.name.endswith(".index.json"):
                there = target / path.relative_to(source)
                there.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, there)
