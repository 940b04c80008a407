"""Nothing is lost: what was read is what is written, and only what changed changes."""

import copy
import json

import pytest

from tests.config import published
from watchword.config import (
    FAMILY_CONFIGS,
    InstructBlipConfig,
    InstructBlipVideoConfig,
    LlamaConfig,
    T5Config,
    VideoLlavaConfig,
    family_from_dict,
)
from watchword.errors import ConfigError, UnknownArgument


def order(value):
    """Keys of nested objects in their order."""
    return [(key, order(one)) for key, one in value.items()] if isinstance(value, dict) else None


@pytest.mark.parametrize("raw", published.ALL.values(), ids=published.ALL)
def test_config_writes_what_it_read_in_the_same_order(raw):
    before = copy.deepcopy(raw)

    config = family_from_dict(raw)

    assert config.to_dict() == raw
    assert order(config.to_dict()) == order(raw)
    assert raw == before


@pytest.mark.parametrize("raw", published.ALL.values(), ids=published.ALL)
def test_config_survives_a_folder(raw, tmp_path):
    config = family_from_dict(raw)
    config.save_pretrained(tmp_path / "new")

    again = type(config).from_pretrained(tmp_path / "new")

    assert again == config
    assert json.loads((tmp_path / "new" / "config.json").read_text()) == raw
    assert list(json.loads((tmp_path / "new" / "config.json").read_text())) == list(raw)
    assert again.name_or_path == str(tmp_path / "new")


@pytest.mark.parametrize("cls", FAMILY_CONFIGS.values(), ids=FAMILY_CONFIGS)
def test_config_built_in_code_survives_json_and_says_what_it_is(cls):
    config = cls()

    written = json.loads(config.to_json_string())

    assert cls.from_dict(written) == config
    assert written["model_type"] == cls.model_type
    assert all(written[part]["model_type"] for part in cls.parts)
    assert list(written) == sorted(written)


def test_saving_writes_only_what_changed():
    config = family_from_dict(published.VIDEO_LLAVA)

    config.text_config.vocab_size = 100
    config.image_token_id = 7
    config.dtype = "bfloat16"
    written = config.to_dict()

    expected = copy.deepcopy(published.VIDEO_LLAVA)
    expected["text_config"]["vocab_size"] = 100
    expected["image_token_index"] = 7
    expected["torch_dtype"] = "bfloat16"
    assert written == expected
    assert order(written) == order(expected)


def test_saving_adds_what_was_absent_and_changed():
    config = LlamaConfig.from_dict({"model_type": "llama", "hidden_size": 64})

    config.num_hidden_layers = 3
    config.note = "mine"

    assert config.to_dict() == {
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "note": "mine",
    }


def test_saving_keeps_the_spelling_of_an_alias():
    config = T5Config.from_dict({"hidden_size": 64, "head_dim": 8})

    config.d_model = 32

    assert config.to_dict() == {"hidden_size": 32, "head_dim": 8}


def test_saving_leaves_out_a_foreign_field_that_was_deleted():
    config = LlamaConfig.from_dict({"model_type": "llama", "mystery": 1})

    del config.mystery

    assert config.to_dict() == {"model_type": "llama"}


def test_saving_follows_a_part_that_was_replaced():
    config = family_from_dict(published.VIDEO_LLAVA)

    config.text_config = LlamaConfig(vocab_size=99)

    assert config.to_dict()["text_config"] == LlamaConfig(vocab_size=99).to_dict()


def test_saving_follows_a_part_that_the_file_left_out():
    config = VideoLlavaConfig.from_dict({"model_type": "video_llava"})
    assert config.to_dict() == {"model_type": "video_llava"}

    config.text_config.vocab_size = 99

    assert config.to_dict()["text_config"]["vocab_size"] == 99
    assert VideoLlavaConfig.from_dict(config.to_dict()) == config


def test_saving_through_the_sister_family_renames_the_model_type():
    config = InstructBlipVideoConfig.from_dict(published.INSTRUCTBLIP_VICUNA)

    assert config.video_token_index is None
    assert config.image_token_index == 41
    assert config.to_dict()["model_type"] == "instructblipvideo"
    assert config.to_dict()["vision_config"]["model_type"] == "instructblipvideo_vision_model"
    assert InstructBlipVideoConfig.from_dict(config.to_dict()) == config


def test_reading_does_not_share_values_with_the_document():
    raw = copy.deepcopy(published.VIDEO_LLAVA_OF_5)
    config = family_from_dict(raw)

    config.vision_feature_layer.append(-1)
    config.raw["model_type"] = "other"

    assert raw == published.VIDEO_LLAVA_OF_5
    assert config.raw == raw
    assert config.to_dict()["vision_feature_layer"] == [-3, -2, -1]


def test_from_pretrained_reads_a_part_out_of_a_family(tmp_path):
    family_from_dict(published.VIDEO_LLAVA).save_pretrained(tmp_path)

    config = LlamaConfig.from_pretrained(tmp_path)

    assert config.vocab_size == 32064
    assert config.to_dict() == published.VIDEO_LLAVA["text_config"]


def test_from_pretrained_takes_changes(tmp_path):
    LlamaConfig().save_pretrained(tmp_path)

    config = LlamaConfig.from_pretrained(tmp_path / "config.json", vocab_size=5, attn_implementation="eager")

    assert config.vocab_size == 5
    assert config._attn_implementation == "eager"
    assert "attn_implementation" not in config.to_dict()
    with pytest.raises(
        UnknownArgument, match=r"LlamaConfig: no field named 'vocab_sice'; known: vocab_size, "
    ):
        LlamaConfig.from_pretrained(tmp_path, vocab_sice=5)


def test_from_pretrained_names_the_doors_when_there_is_no_folder():
    with pytest.raises(ConfigError, match=r"^some/model: no config.json here, expected .* watchword.load$"):
        VideoLlavaConfig.from_pretrained("some/model")


def test_from_json_file_refuses_what_is_not_a_config(tmp_path):
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text("[1]")

    with pytest.raises(ConfigError, match=r"a.json: not JSON \(.*\); expected a config.json"):
        LlamaConfig.from_json_file(tmp_path / "a.json")
    with pytest.raises(ConfigError, match=r"b.json: holds a JSON list, expected an object"):
        LlamaConfig.from_json_file(tmp_path / "b.json")


def test_family_from_dict_names_the_families_it_knows():
    with pytest.raises(ConfigError, match="folder: model_type is 'llava', expected one of instructblip, "):
        family_from_dict({"model_type": "llava"}, where="folder")


def test_reading_refuses_the_file_of_another_model():
    with pytest.raises(
        ConfigError, match="InstructBlipConfig: model_type is 'video_llava', expected 'instructblip'"
    ):
        InstructBlipConfig.from_dict(published.VIDEO_LLAVA)


def test_configs_compare_by_value():
    assert LlamaConfig() == LlamaConfig()
    assert LlamaConfig() != LlamaConfig(vocab_size=1)
    assert LlamaConfig() != T5Config()
    assert copy.deepcopy(family_from_dict(published.VIDEO_LLAVA)) == family_from_dict(published.VIDEO_LLAVA)
