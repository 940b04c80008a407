"""LoRA adapters as files, in the PEFT format: adapter_config.json and adapter_model.safetensors (or .bin).

The files call modules as the reference's classes do. `models.layouts.for_adapters` says how these names are
spelled here, and the first of its spellings is the one that is written.
"""

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save
from torch import nn

from watchword.errors import CheckpointError, ConfigError, RequestError
from watchword.nn import lora
from watchword.shapes import Tensor
from watchword.weights import hub, names, peft
from watchword.weights.files import Shard
from watchword.weights.load import listed

logger = logging.getLogger(__name__)

FILES = ("adapter_model.safetensors", "adapter_model.bin")
"""In this order; the first that exists is read."""

BESIDE = "non_lora_trainables.bin"
"""What the original training scripts of LLaVA models write beside an adapter: other weights that learned."""

KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<part>[AB])\.weight")
KEPT = re.compile(r"base_model\.model\.(?P<module>.+)\.base_layer\.weight")


@dataclass(frozen=True)
class Family:
    """What the files need to know of a model.

    Attributes:
        spellings: rules from the reference's names to ours; the first is written.
        made_for: the reference's class, and the module that it is in.
    """

    spellings: Mapping[str, names.Rules]
    made_for: tuple[str, str]


def save_adapter(
    model: nn.Module, folder: str | os.PathLike, family: Family, *, name: str = "default", base: str = ""
) -> list[Path]:
    """Write an adapter of a model; returns the files written.

    Args:
        model: as `nn.lora.add_adapter` left it.
        folder: made if it is not there.
        family: of this model, see `models.layouts.for_adapters`.
        name: which of its adapters.
        base: the checkpoint that it belongs to; PEFT's `AutoPeftModel` loads that.

    Raises:
        RequestError: the model has no adapter of that name.
    """
    lora.check_known(model, name)
    found = {path: one.adapters[name] for path, one in lora.adapted(model).items() if name in one.adapters}
    if not found:
        raise RequestError(f"adapter {name!r}: has nothing to save; name one that was added or loaded")
    rules = next(iter(family.spellings.values()))
    theirs = {path: respelled(path, rules) for path in _modules(model)}
    tensors = {
        f"base_model.model.{theirs[path]}.lora_{part}.weight": getattr(one, part).detach().cpu().contiguous()
        for path, one in found.items()
        for part in "AB"
    }
    one = next(iter(found.values()))
    config = peft.written(
        {str(theirs[path]): (each.rank, each.alpha) for path, each in found.items()},
        _targets({str(theirs[path]) for path in found}, {each for each in theirs.values() if each}),
        dropout=one.dropout,
        rslora=one.rslora,
        base=base,
        made_for=family.made_for,
    )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        FILES[0]: save(tensors, metadata={"format": "pt"}),
        peft.FILE: (json.dumps(config, indent=2) + "\n").encode(),
    }
    _replace(folder, contents)
    return [folder / name for name in contents]


def load_adapter(
    model: nn.Module,
    folder: str | os.PathLike,
    family: Family,
    *,
    name: str = "default",
    learns: bool = False,
) -> peft.LoraConfig:
    """Give a model the adapter of a folder, and make it the active one.

    The model changes only when everything was read and fits. A and B are float32.

    Args:
        family: of this model, see `models.layouts.for_adapters`.
        name: what it is called here.
        learns: train it further; see `nn.lora.add_adapter`.

    Raises:
        CheckpointError: files missing or damaged, made for another model, or with tensors that do not fit.
        ConfigError: an option that is not implemented.
        RequestError: a name that is taken or cannot be one.
    """
    folder = hub.fetch(folder)  # as it is, if it is there
    config = peft.read(folder)
    if (folder / BESIDE).exists():
        raise CheckpointError(
            f"{folder}: {BESIDE} holds more weights that learned, and only A and B of a LoRA can be added; "
            "merge both into the model with the scripts that trained them"
        )
    shard = _open(folder)
    keys = _keys(shard)
    ours = _places(model, shard, keys, config, family)
    _prove(model, shard, keys, ours, config)
    _prove_bases(model, shard, ours)
    values = {
        (path, part): shard.read(key) for path, theirs in ours.items() for part, key in keys[theirs].items()
    }
    broken = list(dict.fromkeys(ours[path] for (path, _), one in values.items() if not one.isfinite().all()))
    if broken:
        raise CheckpointError(
            f"{shard.path}: {listed(broken)} holds values that are no finite numbers; expected an adapter "
            "that learned; train it again at a lower rate"
        )
    ranks = {path: config.rank_of(theirs) for path, theirs in ours.items()}
    alphas = {path: config.alpha_of(theirs) for path, theirs in ours.items()}
    lora.add_adapter(
        model, list(ours), config.rank, alpha=config.alpha, dropout=config.dropout, rslora=config.rslora,
        name=name, ranks=ranks, alphas=alphas, learns=learns,
    )  # fmt: skip
    here = lora.adapted(model)
    with torch.no_grad():
        for (path, part), value in values.items():
            getattr(here[path].adapters[name], part).copy_(value)
    base = config.base or "not named"
    logger.info("%s: adapter %r for %d linears; trained on: %s", folder, name, len(ours), base)
    return config


