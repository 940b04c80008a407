"""Teaching models: fine-tuning with one's own data, and the making of the embedded model.

    watchword.train.run("clips.jsonl", model="Video-LLaVA-7B-hf", recipe="lora", out="runs/mine")

The walk: formats → lines → examples → checking → order → feed (encoding, batching) → learner → masters →
saves.
"""

import importlib
from typing import Any

_HOMES = {
    "run": "tuning", "Result": "tuner", "Options": "options", "RECIPES": "recipes", "Recipe": "recipes",
    "TASKS": "templates", "read_data": "formats",
}  # fmt: skip

__all__ = ["RECIPES", "TASKS", "Options", "Recipe", "Result", "read_data", "run"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
