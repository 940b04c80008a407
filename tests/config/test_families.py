"""Families: parts as dictionaries or objects, token ids by either name, and the count of visual tokens."""

import logging

import pytest

from tests.config import published
from watchword.config import (
    CLIPVisionConfig,
    InstructBlipConfig,
    InstructBlipQFormerConfig,
    InstructBlipVideoConfig,
    InstructBlipVideoQFormerConfig,
    InstructBlipVideoVisionConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    T5Config,
    VideoLlavaConfig,
    family_from_dict,
)
from watchword.errors import ConfigError

BLIP = [
    (InstructBlipConfig, InstructBlipVisionConfig, InstructBlipQFormerConfig),
    (InstructBlipVideoConfig, InstructBlipVideoVisionConfig, InstructBlipVideoQFormerConfig),
]


@pytest.mark.parametrize(("family", "vision", "qformer"), BLIP)
def test_instructblip_takes_parts_as_objects_dictionaries_or_nothing(family, vision, qformer):
    by_object = family(vision(hidden_size=32), qformer(hidden_size=16), LlamaConfig(vocab_size=9))
    by_dict = family(
        vision_config={"hidden_size": 32},
        qformer_config={"hidden_size": 16},
        text_config={"model_type": "llama", "vocab_size": 9},
    )

    assert by_object == by_dict
    assert type(by_dict.vision_config) is vision
    assert type(by_dict.qformer_config) is qformer
    assert by_dict.text_config == LlamaConfig(vocab_size=9)
    assert family().text_config == OPTConfig()
    assert family(text_config={"vocab_size": 9}).text_config == OPTConfig(vocab_size=9)


@pytest.mark.parametrize(("family", "vision", "qformer"), BLIP)
@pytest.mark.parametrize("method", ["from_vision_qformer_text_configs", "from_text_vision_configs"])
def test_instructblip_is_made_of_three_parts(family, vision, qformer, method):
    bridge = qformer()

    config = getattr(family, method)(vision(hidden_size=32), bridge, T5Config(), num_query_tokens=8)

    assert config.num_query_tokens == 8
    assert config.qformer_config.encoder_hidden_size == 32
    assert bridge.encoder_hidden_size == 1408
    assert config.get_text_config() is config.text_config
    assert config.text_config.get_text_config() is config.text_config


@pytest.mark.parametrize(("family", "vision", "qformer"), BLIP)
def test_instructblip_knows_which_language_models_only_decode(family, vision, qformer):
    for text in (LlamaConfig(), MistralConfig(), OPTConfig()):
        assert family(text_config=text).use_decoder_only_language_model is True
    assert family(text_config=T5Config()).use_decoder_only_language_model is False
    assert family.from_dict(
        {"use_decoder_only_language_model": True, "text_config": {"model_type": "t5"}}
    ) == family(text_config=T5Config())


def test_instructblip_keeps_the_initial_range_that_a_file_states():
    assert InstructBlipConfig().initializer_range == 0.02
    assert InstructBlipConfig(initializer_range=0.05).to_dict()["initializer_range"] == 0.05


@pytest.mark.parametrize(
    ("family", "name"),
    [
        (InstructBlipConfig, "image_token"),
        (InstructBlipVideoConfig, "video_token"),
        (VideoLlavaConfig, "image_token"),
        (VideoLlavaConfig, "video_token"),
    ],
)
def test_token_ids_have_two_names(family, name):
    config = family(**{f"{name}_id": 7})
    assert getattr(config, f"{name}_index") == 7

    setattr(config, f"{name}_index", 8)
    assert getattr(config, f"{name}_id") == 8

    setattr(config, f"{name}_id", 9)
    assert config.to_dict()[f"{name}_index"] == 9
    assert f"{name}_id" not in config.to_dict()


def test_token_id_given_twice_must_agree():
    with pytest.raises(ConfigError, match="VideoLlavaConfig: video_token_id is 5 but video_token_index is 6"):
        VideoLlavaConfig(video_token_id=5, video_token_index=6)


