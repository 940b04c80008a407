"""What the configs of language models derive, and both spellings they are written in."""

import pytest

from watchword.config import LlamaConfig, MistralConfig, OPTConfig, T5Config
from watchword.errors import ConfigError


@pytest.mark.parametrize("cls", [LlamaConfig, MistralConfig])
def test_head_dim_follows_from_the_width_unless_given(cls):
    assert cls(hidden_size=64, num_attention_heads=4).head_dim == 16
    assert cls(hidden_size=64, num_attention_heads=4, head_dim=24).head_dim == 24
    assert cls.from_dict({"head_dim": 24}).head_dim == 24
    assert cls.from_dict({"head_dim": None, "hidden_size": 64, "num_attention_heads": 4}).head_dim == 16


def test_key_value_heads_follow_from_the_heads_unless_given():
    assert LlamaConfig(num_attention_heads=4).num_key_value_heads == 4
    assert LlamaConfig(num_attention_heads=4, num_key_value_heads=2).num_key_value_heads == 2
    assert MistralConfig().num_key_value_heads == 8
    assert MistralConfig(num_attention_heads=4, num_key_value_heads=None).num_key_value_heads == 4


def test_opt_embedding_width_follows_from_the_width_unless_given():
    assert OPTConfig(hidden_size=32).word_embed_proj_dim == 32
    assert OPTConfig(hidden_size=32, word_embed_proj_dim=16).word_embed_proj_dim == 16


def test_rope_scaling_takes_the_older_key():
    given = {"type": "linear", "factor": 2.0}

    config = LlamaConfig(rope_scaling=given)

    assert config.rope_scaling == {"type": "linear", "factor": 2.0, "rope_type": "linear"}
    assert given == {"type": "linear", "factor": 2.0}


@pytest.mark.parametrize("cls", [LlamaConfig, MistralConfig])
def test_rope_parameters_are_read_as_theta_and_scaling(cls):
    plain = cls(rope_parameters={"rope_type": "default", "rope_theta": 5.0})
    scaled = cls(rope_parameters={"rope_type": "linear", "rope_theta": 7.0, "factor": 2.0})

    assert (plain.rope_theta, plain.rope_scaling) == (5.0, None)
    assert (scaled.rope_theta, scaled.rope_scaling) == (7.0, {"rope_type": "linear", "factor": 2.0})


def test_rope_parameters_give_way_to_the_older_spelling_when_changed():
    raw = {"model_type": "llama", "rope_parameters": {"rope_type": "default", "rope_theta": 5.0}}
    config = LlamaConfig.from_dict(raw)
    assert config.to_dict() == raw

    config.rope_theta = 6.0

    assert config.to_dict() == {"model_type": "llama", "rope_theta": 6.0, "rope_scaling": None}


@pytest.mark.parametrize("kind", ["yarn", "longrope", None])
def test_rope_scaling_refuses_what_is_not_implemented(kind):
    with pytest.raises(ConfigError) as error:
        LlamaConfig(rope_scaling={"rope_type": kind, "factor": 2.0})

    assert str(error.value) == (
        f"LlamaConfig: rope_scaling has type {kind!r}, which is not implemented; "
        "expected one of default, linear, dynamic, llama3"
    )


def test_rope_scaling_names_what_it_lacks():
    with pytest.raises(ConfigError) as error:
        MistralConfig(rope_scaling={"rope_type": "llama3", "factor": 2.0})

    assert str(error.value) == (
        "MistralConfig: rope_scaling of type 'llama3' lacks low_freq_factor, high_freq_factor, "
        "original_max_position_embeddings; found ['factor', 'rope_type']"
    )


@pytest.mark.parametrize(
    ("fields", "act", "gated"),
    [
        ({}, "relu", False),
        ({"feed_forward_proj": "gelu"}, "gelu", False),
        ({"feed_forward_proj": "gated-silu"}, "silu", True),
        ({"feed_forward_proj": "gated-gelu"}, "gelu_new", True),
        ({"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu"}, "gelu", True),
        ({"feed_forward_proj": "relu", "dense_act_fn": "gelu", "is_gated_act": True}, "gelu", True),
    ],
)
def test_t5_activation_is_what_the_file_states_or_what_follows(fields, act, gated):
    config = T5Config(**fields)

    assert config.dense_act_fn == act
    assert config.is_gated_act is gated
    assert T5Config.from_dict(config.to_dict()).dense_act_fn == act


@pytest.mark.parametrize("name", ["gated-gelu-x", "other-relu", "gated-", ""])
def test_t5_refuses_an_activation_it_cannot_read(name):
    with pytest.raises(ConfigError, match=f"T5Config: feed_forward_proj is '{name}', expected an activation"):
        T5Config(feed_forward_proj=name)


@pytest.mark.parametrize(
    ("fields", "scales"),
    [
        ({}, True),
        ({"tie_word_embeddings": True}, True),
        ({"tie_word_embeddings": False}, False),
        ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, False),
        ({"tie_word_embeddings": False, "scale_decoder_outputs": True}, True),
    ],
)
def test_t5_output_scale_is_what_the_file_states_or_follows_from_tying(fields, scales):
    config = T5Config.from_dict(fields)

    assert config.scale_decoder_outputs is scales
    assert config.to_dict() == fields


def test_t5_output_scale_can_be_assigned_and_saved():
    config = T5Config()
    assert "scale_decoder_outputs" not in config.to_dict()

    config.scale_decoder_outputs = False

    assert config.to_dict()["scale_decoder_outputs"] is False
    assert not T5Config.from_dict(config.to_dict()).scale_decoder_outputs


def test_t5_has_the_names_of_the_other_models_too():
    config = T5Config(hidden_size=32, num_attention_heads=4, num_hidden_layers=3, head_dim=8)

    assert (config.d_model, config.num_heads, config.num_layers, config.d_kv) == (32, 4, 3, 8)
    assert config.num_decoder_layers == 3
    config.num_hidden_layers = 5
    assert config.num_layers == 5


def test_alias_that_contradicts_its_field_is_refused():
    assert T5Config(hidden_size=32, d_model=32).d_model == 32
    with pytest.raises(
        ConfigError, match="T5Config: hidden_size is 32 but d_model is 64; they are two names"
    ):
        T5Config(hidden_size=32, d_model=64)
