"""Turns words into ids and ids into words.

    text, segments or messages → template → placeholders repeated → tokenizer → ids → detokenizer → text

Names resolve on first use.
"""

import importlib
from typing import Any

_HOMES = {
    "AddedToken": "special",
    "Control": "segments",
    "Detokenizer": "detokenize",
    "FORMATS": "segments",
    "Media": "segments",
    "StopStrings": "detokenize",
    "Text": "segments",
    "TextBatch": "batch",
    "Tokenizer": "tokenizer",
    "Turn": "segments",
    "encode_segments": "segments",
    "expand_ids": "placeholder",
    "expand_text": "placeholder",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
