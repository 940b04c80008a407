"""Which weights are stored in few bits, and how dense ones become so while they are read, one by one."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from watchword.errors import ConfigError
from watchword.nn.quantized import Int8Linear, int8_weights
from watchword.shapes import Tensor

logger = logging.getLogger(__name__)

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
}
"""Format asked for → part → format of its linears; None stays dense.

* The tower sees hundreds of rows at a time, where the product of 8 bits is the fastest there is.
* Q-Former and projector hold 1 to 3 % of the weights, and all that is seen passes through: nothing to gain.
* A head is read once for each token, like a layer. One that is tied to the embedding stays dense with it.
"""


@dataclass(frozen=True)
class Report:
    """What was quantized.

    Attributes:
        form: the format asked for.
        linears: how many of each format, and how many stayed dense.
        operators: format → the product in use.
        bytes_: what the quantized weights take.
    """

    form: str
    linears: Mapping[str, int]
    operators: Mapping[str, str]
    bytes_: int

    def __str__(self) -> str:
        counts = ", ".join(f"{count} linears {form}" for form, count in self.linears.items())
        used = ", ".join(f"{form} by {operator}" for form, operator in self.operators.items())
        return f"quantized: {counts}; {used}; {self.bytes_ / 2**20:.0f} MiB"


def plan(model: nn.Module, form: str) -> dict[str, str]:
    """Name of each linear to quantize → format.

    Args:
        model: a family, dense, or one part of it.
        form: a key of `POLICY`.

    Raises:
        ConfigError: an unknown format.
    """
    if form not in POLICY:
        raise ConfigError(f"quantize {form!r}: unknown format; expected one of {', '.join(POLICY)}, or None")
    shared = Counter(id(tensor) for _, tensor in model.named_parameters(remove_duplicate=False))
    found = {}
    for path, linear in model.named_modules():
        part = next((part for part, starts in PARTS.items() if path.startswith(starts)), None)
        chosen = POLICY[form].get(part) if part else None
        if chosen and isinstance(linear, nn.Linear) and shared[id(linear.weight)] == 1:
            found[path] = chosen
    return found


class Quantizing:
    """Loading that quantizes: fits where tensors are placed, as `models.mapped.Homes` does.

    A chosen linear is quantized the moment its weight was read, so that the dense model never exists.

    Args:
        model: a family on the meta device.
        form: see `plan`.
        placing: where everything goes, such as `models.mapped.Homes`; one device.

    Raises:
        ConfigError: an unknown format, or more than one device.
    """

    def __init__(self, model: nn.Module, form: str, placing: Any) -> None:
        if len(getattr(placing, "parts", {"": None})) > 1 or not hasattr(placing, "parts"):
            raise ConfigError(
                f"quantize {form!r} with several devices: not implemented; give one device, or leave "
                "quantize out"
            )
        self.form, self.placing, self.device = form, placing, placing.device
        self.plan = plan(model, form)
        self.made: dict[str, nn.Module] = {}

    def as_stored(self, name: str) -> bool:
        """Whether a tensor is wanted in the type it has in the files."""
        return name.removesuffix(".weight") in self.plan

    def place(self, name: str, values: Tensor) -> Tensor:
        """Values to their device; a stand-in for those that become quantized."""
        path = name.removesuffix(".weight")
        if path == name or path not in self.plan:
            return self.placing.place(name, values)
        linear = Int8Linear(values.shape[1], values.shape[0], bias=False)
        linear.load(int8_weights(values))
        linear = linear.to(self.device)
        linear.settle()
        self.made[path] = linear
        return values.to("meta")

    def settle(self, model: nn.Module) -> None:
        """After loading: quantized linears in the places of the dense ones, which have no values."""
        for path, linear in self.made.items():
            linear.bias = model.get_submodule(path).bias
            model.set_submodule(path, linear)
        model.quantization = report(model, self.form)  # type: ignore[assignment]
        logger.info("%s", model.quantization)
        self.placing.settle(model)


def quantized(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The quantized linears of a model, by name."""
    return ((path, one) for path, one in model.named_modules() if isinstance(one, Int8Linear))


def report(model: nn.Module, form: str) -> Report:
    """What there is in a model."""
    found = [one for _, one in quantized(model)]
    counts = Counter(one.form for one in found)
    counts["dense"] = sum(isinstance(one, nn.Linear) for one in model.modules())
    return Report(form, dict(counts), {one.form: one.operator for one in found}, sum(o.nbytes for o in found))
