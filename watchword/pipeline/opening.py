"""From a folder or hub id to a `Pipeline`."""

import inspect
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from watchword.config import family_from_dict
from watchword.errors import CheckpointError, ConfigError, MissingExtra, refuse_unknown
from watchword.generation.kept import Kept
from watchword.generation.options import GenerationOptions
from watchword.generation.serving import Engine, Limits
from watchword.media.policy import OPEN, Policy
from watchword.models import build, layouts
from watchword.nn.attention import BACKENDS
from watchword.nn.flash import check_flash, import_flash
from watchword.nn.lora import BASE, check_name, set_active
from watchword.pipeline.asking import Pipeline
from watchword.pipeline.families import FAMILIES
from watchword.pipeline.placing import PLACING, checked_device, spots, stepping
from watchword.pipeline.settings import generation_settings, read_json
from watchword.weights import files, hub
from watchword.weights.adapters import Family, load_adapter, read_first
from watchword.weights.load import load_weights
from watchword.weights.packed import is_quantized, quantizing
from watchword.weights.quantize import Recipe

logger = logging.getLogger(__name__)

EMBEDDED = Path(__file__).parents[1] / "demo" / "video-llava"
"""The checkpoint that comes with the library. It knows moving shapes only."""

HUB_ARGUMENTS = ("revision", "token", "local_files_only")

CACHE_BYTES = 2 * 1024**3
"""What is kept between requests: one clip of 8 frames takes 1.1 GB with a model of 7 billion in bfloat16."""


def load(
    folder_or_id: str | os.PathLike | None = None,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    quantize: str | None = None,
    pack: bool = True,
    attn_implementation: str = "blocked",
    progress: Callable[[int, int], None] | None = None,
    cache_bytes: int = CACHE_BYTES,
    limits: Limits | None = None,
    adapter: str | os.PathLike | Mapping[str, str | os.PathLike] | None = None,
    policy: Policy = OPEN,
    sandbox: bool = False,
    **more: Any,
) -> Pipeline:
    """Open a checkpoint, ready to be asked.

    Args:
        folder_or_id: a checkpoint folder, a hub id such as "LanguageBind/Video-LLaVA-7B-hf", or None for the
            tiny model that comes with the library and knows moving shapes only.
        device: "auto" takes cuda, else mps, else cpu.
        dtype: "auto" takes the type the files are stored in (float16 becomes bfloat16 on a CPU); else a torch
            dtype or its name.
        quantize: "int8", "int4" or "nf4" keeps most weights in so many bits; see docs/quantization.md.
        pack: False leaves weights of 8 bits as the files hold them, for a process with a question or two: a
            folder of them opens in seconds. Packed ones are mostly faster with several rows, from beams to
            long prompts; weights of other formats are always packed. See docs/quantization.md.
        attn_implementation: "blocked" (fused, or in blocks where that is faster: bfloat16 on a CPU), "sdpa",
            "eager" or "flash_attention_2".
        progress: called with (values read, values in all) while weights are read.
        cache_bytes: how much of earlier requests is kept for later ones, on the model's device; 0 keeps
            nothing. What was not used for longest goes first.
        limits: how many requests are taken on together, and how large; `Limits()` when None.
        adapter: the folder or hub id of a LoRA adapter in the PEFT format, which then answers; or several by
            name, of which each request takes one: `ask(..., adapter="name")`.
        policy: which pictures and videos may be opened, and what they may cost; see `media.Policy`.
        sandbox: read pictures and videos in a limited child process, whatever the policy says.
        **more: `revision`, `token`, `local_files_only` for the hub, see `weights.hub.fetch`.
            `device_map`: several devices for one model: "auto" spreads it over the cards, then the host, then
            the disk, if one card does not hold it; or a mapping from parts to devices; `max_memory` and
            `offload_folder` belong to it. See `models.mapped.homes`.
            `parallel`: "tensor" splits the text model among the ranks of `torchrun`; every rank makes the
            same calls and gets the same answers. See `models.parallel`.
            `compile`: True compiles steps and records them as CUDA graphs, "graph" records them as they are.
            See `generation.graphs`.

    Raises:
        CheckpointError: files missing or not fitting.
        ConfigError: a model, a type or a device that is not implemented or not there.
        MissingExtra: something optional that is not installed; the message names it.
        UnknownArgument: a name that nothing understands.

    Example:
        >>> model = load()  # doctest: +SKIP
        >>> model.ask("clip.mp4", "What happens?").text  # doctest: +SKIP
    """
    refuse_unknown("load", more, [*HUB_ARGUMENTS, *PLACING, *inspect.signature(load).parameters])
    folder = EMBEDDED
    if folder_or_id is not None:
        folder = hub.fetch(folder_or_id, **{name: more[name] for name in HUB_ARGUMENTS if name in more})
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder}: the embedded model is missing from this installation; install watchword again, or "
            "name a checkpoint such as LanguageBind/Video-LLaVA-7B-hf"
        )
    check_backend(attn_implementation)
    kept = Kept(cache_bytes)
    where = checked_device(device, more, adapter=adapter, quantize=quantize)
    config = family_from_dict(read_config(folder), str(folder / "config.json"))
    family = FAMILIES[config.model_type]
    words, specs = family.words(folder), family.specs(folder)  # small files first: what is wrong shows early
    settings = generation_settings(folder, config, own_file=family.own_settings)
    settings = _with_end(settings, words.text.eos_token_id)
    GenerationOptions.from_dict(settings)  # says now what no question could be answered with
    adapters = adapter_folders(adapter, {name: more[name] for name in HUB_ARGUMENTS[1:] if name in more})
    source = files.open_weights(folder)
    model = build.build(config, backend=attn_implementation)
    kind = chosen_dtype(dtype, source.dtype, where)
    if attn_implementation == "flash_attention_2":
        check_flash(kind)
    steps = stepping(model.language_model, where, more)
    asked = None if quantize is None else Recipe(quantize)
    home = spots(model, where, more, kind, quantized=is_quantized(config, asked))
    spelled = layouts.of(model)
    home, source = quantizing(model, source, asked, home, spelled["layouts"], kind, pack=pack)
    load_weights(
        model, source, dtype=kind, place=home.place, progress=progress,
        as_stored=getattr(home, "as_stored", None), by_row=getattr(home, "by_row", None), **spelled,
    )  # fmt: skip
    home.settle(model)
    with_adapters(model, adapters)
    model, where = model.eval(), home.device
    return Pipeline(
        model=model,
        family=family,
        words=words,
        specs=specs,
        settings=settings,
        name="the embedded model" if folder == EMBEDDED else os.fspath(folder_or_id),
        embedded=folder == EMBEDDED,
        device=where,
        dtype=kind,
        engine=Engine(steps, limits=limits or Limits(), kept=kept_by(home, kept), dtype=kind, device=where),
        cache=kept,
        policy=policy.boxed(sandbox),
    )


