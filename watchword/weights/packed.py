"""Folders whose weights are quantized already: ours, and those that bitsandbytes made.

In ours a linear `x` has the tensors of its class in `nn`: x.weight, and x.scale or x.absmax. The files of
bitsandbytes are shown under the same names.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn

from watchword.errors import CheckpointError, ConfigError
from watchword.nn.blockwise import BLOCK, CODES, BlockLinear
from watchword.nn.fourbit import Int4Linear
from watchword.nn.memory import memory
from watchword.nn.quantized import Int8Linear
from watchword.shapes import Tensor
from watchword.weights import names, sizes
from watchword.weights.files import Entry, Shard, WeightFiles
from watchword.weights.load import choose_layout, listed
from watchword.weights.quantize import OURS, VERSION, QuantizedLinear, Quantizing, Recipe

BNB = "bitsandbytes"
STATE = "weight.quant_state.bitsandbytes__"
"""What such a folder says of a weight of 4 bits: JSON in a tensor of bytes; behind it stands the format."""

EXTRA = (
    "weight.absmax",
    "weight.quant_map",
    "weight.nested_absmax",
    "weight.nested_quant_map",
    "SCB",
    "weight_format",
)


def quantizing(
    model: nn.Module,
    files: WeightFiles,
    recipe: Recipe | None,
    placing: Any,
    layouts: Mapping[str, names.Rules],
    dtype: torch.dtype,
    *,
    pack: bool = True,
) -> tuple[Any, Any]:
    """Where tensors are placed and the files they come from, for a folder that is dense or quantized.

    Args:
        model: a family on the meta device; its linears become quantized ones where the files say so.
        recipe: what the caller asks for; None for the folder as it is.
        placing: where everything goes.
        layouts: spellings that the files may use.
        dtype: type of what stays dense.
        pack: False leaves weights of 8 bits as they are; those of 4 have no product that reads them so.

    Raises:
        ConfigError: a quantized folder that is to be quantized; one of a format that is not implemented.
        CheckpointError: files that are not what the folder's config says.
        CapacityError: weights that are not mapped need more memory than there is.
    """
    shapes = {name: tuple(one.shape) for name, one in model.named_parameters()}
    described = getattr(model.config, "quantization_config", None)
    unpacked = () if pack else ("int8",)
    if described is None:
        if recipe is None:
            if len(getattr(placing, "parts", "")) == 1 and (
                placing.device.type == "cuda" or dtype != files.dtype
            ):  # else they are mapped, or spread by what there is
                check_room(shapes, dtype, {}, placing.device, files.folder)
            return placing, files
        place = Quantizing(model, recipe, placing, unpacked=unpacked)
        check_room(shapes, dtype, place.plan, placing.device, files.folder)
        return place, files
    if recipe is not None:
        raise ConfigError(
            f"{files.folder}: is quantized already ({form_of(described, files.folder)}), and "
            f"{recipe.form!r} is asked for; expected a dense checkpoint; leave the format out, or quantize "
            "the original"
        )
    recipe = read_recipe(described, files.folder)
    check_files(files, described.get("files"))
    shown = BnbFiles(files) if described.get("quant_method") == BNB else files
    stored = stored_linears(model, shown, recipe, layouts)
    check_room(shapes, dtype, {path: one.form for path, one in stored.items()}, placing.device, files.folder)
    return Quantizing(model, recipe, placing, stored=stored, unpacked=unpacked), shown


def is_quantized(config: Any, recipe: Recipe | None) -> bool:
    """Whether weights will be in few bits, by the folder or as asked for."""
    return recipe is not None or getattr(config, "quantization_config", None) is not None


def check_room(
    shapes: sizes.Shapes, dtype: torch.dtype, plan: Mapping[str, str], device: torch.device, folder: Path
) -> None:
    """Refuse weights that do not fit into memory, before the first is read.

    Raises:
        CapacityError: they do not.
    """
    packed = {f"{path}.weight": form for path, form in plan.items()}
    weights = sizes.weight_bytes(shapes, dtype, packed, card=device.type == "cuda")
    sizes.check_fits(sizes.Need(weights, 0, 0, 0, process=0), memory(device), str(folder))


def form_of(described: Mapping[str, Any], folder: Path) -> str:
    """The format that a `quantization_config` names."""
    method = described.get("quant_method", BNB if "load_in_4bit" in described else None)
    if method == OURS and described.get("version") == VERSION:
        return str(described.get("format"))
    if method == BNB:
        return str(described.get("bnb_4bit_quant_type", "fp4")) if described.get("load_in_4bit") else "int8"
    known = f"{OURS} (version {VERSION}) or {BNB}"
    raise ConfigError(
        f"{folder}: config.json: quantization_config by {method!r}, version {described.get('version')}; "
        f"implemented is {known}; use the dense checkpoint"
    )


def read_recipe(described: Mapping[str, Any], folder: Path) -> Recipe:
    """What a `quantization_config` in config.json says."""
    form = form_of(described, folder)
    ours = described.get("quant_method") == OURS
    skip = described.get("skip" if ours else "llm_int8_skip_modules") or []
    if not isinstance(skip, list) or not all(isinstance(name, str) for name in skip):
        raise ConfigError(f"{folder}: config.json: modules to skip are {skip!r}; expected a list of names")
    if not ours:  # transformers counts names from the model inside its class
        return Recipe(form, skip=tuple(name.removeprefix("model.") for name in skip))
    group, double = described.get("group_size"), bool(described.get("double_quant"))
    recipe = Recipe(form, group=group, double=double, skip=tuple(skip))
    if described.get("recipe_sha256") not in (None, recipe_digest(recipe)):
        raise CheckpointError(
            f"{folder}: config.json: quantization_config was changed ({form}, group_size {group}); "
            "expected what `watchword quantize` wrote; write it again"
        )
    return recipe


def recipe_digest(recipe: Recipe) -> str:
    """SHA-256 of what config.json says of a recipe: an edited format would be another meaning of the bits."""
    return hashlib.sha256(json.dumps(recipe.described(), sort_keys=True).encode()).hexdigest()


def stored_linears(
    model: nn.Module, files: Any, recipe: Recipe, layouts: Mapping[str, names.Rules]
) -> dict[str, QuantizedLinear]:
    """The linears that the files hold quantized, by their names in the model, without values.

    Raises:
        CheckpointError: a scale without a linear, or of a shape that no format has; no quantized linear.
    """
    _, spelling = choose_layout(list(files.entries), model.state_dict(), layouts, files)
    found: dict[str, QuantizedLinear] = {}
    wrong = []
    for name, parts in spelling.sources.items():
        path, _, leaf = name.rpartition(".")
        dense = _linear(model, path) if leaf in ("scale", "absmax") else None
        if leaf not in ("scale", "absmax") or len(parts) != 1 or parts[0] is None:
            continue
        if dense is None:
            wrong.append(name)
            continue
        shape, inner, outer = files.entries[parts[0]].shape, dense.in_features, dense.out_features
        with torch.device("meta"):
            if (leaf == "absmax") != (recipe.form in CODES):
                wrong.append(name)
            elif leaf == "absmax":
                found[path] = BlockLinear(
                    inner, outer, form=recipe.form, block=_block(files, name), bias=False
                )
            elif len(shape) == 1:
                found[path] = Int8Linear(inner, outer, bias=False)
            elif recipe.form == "int4" and len(shape) == 2 and shape[1] and inner % shape[1] == 0:
                found[path] = Int4Linear(inner, outer, group=inner // shape[1], bias=False)
            else:
                wrong.append(name)
        weight = spelling.sources.get(f"{path}.weight", (None,))[0]
        kind = torch.int8 if isinstance(found.get(path), Int8Linear) else torch.uint8
        if path in found and weight is not None and files.entries[weight].dtype != kind:
            wrong.append(f"{path}.weight")
    if wrong or not found:
        what = f"these do not fit: {listed(wrong)}" if wrong else "no tensor is"
        raise CheckpointError(
            f"{files.folder}: config.json says quantized ({recipe.form}), but {what}; expected linears with "
            "packed weights and scales of that format; check that config and weights belong together"
        )
    return found


def _linear(model: nn.Module, path: str) -> nn.Linear | None:
    try:
        found = model.get_submodule(path)
    except AttributeError:
        return None
    return found if isinstance(found, nn.Linear) else None


def _block(files: Any, name: str) -> int:
    return files.blocks.get(name, BLOCK) if isinstance(files, BnbFiles) else BLOCK


def digests(folder: Path, files: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of each file."""

    def one(name: str) -> dict[str, Any]:
        with (folder / name).open("rb") as file:
            return {
                "bytes": (folder / name).stat().st_size,
                "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
            }

    with ThreadPoolExecutor() as pool:
        return dict(zip(files, pool.map(one, files), strict=True))


