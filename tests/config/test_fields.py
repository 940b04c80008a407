"""Fields that every config has, and the three kinds of foreign ones."""

import logging

import pytest
import torch

from watchword.config import CLIPVisionConfig, InstructBlipQFormerConfig, LlamaConfig, OPTConfig, T5Config
from watchword.errors import ConfigError


def test_shared_fields_stand_at_their_defaults():
    config = LlamaConfig()

    assert config.return_dict
    assert config.use_return_dict
    assert not config.output_attentions
    assert config.pruned_heads == {}
    assert config.num_labels == 2
    assert config.max_length == 20
    assert config.generation_settings() == {}


def test_shared_defaults_are_not_shared_between_configs():
    first, second = CLIPVisionConfig(), CLIPVisionConfig()

    first.pruned_heads[0] = [1]
    first.id2label[7] = "seven"

    assert second.pruned_heads == {}
    assert second.num_labels == 2


def test_torchscript_turns_result_objects_off():
    assert not LlamaConfig(torchscript=True).use_return_dict


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("value", ["float16", torch.float16, "torch.float16"])
def test_dtype_is_accepted_in_both_spellings(name, value):
    config = LlamaConfig(**{name: value})

    assert config.dtype is config.torch_dtype is torch.float16
    assert config.to_dict()["dtype"] == "float16"


def test_dtype_prefers_the_newer_spelling():
    assert LlamaConfig(dtype="float16", torch_dtype="float32").dtype is torch.float16


def test_dtype_refuses_an_unknown_name():
    with pytest.raises(
        ConfigError, match="LlamaConfig: dtype is 'float17', expected one of float32, float16"
    ):
        LlamaConfig(dtype="float17")


def test_num_labels_makes_names():
    config = LlamaConfig(num_labels=3)

    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert config.label2id["LABEL_2"] == 2


def test_generation_settings_are_those_that_an_old_file_sets():
    config = LlamaConfig.from_dict({"max_length": 20, "num_beams": 5, "do_sample": True})

    assert config.generation_settings() == {"do_sample": True, "num_beams": 5}


def test_unknown_fields_are_kept_saved_and_logged(caplog):
    with caplog.at_level(logging.INFO, logger="watchword"):
        config = OPTConfig.from_dict({"model_type": "opt", "new_norm": "deep", "transformers_version": "9"})

    assert config.new_norm == "deep"
    assert config.to_dict()["new_norm"] == "deep"
    assert [r.getMessage() for r in caplog.records] == ["OPTConfig: fields kept without effect: new_norm"]


def test_inert_shared_fields_are_logged_when_they_are_set(caplog):
    with caplog.at_level(logging.INFO, logger="watchword"):
        InstructBlipQFormerConfig(chunk_size_feed_forward=4)

    assert "InstructBlipQFormerConfig: fields kept without effect: chunk_size_feed_forward" in caplog.text


@pytest.mark.parametrize(
    ("cls", "field", "value", "expected"),
    [
        (CLIPVisionConfig, "pruned_heads", {0: [1]}, "{} or None"),
        (T5Config, "tie_encoder_decoder", True, "False or None"),
        (LlamaConfig, "quantization_config", {"bits": 4}, "None"),
        (LlamaConfig, "partial_rotary_factor", 0.5, "1.0 or None"),
        (LlamaConfig, "is_encoder_decoder", True, "False"),
        (OPTConfig, "is_encoder_decoder", True, "False"),
        (T5Config, "is_encoder_decoder", False, "True"),
    ],
)
def test_fields_that_would_change_the_numbers_are_refused_by_name(cls, field, value, expected):
    with pytest.raises(ConfigError) as error:
        cls(**{field: value})

    assert str(error.value) == (
        f"{cls.__name__}: {field} is {value!r}, which is not implemented here; expected {expected}"
    )


def test_neutral_values_of_refused_fields_are_accepted_and_kept():
    raw = {
        "model_type": "llama",
        "partial_rotary_factor": 1.0,
        "pruned_heads": {},
        "quantization_config": None,
    }

    assert LlamaConfig.from_dict(raw).to_dict() == raw


def test_a_field_may_not_hide_a_method():
    with pytest.raises(
        ConfigError, match=r"LlamaConfig: a field named 'to_dict' \(value 3\) would hide a method"
    ):
        LlamaConfig(to_dict=3)


def test_model_type_must_fit():
    assert LlamaConfig(model_type="llama").model_type == "llama"
    with pytest.raises(ConfigError, match="LlamaConfig: model_type is 'opt', expected 'llama'"):
        LlamaConfig(model_type="opt")


@pytest.mark.parametrize("kind", ["absolute", "relative_key", "relative_key_query"])
def test_qformer_position_embeddings_are_of_a_known_kind(kind):
    assert InstructBlipQFormerConfig(position_embedding_type=kind).position_embedding_type == kind
    with pytest.raises(ConfigError) as error:
        InstructBlipQFormerConfig(position_embedding_type="rotary")
    assert str(error.value) == (
        "InstructBlipQFormerConfig: position_embedding_type is 'rotary', "
        "expected one of absolute, relative_key, relative_key_query"
    )


def test_update_assigns_through_aliases():
    config = T5Config()

    config.update({"hidden_size": 8, "tie_word_embeddings": False})

    assert config.d_model == 8
    assert not config.tie_word_embeddings


def test_repr_is_the_document():
    assert repr(LlamaConfig(vocab_size=7)).startswith("LlamaConfig {\n")
    assert '"vocab_size": 7' in repr(LlamaConfig(vocab_size=7))