def kept_by(home: object, kept: Kept) -> Kept | None:
    """Where the engine keeps blocks of keys and values: nowhere if layers are on several cards, for a block
    is one tensor. Visual tokens are kept all the same."""
    return None if getattr(home, "spread", False) else kept


def adapter_folders(
    asked: str | os.PathLike | Mapping[str, str | os.PathLike] | None, hub_arguments: Mapping[str, Any]
) -> dict[str, Path]:
    """The folders of adapters by name; a single one is called "default"."""
    named = {} if asked is None else asked if isinstance(asked, Mapping) else {"default": asked}
    for name in named:
        check_name(name)
    return {name: read_first(place, **hub_arguments) for name, place in named.items()}


def with_adapters(model: nn.Module, folders: Mapping[str, Path]) -> None:
    """Load adapters; a single one without a name of its own answers unless told otherwise."""
    for name, folder in folders.items():
        load_adapter(model, folder, Family(**layouts.for_adapters(model)), name=name)
    set_active(model, "default" if list(folders) == ["default"] else BASE)


def read_config(folder: Path) -> dict:
    """The parsed config.json of a folder."""
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder}: no config.json; expected a checkpoint folder; download it again")
    return read_json(folder / "config.json")


def check_backend(name: str) -> None:
    """Refuse attention that is unknown or can not run here."""
    if name not in BACKENDS:
        raise ConfigError(f"attn_implementation {name!r}: unknown; use one of {', '.join(BACKENDS)}")
    if name == "flash_attention_2":
        import_flash()
        if not torch.cuda.is_available():
            raise MissingExtra(
                "attn_implementation 'flash_attention_2': needs an NVIDIA GPU, found none; use 'sdpa'"
            )


def chosen_dtype(asked: str | torch.dtype, stored: torch.dtype, device: torch.device) -> torch.dtype:
    """The type asked for, or the stored one; on a CPU bfloat16 takes the place of float16, which is slow."""
    if asked == "auto":
        return torch.bfloat16 if stored == torch.float16 and device.type == "cpu" else stored
    found = asked if isinstance(asked, torch.dtype) else getattr(torch, asked.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ConfigError(
            f"dtype {asked!r}: not a floating type; use 'auto', 'float32', 'bfloat16' or 'float16'"
        )
    return found


def _with_end(settings: dict, eos: int | None) -> dict:
    """The tokenizer's end token ends answers too: old Vicuna folders name another one in their config."""
    said = settings.get("eos_token_id")
    ends = [] if said is None else [said] if isinstance(said, int) else list(said)
    return settings | {"eos_token_id": ends if eos is None or eos in ends else [*ends, eos]}