def read_first(folder_or_id: str | os.PathLike, **hub_options: Any) -> Path:
    """The folder of an adapter, after a look at its config: what is wrong with it shows before a large model
    is read."""
    folder = hub.fetch(folder_or_id, patterns=(peft.FILE, *FILES, BESIDE), **hub_options)
    peft.read(folder)
    return folder


def respelled(path: str, rules: names.Rules) -> str | None:
    """The reference's name of a module; None where a spelling has none."""
    try:
        (found,) = names.respell({f"{path}.weight": torch.empty(0)}, rules)
    except CheckpointError:
        return None
    return found.removesuffix(".weight")


def _modules(model: nn.Module) -> list[str]:
    """All modules by the names they have without adapters."""
    taken = tuple(f"{path}." for path in lora.adapted(model))
    return [path for path, _ in model.named_modules() if path and not path.startswith(taken)]


def _targets(chosen: set[str], everything: set[str]) -> list[str]:
    """The last parts of the names where they mean exactly these modules, else whole names."""
    ends = {path.rpartition(".")[2] for path in chosen}
    meant = {path for path in everything if path.rpartition(".")[2] in ends}
    return sorted(ends if meant == chosen else chosen)


def _replace(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Files appear under their names only when all are written."""
    partial = {name: folder / f".{name}.partial" for name in contents}
    try:
        for name, data in contents.items():
            partial[name].write_bytes(data)
        for name in contents:
            os.replace(partial[name], folder / name)
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)


def _open(folder: Path) -> Shard:
    found = [name for name in FILES if (folder / name).is_file()]
    if not found:
        raise CheckpointError(
            f"{folder}: no weights; expected {' or '.join(FILES)} beside {peft.FILE}; get it again"
        )
    return Shard(folder / found[0])


def _keys(shard: Shard) -> dict[str, dict[str, str]]:
    """Module → "A" and "B" → name in the file."""
    found: dict[str, dict[str, str]] = {}
    strange = []
    for key in shard.names:
        match = KEY.fullmatch(key)
        if match is None:
            strange += [] if KEPT.fullmatch(key) else [key]
        else:
            found.setdefault(match["module"], {})[match["part"]] = key
    strange += [next(iter(parts.values())) for parts in found.values() if len(parts) < 2]
    if strange or not found:
        raise CheckpointError(
            f"{shard.path}: {listed(strange) or 'no tensors'}; expected pairs of "
            "base_model.model.….lora_A.weight and ….lora_B.weight; what else an adapter may hold is not "
            "implemented: merge it into its model with PEFT"
        )
    return found


def _places(
    model: nn.Module, shard: Shard, keys: Mapping[str, Any], config: peft.LoraConfig, family: Family
) -> dict[str, str]:
    """Our name → the file's name of every module in it, which are those that the config means."""
    linears = {path for path in _modules(model) if lora.is_linear(model.get_submodule(path))}
    tables = [{theirs: path for path in linears if (theirs := respelled(path, rules))}
              for rules in family.spellings.values()]  # fmt: skip
    table = max(tables, key=lambda one: len(keys.keys() & one.keys()))
    if unknown := [module for module in keys if module not in table]:
        hint = f"; its config says that it was made for {config.made_for}" if config.made_for else ""
        raise CheckpointError(
            f"{shard.path}: {len(unknown)} of {len(keys)} modules are no linears of {family.made_for[0]}: "
            f"{listed(unknown)}{hint}; load it with the model it was trained on"
        )
    absent = [theirs for theirs in table if config.means(theirs) and theirs not in keys]
    extra = [module for module in keys if not config.means(module)]
    if absent or extra:
        raise CheckpointError(
            f"{shard.path}: {peft.FILE} does not describe it; {len(absent)} modules are missing: "
            f"{listed(sorted(absent)) or 'none'}; {len(extra)} are not among its target_modules: "
            f"{listed(extra) or 'none'}; check that both files belong together and to this model"
        )
    return {table[module]: module for module in keys}


def _prove(
    model: nn.Module,
    shard: Shard,
    keys: Mapping[str, Mapping[str, str]],
    ours: Mapping[str, str],
    config: peft.LoraConfig,
) -> None:
    """Every tensor has the shape that config and model give it."""
    wrong = []
    for path, theirs in ours.items():
        linear, rank = model.get_submodule(path), config.rank_of(theirs)
        linear = linear.base if isinstance(linear, lora.LoraLinear) else linear
        shapes = {"A": (rank, linear.in_features), "B": (linear.out_features, rank)}
        for part, key in keys[theirs].items():
            entry = shard.entry(key)
            if entry.shape != shapes[part] or not entry.dtype.is_floating_point:
                wrong.append(f"{theirs}.lora_{part} is {entry.shape} and should be {shapes[part]}")
    if wrong:
        raise CheckpointError(
            f"{shard.path}: {len(wrong)} tensors do not fit the model and {peft.FILE}: {listed(wrong)}; load "
            "it with the model it was trained on"
        )


def _prove_bases(model: nn.Module, shard: Shard, ours: Mapping[str, str]) -> None:
    """PEFT writes the weight of a head that has a difference beside it, too: it has to be the model's own."""
    paths = {theirs: path for path, theirs in ours.items()}
    for key in shard.names:
        if (match := KEPT.fullmatch(key)) is None:
            continue
        linear = model.get_submodule(paths[match["module"]]) if match["module"] in paths else None
        base = linear.base if isinstance(linear, lora.LoraLinear) else linear
        own = base.weight if isinstance(base, nn.Linear) else None
        found = shard.read(key)
        if own is None or found.shape != own.shape or not torch.equal(found.to(own), own):
            raise CheckpointError(
                f"{shard.path}: {key} is not the weight that the model has there, and only differences can "
                "be added; load it with the model it was trained on, or merge it into its model with PEFT"
            )


def values_of(model: nn.Module, name: str) -> dict[str, Tensor]:
    """A and B of an adapter by our names; for comparing."""
    return {
        f"{path}.{part}": getattr(one.adapters[name], part).detach()
        for path, one in lora.adapted(model).items()
        if name in one.adapters
        for part in "AB"
    }


@torch.no_grad()
def fold_adapter(model: nn.Module, name: str = "default") -> None:
    """Add an adapter to the weights of its linears, and take all adapters away.

    The sum is made in float32 and rounded to the type of the weights.

    Raises:
        RequestError: the model has no adapter of that name.
        ConfigError: a linear that is quantized, or one whose weight others use too.
    """
    lora.check_known(model, name)
    here = {path: one for path, one in lora.adapted(model).items() if name in one.adapters}
    uses = Counter(id(one) for _, one in model.named_parameters(remove_duplicate=False))
    for path, linear in here.items():
        if not isinstance(linear.base, nn.Linear):
            raise ConfigError(
                f"{path}: is a {type(linear.base).__name__}, and an adapter can be added to dense weights "
                "only; merge it into the checkpoint before it was quantized, then quantize that"
            )
        if uses[id(linear.base.weight)] > 1:
            raise ConfigError(
                f"{path}: shares its weight with another part of the model, which the adapter does not mean; "
                "keep the adapter apart: load(..., adapter=...)"
            )
    for linear in here.values():
        weight = cast(Tensor, linear.base.weight)
        summed = (weight.float() + linear.adapters[name].delta()).to(weight.dtype)
        linear.base.weight = nn.Parameter(summed, requires_grad=weight.requires_grad)
    for other in lora.adapter_names(model):
        lora.remove_adapter(model, other)
