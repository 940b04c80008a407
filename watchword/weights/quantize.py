"""Which weights are stored in few bits, and how dense ones become so while they are read, one by one."""

import copy
import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from watchword.errors import ConfigError
from watchword.nn import nibbles
from watchword.nn.blockwise import CODES, BlockLinear, block_weights
from watchword.nn.fourbit import Int4Linear, group_of, int4_weights
from watchword.nn.memory import give_back
from watchword.nn.quantized import Int8Linear, int8_weights
from watchword.shapes import Tensor

QuantizedLinear = Int8Linear | Int4Linear | BlockLinear

logger = logging.getLogger(__name__)

OURS = "watchword"
"""The `quant_method` of folders written here."""

VERSION = 1
"""Of what such folders hold."""

PARTS = {
    "vision": ("image_tower.", "video_tower.", "vision_model."),
    "qformer": ("qformer.",),
    "projector": ("multi_modal_projector.", "language_projection."),
    "head": ("language_model.lm_head",),
    "text": ("language_model.",),
}
"""Where the linears of a part are; the first that fits counts. What is no linear is never quantized:
embeddings are read by the row, which costs nothing, and norms, biases, patches and query tokens are small."""

POLICY: Mapping[str, Mapping[str, str | None]] = {
    "int8": {"vision": "int8", "qformer": None, "projector": None, "text": "int8", "head": "int8"},
    "int4": {"vision": "int8", "qformer": None, "projector": None, "text": "int4", "head": "int8"},
    "nf4": {"vision": "nf4", "qformer": "nf4", "projector": "nf4", "text": "nf4", "head": None},
    "fp4": {"vision": "fp4", "qformer": "fp4", "projector": "fp4", "text": "fp4", "head": None},
}
"""Format asked for → part → format of its linears; None stays dense.

* The tower sees hundreds of rows at a time, where the product of 8 bits is the fastest there is.
* Q-Former and projector hold 1 to 3 % of the weights, and all that is seen passes through: nothing to gain.
* nf4 and fp4 are what bitsandbytes makes of a model: all linears but the head, and T5's that stay in float32.
* A head is read once for each token, like a layer. One that is tied to the embedding stays dense with it.
"""


@dataclass(frozen=True)
class Recipe:
    """How to quantize.

    Attributes:
        form: a key of `POLICY`.
        group: for int4, how many values share a scale; None takes the first of `fourbit.WIDTHS` that divides.
        double: for nf4 and fp4, whether scales go through 8 bits themselves.
        skip: names of linears, or parts of them, that stay dense beside those of the policy.

    Raises:
        ConfigError: an unknown format, or an option that another format has.
    """

    form: str
    group: int | None = None
    double: bool = False
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.form, str) or self.form not in POLICY:
            raise ConfigError(
                f"quantize {self.form!r}: unknown format; expected one of {', '.join(POLICY)}, or None"
            )
        if self.group is not None and self.form != "int4":
            raise ConfigError(
                f"quantize {self.form!r}: group size {self.group}; only int4 has groups to choose"
            )

    def described(self) -> dict[str, Any]:
        """As config.json says it."""
        said = {"quant_method": OURS, "version": VERSION, "format": self.form, "group_size": self.group}
        return said | {"double_quant": self.double, "skip": list(self.skip)}

    def linear(self, form: str, weight: Tensor, path: str) -> QuantizedLinear:
        """A quantized linear without its bias."""
        outer, inner = weight.shape
        made = self.empty(form, inner, outer, path)
        if form == "int8":
            made.load(int8_weights(weight))
        elif form == "int4":
            made.load(int4_weights(weight, group_of(inner, self.group, path)))
        else:
            made.load(block_weights(weight, form, double=self.double))
        return made

    def empty(self, form: str, inner: int, outer: int, path: str, *, bias: bool = False) -> QuantizedLinear:
        """The same without values.

        Raises:
            ConfigError: the group size does not divide the width.
        """
        if form == "int8":
            return Int8Linear(inner, outer, bias=bias)
        if form == "int4":
            return Int4Linear(
                inner, outer, group=group_of(inner, self.group, f"quantize 'int4': {path}"), bias=bias
            )
        return BlockLinear(inner, outer, form=form, bias=bias)


@dataclass(frozen=True)
class Report:
    """What was quantized.

    Attributes:
        form: the format asked for.
        linears: how many of each format, and how many stayed dense.
        operators: format → the product in use; of several, each with how many linears use it.
        bytes_: what the quantized weights take.
    """

    form: str
    linears: Mapping[str, int]
    operators: Mapping[str, str]
    bytes_: int

    def __str__(self) -> str:
        counts = ", ".join(f"{count} linears {form}" for form, count in self.linears.items())
        used = ", ".join(f"{form} by {operator}" for form, operator in self.operators.items())
        return "; ".join(
            ["quantized: " + counts, *([used] if used else []), f"{self.bytes_ / 2**20:.0f} MiB"]
        )


