"""Ask questions about pictures and videos: InstructBLIP, InstructBlipVideo and Video-LLaVA in PyTorch.

Public names are resolved when first used, so that `import watchword` is quick and does not load torch.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

__all__ = [
    "BitsAndBytesConfig",
    "BlipImageProcessor",
    "CLIPVisionConfig",
    "CapacityError",
    "CheckpointError",
    "ConfigError",
    "GenerationConfig",
    "InstructBlipConfig",
    "InstructBlipForConditionalGeneration",
    "InstructBlipModel",
    "InstructBlipProcessor",
    "InstructBlipQFormerConfig",
    "InstructBlipQFormerModel",
    "InstructBlipVideoConfig",
    "InstructBlipVideoForConditionalGeneration",
    "InstructBlipVideoImageProcessor",
    "InstructBlipVideoModel",
    "InstructBlipVideoProcessor",
    "InstructBlipVideoQFormerConfig",
    "InstructBlipVideoQFormerModel",
    "InstructBlipVideoVideoProcessor",
    "InstructBlipVideoVisionConfig",
    "InstructBlipVideoVisionModel",
    "InstructBlipVisionConfig",
    "InstructBlipVisionModel",
    "LlamaConfig",
    "MediaError",
    "MissingExtra",
    "MistralConfig",
    "OPTConfig",
    "RequestError",
    "T5Config",
    "TrainingError",
    "UnknownArgument",
    "VideoLlavaConfig",
    "VideoLlavaForConditionalGeneration",
    "VideoLlavaImageProcessor",
    "VideoLlavaModel",
    "VideoLlavaProcessor",
    "VideoLlavaVideoProcessor",
    "WatchwordError",
    "errors",
    "load",
    "media",
]

# module -> the public names that it holds
_HOMES: dict[str, tuple[str, ...]] = {
    "watchword.config": (
        "CLIPVisionConfig",
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
    ),
    "watchword.errors": (
        "CapacityError",
        "CheckpointError",
        "ConfigError",
        "MediaError",
        "MissingExtra",
        "RequestError",
        "TrainingError",
        "UnknownArgument",
        "WatchwordError",
    ),
    "watchword.hf.instructblip": (
        "InstructBlipForConditionalGeneration",
        "InstructBlipModel",
        "InstructBlipVideoForConditionalGeneration",
        "InstructBlipVideoModel",
    ),
    "watchword.hf.instructblip_parts": (
        "InstructBlipQFormerModel",
        "InstructBlipVideoQFormerModel",
        "InstructBlipVideoVisionModel",
        "InstructBlipVisionModel",
    ),
    "watchword.hf.video_llava": ("VideoLlavaForConditionalGeneration", "VideoLlavaModel"),
    "watchword.hf.processing": ("InstructBlipProcessor", "InstructBlipVideoProcessor", "VideoLlavaProcessor"),
    "watchword.hf.image_processing": (
        "BlipImageProcessor",
        "InstructBlipVideoImageProcessor",
        "VideoLlavaImageProcessor",
    ),
    "watchword.hf.video_processing": ("InstructBlipVideoVideoProcessor", "VideoLlavaVideoProcessor"),
    "watchword.hf.generation": ("GenerationConfig",),
    "watchword.hf.quantization": ("BitsAndBytesConfig",),
    "watchword.pipeline": ("load",),
}
_MODULES = ("errors", "media")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"watchword.{name}")
    for module, names in _HOMES.items():
        if name in names:
            found = getattr(importlib.import_module(module), name)
            globals()[name] = found  # asked once; afterwards an ordinary attribute
            return found
    raise AttributeError(f"module 'watchword' has no attribute {name!r}; public names: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
