"""Changes to a backend tokenizer where a folder's settings win over its tokenizer.json."""

import json
from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import normalizers, pre_tokenizers, processors


def take_layout(backend: tokenizers.Tokenizer) -> dict[str, Any]:
    """Settings that tokenizer.json may hold in its truncation and padding parts, which calls set for
    themselves."""
    settings: dict[str, Any] = {}
    if (cut := backend.truncation) is not None:
        settings |= {
            "max_length": cut["max_length"],
            "truncation_side": cut["direction"],
            "stride": cut["stride"],
        }
    if (pad := backend.padding) is not None:
        settings |= {"pad_token": pad["pad_token"], "padding_side": pad["direction"]}
        settings |= {"pad_to_multiple_of": pad["pad_to_multiple_of"]} | (
            {"max_length": pad["length"]} | settings
        )
    backend.no_truncation()
    backend.no_padding()
    return settings


def set_case(backend: tokenizers.Tokenizer, settings: Mapping[str, Any]) -> None:
    """BERT's case and accent rules from the settings, where tokenizer.json has others."""
    state = json.loads(backend.normalizer.__getstate__()) if backend.normalizer is not None else {}
    wanted = {
        "lowercase": settings["do_lower_case"],
        "strip_accents": settings["strip_accents"],
        "handle_chinese_chars": settings["tokenize_chinese_chars"],
    }
    if state.get("type") == "BertNormalizer" and any(state[name] != value for name, value in wanted.items()):
        backend.normalizer = normalizers.BertNormalizer(clean_text=state["clean_text"], **wanted)


def set_prefix_space(backend: tokenizers.Tokenizer, wanted: bool) -> None:
    """The space before a text's first word from the settings, where tokenizer.json has it otherwise."""
    state = json.loads(backend.pre_tokenizer.__getstate__()) if backend.pre_tokenizer is not None else {}
    if state.get("type") == "ByteLevel" and state["add_prefix_space"] != wanted:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=wanted, trim_offsets=state["trim_offsets"], use_regex=state["use_regex"]
        )


def set_frame(
    backend: tokenizers.Tokenizer, bos: tuple[str, int] | None, eos: tuple[str, int] | None
) -> None:
    """Put a token in front of every text, or at its end, or neither; each is given with its id."""
    first = [] if bos is None else [bos]
    last = [] if eos is None else [eos]
    single = [*(f"{token}:0" for token, _ in first), "$A:0", *(f"{token}:0" for token, _ in last)]
    second = [*(f"{token}:1" for token, _ in first), "$B:1", *(f"{token}:1" for token, _ in last)]
    backend.post_processor = processors.TemplateProcessing(
        single=single, pair=single + second, special_tokens=list(dict.fromkeys(first + last))
    )