def test_video_llava_takes_parts_as_objects_dictionaries_or_nothing():
    vision, text = CLIPVisionConfig(), LlamaConfig()

    config = VideoLlavaConfig(vision, text)

    assert config.vision_config is vision
    assert config.text_config is text
    assert VideoLlavaConfig({}, {}) == config
    assert VideoLlavaConfig(text_config={"model_type": "mistral"}).text_config == MistralConfig()


def test_video_llava_without_parts_has_the_published_towers():
    config = VideoLlavaConfig()

    assert config.vision_config.hidden_size == 1024
    assert config.vision_config.patch_size == 14
    assert config.vision_config.num_hidden_layers == 24
    assert config.text_config == LlamaConfig()


def test_video_llava_accepts_the_ignore_index_of_older_documents():
    assert VideoLlavaConfig().ignore_index == -100
    assert "ignore_index" not in VideoLlavaConfig().to_dict()
    assert VideoLlavaConfig(ignore_index=-7).to_dict()["ignore_index"] == -7


def test_a_part_without_model_type_is_logged(caplog):
    with caplog.at_level(logging.INFO, logger="watchword"):
        VideoLlavaConfig(text_config={"vocab_size": 5})

    assert "VideoLlavaConfig: text_config names no model_type: read as llama" in caplog.text


def test_unknown_parts_are_refused_with_the_known_ones():
    with pytest.raises(ConfigError) as error:
        InstructBlipConfig(text_config={"model_type": "gptj"})
    assert str(error.value) == (
        "InstructBlipConfig: text_config has model_type 'gptj', which is not known here; "
        "known: llama, mistral, opt, t5"
    )
    with pytest.raises(
        ConfigError, match=r"VideoLlavaConfig: text_config has model_type 't5', .* known: llama, mis"
    ):
        VideoLlavaConfig(text_config={"model_type": "t5"})
    with pytest.raises(
        ConfigError, match="VideoLlavaConfig: vision_config has model_type 'siglip_vision_model'"
    ):
        VideoLlavaConfig(vision_config={"model_type": "siglip_vision_model"})


def test_parts_of_another_kind_are_refused():
    with pytest.raises(
        ConfigError, match="VideoLlavaConfig: text_config is a OPTConfig, expected one of LlamaConfig"
    ):
        VideoLlavaConfig(text_config=OPTConfig())
    with pytest.raises(ConfigError, match="InstructBlipConfig: vision_config is a int, expected a config"):
        InstructBlipConfig(vision_config=3)


def test_dictionaries_given_for_parts_are_left_alone():
    given = {"vocab_size": 9}

    VideoLlavaConfig(text_config=given)
    InstructBlipConfig(text_config=given)

    assert given == {"vocab_size": 9}


@pytest.mark.parametrize(("family", "vision", "qformer"), BLIP)
def test_instructblip_counts_queries_per_frame(family, vision, qformer):
    config = family(num_query_tokens=32)

    assert config.visual_tokens() == 32
    assert config.visual_tokens(None, 300, 500) == 32
    assert config.visual_tokens(1) == 32
    assert config.visual_tokens(4, 224, 224) == 128


def test_video_llava_counts_patches_and_kept_class_tokens():
    config = VideoLlavaConfig()

    assert config.visual_tokens() == 256
    assert config.visual_tokens(None, 224, 224) == 256
    assert config.visual_tokens(8) == 2056
    assert config.visual_tokens(1, 224, 224) == 257
    assert config.visual_tokens(2, 28, 42) == 14

    config.vision_feature_select_strategy = "full"
    assert config.visual_tokens() == 257
    assert config.visual_tokens(8) == 2056


def test_newer_files_are_read_as_older_ones_are():
    config = family_from_dict(published.VIDEO_LLAVA_OF_5)
    assert config.text_config.rope_theta == 5000.0
    assert config.text_config.rope_scaling == {"rope_type": "linear", "factor": 2.0}
    assert config.text_config.sliding_window is None

    flan = family_from_dict(published.INSTRUCTBLIP_VIDEO_OF_5)
    assert flan.text_config.scale_decoder_outputs is False
    assert flan.text_config.dense_act_fn == "gelu_new"
    assert flan.use_decoder_only_language_model is False
