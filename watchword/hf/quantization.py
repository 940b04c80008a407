"""The documented description of a bitsandbytes quantization, and what it means here."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from watchword.errors import ConfigError, refuse_unknown
from watchword.weights.quantize import Recipe

THRESHOLDS = (0.0, 6.0)
"""Accepted for 8 bits: none, and the default. Products are the same for both; see `BitsAndBytesConfig`."""


@dataclass
class BitsAndBytesConfig:
    """How weights are quantized while they are read.

    4 bits have the codes, blocks and scales of bitsandbytes. On a GPU its products run, if it is installed;
    else, and on a CPU, our own. 8 bits are our int8, in which no columns stay in float16; see
    docs/quantization.md.

    Args:
        load_in_8bit, load_in_4bit: which; not both.
        llm_int8_threshold: 6.0 or 0.0, which mean the same here.
        llm_int8_skip_modules: names of modules whose linears stay dense.
        bnb_4bit_quant_type: "fp4" or "nf4".
        bnb_4bit_compute_dtype: kept, and without effect: products have the type of what is multiplied, which
            is the model's `dtype`.
        bnb_4bit_use_double_quant: scales go through 8 bits themselves.

    Raises:
        ConfigError: both sizes at once, an unknown 4-bit type, or what cannot be honoured.
    """

    load_in_8bit: bool = False
    load_in_4bit: bool = False
    llm_int8_threshold: float = 6.0
    llm_int8_skip_modules: Sequence[str] | None = None
    llm_int8_enable_fp32_cpu_offload: bool = False
    llm_int8_has_fp16_weight: bool = False
    bnb_4bit_compute_dtype: torch.dtype | str | None = None
    bnb_4bit_quant_type: str = "fp4"
    bnb_4bit_use_double_quant: bool = False
    bnb_4bit_quant_storage: torch.dtype | str | None = None

    def __post_init__(self) -> None:
        if self.load_in_8bit and self.load_in_4bit:
            raise ConfigError("BitsAndBytesConfig: load_in_8bit and load_in_4bit are both set; choose one")
        if self.bnb_4bit_quant_type not in ("fp4", "nf4"):
            raise ConfigError(
                f"BitsAndBytesConfig: bnb_4bit_quant_type {self.bnb_4bit_quant_type!r}; use 'fp4' or 'nf4'"
            )
        skip = self.llm_int8_skip_modules
        if skip is not None and (isinstance(skip, str) or not all(isinstance(name, str) for name in skip)):
            raise ConfigError(f"BitsAndBytesConfig: llm_int8_skip_modules {skip!r}; expected a list of names")
        kind = self.bnb_4bit_compute_dtype
        named = getattr(torch, kind.removeprefix("torch."), None) if isinstance(kind, str) else kind
        if kind is not None and not (isinstance(named, torch.dtype) and named.is_floating_point):
            raise ConfigError(
                f"BitsAndBytesConfig: bnb_4bit_compute_dtype {kind!r}; expected a floating type, such as "
                "torch.float16 or 'bfloat16'"
            )
        storage = str(self.bnb_4bit_quant_storage or "uint8").removeprefix("torch.")
        refused = {
            "llm_int8_threshold": self.llm_int8_threshold not in THRESHOLDS,
            "llm_int8_enable_fp32_cpu_offload": self.llm_int8_enable_fp32_cpu_offload,
            "llm_int8_has_fp16_weight": self.llm_int8_has_fp16_weight,
            "bnb_4bit_quant_storage": storage != "uint8",
        }
        for name in (name for name, wrong in refused.items() if wrong):
            raise ConfigError(
                f"BitsAndBytesConfig: {name} {getattr(self, name)!r}: not implemented; keep its default"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, dtypes by name, as config.json keeps them."""
        found = asdict(self) | {"quant_method": "bitsandbytes"}
        return {
            k: str(v).removeprefix("torch.") if isinstance(v, torch.dtype) else v for k, v in found.items()
        }


def recipe_of(described: object, form: str | None = None) -> Recipe | None:
    """What `from_pretrained` is asked for.

    Args:
        described: a `BitsAndBytesConfig`, or its fields as a dictionary, or None.
        form: the value of `quantize`.

    Raises:
        ConfigError: both are given, or another kind of config.
        UnknownArgument: a field that `BitsAndBytesConfig` does not have.
    """
    if described is None:
        return None if form is None else Recipe(form)
    if form is not None:
        raise ConfigError(f"quantize {form!r} and quantization_config: give one of them")
    if isinstance(described, Mapping):
        values = {
            k: v for k, v in described.items() if k not in ("quant_method", "_load_in_8bit", "_load_in_4bit")
        }
        refuse_unknown("quantization_config", values, [field.name for field in fields(BitsAndBytesConfig)])
        described = BitsAndBytesConfig(**values)
    if not isinstance(described, BitsAndBytesConfig):
        raise ConfigError(
            f"quantization_config {type(described).__name__}: not implemented; expected watchword's "
            "BitsAndBytesConfig, or its fields as a dictionary"
        )
    skip = tuple(described.llm_int8_skip_modules or ())
    if described.load_in_8bit:
        return Recipe("int8", skip=skip)
    if described.load_in_4bit:
        return Recipe(described.bnb_4bit_quant_type, double=described.bnb_4bit_use_double_quant, skip=skip)
    return None