def plan(model: nn.Module, recipe: Recipe, *, strict: bool = True) -> dict[str, str]:
    """Name of each linear to quantize → format.

    Args:
        model: a family, dense.
        strict: refuse names to skip that fit nothing; a folder of others may name what is not here.

    Raises:
        ConfigError: a name to skip that fits nothing; a group size that does not divide; nothing to quantize.
    """
    shared = Counter(id(tensor) for _, tensor in model.named_parameters(remove_duplicate=False))
    wide = getattr(getattr(model, "language_model", None), "keep_in_fp32", ()) if recipe.form in CODES else ()
    found, skipped = {}, set()
    for path, linear in model.named_modules():
        if not isinstance(linear, nn.Linear):
            continue
        asked = [name for name in recipe.skip if f".{name}." in f".{path}."]
        skipped |= set(asked)
        if asked or shared[id(linear.weight)] > 1 or path.rpartition(".")[2] in wide:
            continue
        part = next((part for part, starts in PARTS.items() if f"{path}.".startswith(starts)), None)
        if chosen := POLICY[recipe.form].get(part) if part else None:
            recipe.empty(chosen, linear.in_features, 0, path)  # says now what does not divide
            found[path] = chosen
    if strict and (unknown := sorted(set(recipe.skip) - skipped)):
        raise ConfigError(
            f"quantize: {', '.join(unknown)} to skip: no linear of {type(model).__name__} is so called"
        )
    if not found:
        raise ConfigError(
            f"quantize {recipe.form!r}: no linear of {type(model).__name__} is left to quantize; expected a "
            "whole model, and less to skip; leave the format out"
        )
    return found


class Quantizing:
    """Loading into quantized linears: places tensors, as `models.mapped.Homes` does.

    From dense files a linear is quantized the moment its weight was read, and the dense model never exists.
    From quantized files it is packed the moment its last tensor was read.

    Args:
        model: a family on the meta device.
        recipe: how.
        placing: where everything goes, such as `models.mapped.Homes`; one device.
        stored: linears that are quantized in the files, by name, without values; None for dense files.
        unpacked: formats whose weights stay as files hold them.

    Raises:
        ConfigError: more than one device, or one that has no product; a plan that does not fit, see `plan`.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        placing: Any,
        *,
        stored: Mapping[str, QuantizedLinear] | None = None,
        unpacked: Collection[str] = (),
    ) -> None:
        self.recipe, self.placing, self.device, self.unpacked = recipe, placing, placing.device, unpacked
        parts = getattr(placing, "parts", None)
        if parts is None or len(parts) != 1 or self.device.type not in ("cpu", "cuda"):
            several = "several ranks" if parts is None else "several devices"
            found = self.device if parts is not None and len(parts) == 1 else several
            what = f"quantize {recipe.form!r}" if stored is None else f"a folder quantized to {recipe.form}"
            way = "leave quantize out" if stored is None else "or the folder that it was made from"
            raise ConfigError(
                f"{what} on {found}: not implemented; expected one device, cpu or cuda; use one, {way}"
            )
        self.plan = plan(model, recipe) if stored is None else {}
        self.stored = dict(stored or {})
        for path, linear in self.stored.items():
            linear.bias = model.get_submodule(path).bias  # type: ignore[assignment]
            model.set_submodule(path, linear)
        found = ((path, one) for path, one in model.named_modules() if isinstance(one, nn.Embedding))
        self.tables = {f"{path}.weight" for path, _ in found}
        self.waiting: dict[str, dict[str, Tensor]] = {}
        self.made: dict[str, QuantizedLinear] = {}

    def as_stored(self, name: str) -> bool:
        """Whether a tensor is wanted in the type it has in the files."""
        path, _, leaf = name.rpartition(".")
        return (leaf == "weight" and path in self.plan) or (leaf != "bias" and path in self.stored)

    def by_row(self, name: str) -> bool:
        """Whether it is an embedding: of those a step reads a row."""
        return name in self.tables

    def place(self, name: str, values: Tensor) -> Tensor:
        """Values to their device; a stand-in for those that are kept in quantized linears."""
        if not self.as_stored(name):
            # a copy, else it would keep the whole file mapped
            return self.placing.place(name, values if self.by_row(name) else values.clone())
        path, _, leaf = name.rpartition(".")
        if path in self.plan:
            linear = self.recipe.linear(self.plan[path], values, path)
        else:
            found = self.waiting.setdefault(path, {})
            found[leaf] = values if leaf == "weight" else values.clone()  # as above: weights alone are packed
            linear = copy.deepcopy(self.stored[path])  # the one in the model gets the stand-ins
            if found.keys() != set(linear.stored):
                return values.to("meta")
            linear.load(self.waiting.pop(path))
            linear.bias = None  # read for the one in the model
        self.made[path] = linear = linear.to(self.device)
        if isinstance(linear, Int8Linear):
            linear.pack = linear.form not in self.unpacked
        if linear.form not in self.unpacked:
            linear.settle()  # now: plain and packed weights of all linears together would not fit
        give_back()
        return values.to("meta")

    def settle(self, model: nn.Module) -> None:
        """After loading: linears with values in the places of those without."""
        for path, linear in self.made.items():
            linear.training = model.training
            linear.bias = model.get_submodule(path).bias  # type: ignore[assignment]
            model.set_submodule(path, linear)
        model.quantization = report(model, self.recipe.form)  # type: ignore[assignment]
        model.config.quantization_config = self.recipe.described()  # type: ignore[union-attr]
        logger.info("%s", model.quantization)
        self.placing.settle(model)


def quantized(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The quantized linears of a model, by name."""
    return ((path, one) for path, one in model.named_modules() if isinstance(one, QuantizedLinear))


def report(model: nn.Module, form: str) -> Report:
    """What there is in a model."""
    found = [one for _, one in quantized(model)]
    counts = Counter(one.form for one in found)
    counts["dense"] = sum(isinstance(one, nn.Linear) for one in model.modules())
    used: dict[str, Counter[str]] = {}
    for one in found:
        slowly = one.operator == "int4pack" and nibbles.is_slow()
        used.setdefault(one.form, Counter())[f"{one.operator}, slow here" if slowly else one.operator] += 1
    told = {
        kind: [name if len(some) == 1 else f"{name} ({count})" for name, count in some.items()]
        for kind, some in used.items()
    }
    operators = {kind: ", ".join(names) for kind, names in told.items()}
    return Report(form, dict(counts), operators, sum(one.nbytes for one in found))
