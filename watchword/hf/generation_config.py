"""The documented settings of `generate`, as `generation_config.json` holds them."""

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from watchword.errors import CheckpointError
from watchword.generation.options import REFUSED, GenerationOptions
from watchword.weights import hub

FILE_NAME = "generation_config.json"

DEFAULTS: dict[str, Any] = {
    "max_length": 20,
    "max_new_tokens": None,
    "min_length": 0,
    "min_new_tokens": None,
    "early_stopping": False,
    "max_time": None,
    "stop_strings": None,
    "do_sample": False,
    "num_beams": 1,
    "num_beam_groups": 1,
    "use_cache": True,
    "cache_implementation": None,
    "cache_config": None,
    "return_legacy_cache": None,
    "prefill_chunk_size": None,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "diversity_penalty": 0.0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "force_words_ids": None,
    "renormalize_logits": False,
    "constraints": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "remove_invalid_values": False,
    "exponential_decay_length_penalty": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "sequence_bias": None,
    "token_healing": False,
    "guidance_scale": None,
    "watermarking_config": None,
    "num_return_sequences": 1,
    "output_attentions": False,
    "output_hidden_states": False,
    "output_scores": False,
    "output_logits": None,
    "return_dict_in_generate": False,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "encoder_no_repeat_ngram_size": 0,
    "decoder_start_token_id": None,
    "is_assistant": False,
    "num_assistant_tokens": 20,
    "num_assistant_tokens_schedule": "constant",
    "assistant_confidence_threshold": 0.4,
    "prompt_lookup_num_tokens": None,
    "max_matching_ngram_size": None,
    "assistant_early_exit": None,
    "assistant_lookbehind": 10,
    "target_lookbehind": 10,
    "compile_config": None,
    "disable_compile": False,
    "low_memory": None,
    "penalty_alpha": None,
    "dola_layers": None,
}
"""Every documented field and its default."""


class GenerationConfig:
    """Settings of `generate`, as `generation_config.json` holds them. Unknown fields are kept and saved back.

    Args:
        **kwargs: any documented field, and any other.

    Raises:
        RequestError: a value out of its range.
    """

    def __init__(self, **kwargs: Any) -> None:
        self.__dict__.update(copy.deepcopy(DEFAULTS) | kwargs)
        self.validate()

    def validate(self) -> None:
        """Raise `RequestError` if a value is out of range. `generate` refuses what is not implemented."""
        GenerationOptions.from_dict({k: v for k, v in self.__dict__.items() if k not in REFUSED})

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], **kwargs: Any) -> "GenerationConfig":
        """From a parsed `generation_config.json`; `kwargs` win."""
        return cls(**{**config_dict, **kwargs})

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name: str | os.PathLike[str],
        config_file_name: str = FILE_NAME,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **kwargs: Any,
    ) -> "GenerationConfig":
        """From a checkpoint folder or hub repository; `kwargs` win over the file."""
        folder = hub.fetch(
            pretrained_model_name,
            revision=revision,
            token=token,
            local_files_only=local_files_only,
            patterns=[config_file_name],
        )
        if not (folder / config_file_name).is_file():
            raise CheckpointError(
                f"{pretrained_model_name}: no {config_file_name} in it; "
                "make one with GenerationConfig(...).save_pretrained(folder)"
            )
        return cls.from_dict(_read(folder / config_file_name), **kwargs)

    @classmethod
    def from_folder(
        cls, folder: str | os.PathLike[str], config: object, **changes: Any
    ) -> "GenerationConfig":
        """From a folder's `generation_config.json`, or where there is none from the model's config.

        Settings among `changes`, which may hold other things too, win over the file; the config has them.
        """
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            return cls.from_model_config(config)
        return cls.from_dict(_read(path), **{name: changes[name] for name in changes if name in DEFAULTS})

    @classmethod
    def from_model_config(cls, model_config: object) -> "GenerationConfig":
        """From the generation fields a `config.json` may hold: the family's, else its text model's."""
        found: dict[str, Any] = {"_from_model_config": True}
        for config in (model_config, getattr(model_config, "text_config", None)):
            for name, default in DEFAULTS.items():
                value = getattr(config, name, None)
                unset = found.get(name, default) == default and not name.startswith("output_")
                if value is not None and unset:
                    found[name] = value
        return cls(**found)

    def to_dict(self) -> dict[str, Any]:
        """All fields."""
        return copy.deepcopy(self.__dict__)

    def to_diff_dict(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        return {k: v for k, v in self.to_dict().items() if k not in DEFAULTS or v != DEFAULTS[k]}

    def to_json_string(self, use_diff: bool = True) -> str:
        """As JSON, only what differs from the defaults unless told otherwise."""
        fields = self.to_diff_dict() if use_diff else self.to_dict()
        return json.dumps(fields, indent=2, sort_keys=True) + "\n"

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], config_file_name: str = FILE_NAME
    ) -> None:
        """Write the file into that folder, which is made if needed."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / config_file_name).write_text(self.to_json_string(), encoding="utf-8")

    def update(self, **kwargs: Any) -> dict[str, Any]:
        """Set the fields among `kwargs`; returns the others."""
        self.__dict__.update({k: v for k, v in kwargs.items() if k in self.__dict__})
        self.validate()
        return {k: v for k, v in kwargs.items() if k not in self.__dict__}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GenerationConfig) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash(self.to_json_string())

    def __repr__(self) -> str:
        return f"GenerationConfig {self.to_json_string()}"


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: is not JSON ({error}); repair it, or remove it") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path}: holds {type(raw).__name__}, expected an object with settings")
    return raw
