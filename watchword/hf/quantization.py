"""The documented description of a bitsandbytes quantization."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from watchword.errors import ConfigError


@dataclass
class BitsAndBytesConfig:
    """How weights are to be quantized. Only a description so far: `from_pretrained` refuses to load by it.

    Args:
        load_in_8bit, load_in_4bit: which; not both.
        bnb_4bit_quant_type: "fp4" or "nf4".
        bnb_4bit_compute_dtype: type of the products; a torch dtype or its name, float32 when None.

    Raises:
        ConfigError: both sizes at once, or an unknown 4-bit type.
    """

    load_in_8bit: bool = False
    load_in_4bit: bool = False
    llm_int8_threshold: float = 6.0
    llm_int8_skip_modules: list[str] | None = None
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

    def to_dict(self) -> dict[str, Any]:
        """Plain values, dtypes by name, as config.json keeps them."""
        found = asdict(self) | {"quant_method": "bitsandbytes"}
        return {
            k: str(v).removeprefix("torch.") if isinstance(v, torch.dtype) else v for k, v in found.items()
        }