def check_files(files: WeightFiles, said: object) -> None:
    """The weight files are those that config.json names, byte by byte.

    Raises:
        CheckpointError: they are not.
    """
    if said is None:
        return
    if not isinstance(said, Mapping):
        raise CheckpointError(
            f"{files.folder}: config.json: quantization_config: files is {said!r}; expected size and SHA-256 "
            "by name; write it again with `watchword quantize`"
        )
    found = digests(files.folder, files.files)
    wrong = [name for name in {**said, **found} if found.get(name) != said.get(name)]
    if wrong:
        raise CheckpointError(
            f"{files.folder}: {listed(wrong)}: not the weights that config.json describes: missing, or of "
            "another size or SHA-256; the folder is damaged or was changed; write it again with "
            "`watchword quantize`"
        )


class BnbFiles(WeightFiles):
    """Weight files of bitsandbytes, under our names: x.weight, and x.absmax (4 bits) or x.scale (8 bits).

    Raises:
        ConfigError: a block size, code book or layout that is not implemented.
    """

    def __init__(self, files: WeightFiles) -> None:
        self.folder, self.files, self.inner = files.folder, files.files, files  # nothing is opened twice
        self.blocks: dict[str, int] = {}
        self.small: dict[str, Tensor] = {}
        for shard in files.shards():
            kept = [name for name in shard.names if name.endswith(EXTRA) or STATE in name]
            self.small |= {name: shard.read(name) for name in kept}
            del shard
        self.made = self._scales()
        self.entries = {name: one for name, one in files.entries.items() if name not in self.small}
        for name, tensor in self.made.items():
            self.entries[name] = Entry(tuple(tensor.shape), tensor.dtype, files.files[0])

    def shards(self) -> Iterator[Shard]:
        """The files, and the scales with the first of them."""
        for index, shard in enumerate(self.inner.shards()):
            yield BnbShard(shard, self.small, self.made if index == 0 else {})

    def _scales(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, tensor in self.small.items():
            if STATE in name:
                path, _, form = name.partition(STATE)
                try:
                    found[f"{path}absmax"] = self._absmax(path, form, json.loads(bytes(tensor.tolist())))
                except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
                    if isinstance(error, ConfigError):
                        raise
                    raise CheckpointError(
                        f"{self.folder}: {path}weight: {type(error).__name__} ({error}) in what bitsandbytes "
                        "says of its scales; expected its state, its scales and their maps; get the folder "
                        "again"
                    ) from error
            elif name.endswith("SCB"):
                found[f"{name.removesuffix('SCB')}scale"] = tensor.float() / 127
            elif name.endswith("weight_format") and int(tensor) != 0:
                raise ConfigError(f"{self.folder}: {name} is {int(tensor)}; implemented is 0, row after row")
        return found

    def _absmax(self, path: str, form: str, state: Mapping[str, Any]) -> Tensor:
        """The scales of blocks, unpacked where they are in 8 bits themselves."""
        book = self.small.get(f"{path}weight.quant_map")
        if (
            form not in CODES
            or book is None
            or not torch.allclose(book, torch.tensor(CODES[form]), atol=1e-6)
        ):
            raise ConfigError(
                f"{self.folder}: {path}weight: code book {form!r} or its values are not those of "
                f"{', '.join(CODES)}; quantize the dense checkpoint"
            )
        self.blocks[f"{path}absmax"] = int(state["blocksize"])
        absmax = self.small[f"{path}weight.absmax"]
        if "nested_blocksize" not in state:
            return absmax.float()
        wide = self.small[f"{path}weight.nested_quant_map"][absmax.int()]
        scale = self.small[f"{path}weight.nested_absmax"].repeat_interleave(int(state["nested_blocksize"]))
        return wide * scale[: len(wide)] + state["nested_offset"]


class BnbShard(Shard):
    """One of its files."""

    def __init__(self, shard: Shard, hidden: Mapping[str, Tensor], made: Mapping[str, Tensor]) -> None:
        self.shard, self.made, self.path = shard, made, shard.path
        self.names = [*made, *(name for name in shard.names if name not in hidden)]

    def read(self, name: str) -> Tensor:
        """The tensor, on the CPU."""
        return self.made[name] if name in self.made else self.shard.read(name)


def refuse_quantized(config: Any, where: str) -> None:
    """Refuse what works with dense weights alone.

    Raises:
        ConfigError: the folder is quantized.
    """
    described = getattr(config, "quantization_config", None)
    if described is not None:
        raise ConfigError(
            f"{where}: the checkpoint is quantized (by {described.get('quant_method')!r}); expected dense "
            "weights; use the checkpoint it was made from"
        )
