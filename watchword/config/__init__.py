"""`config.json` as objects: nothing lost, nothing misunderstood, and the arithmetic that follows from it."""

from watchword.config.families import (
    FAMILY_CONFIGS,
    InstructBlipConfig,
    InstructBlipVideoConfig,
    VideoLlavaConfig,
    family_from_dict,
)
from watchword.config.fields import Config
from watchword.config.text import TEXT_CONFIGS, LlamaConfig, MistralConfig, OPTConfig, T5Config
from watchword.config.vision import (
    CLIPVisionConfig,
    InstructBlipQFormerConfig,
    InstructBlipVideoQFormerConfig,
    InstructBlipVideoVisionConfig,
    InstructBlipVisionConfig,
)

__all__ = [
    "FAMILY_CONFIGS",
    "TEXT_CONFIGS",
    "CLIPVisionConfig",
    "Config",
    "InstructBlipConfig",
    "InstructBlipQFormerConfig",
    "InstructBlipVideoConfig",
    "InstructBlipVideoQFormerConfig",
    "InstructBlipVideoVisionConfig",
    "InstructBlipVisionConfig",
    "LlamaConfig",
    "MistralConfig",
    "OPTConfig",
    "T5Config",
    "VideoLlavaConfig",
    "family_from_dict",
]
