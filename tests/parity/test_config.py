"""Configs against transformers 4.56.2: signatures, defaults, and each side reading what the other wrote."""

import inspect
import json

import pytest
import transformers

import watchword.config as ours
from tests.config import published

NAMES = [
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
]

# Fields in which we differ on purpose.
#   head_dim of Mistral: derived here, left to the model there.
#   the rest: the reference's own records.
OURS_ALONE = {"MistralConfig": {"head_dim"}}
RECORDS = {"transformers_version", "_name_or_path", "dtype"}

LLAMA = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50}
TEXTS = {
    "llama": transformers.LlamaConfig(**LLAMA, rope_scaling={"type": "linear", "factor": 2.0}),
    "mistral": transformers.MistralConfig(
        **LLAMA, num_key_value_heads=2, sliding_window=None, pad_token_id=3
    ),
    "opt": transformers.OPTConfig(hidden_size=32, word_embed_proj_dim=16, do_layer_norm_before=False),
    "t5": transformers.T5Config(
        d_model=32, feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0
    ),
}
VISION = {"hidden_size": 24, "num_attention_heads": 2, "image_size": 28}


def their_families():
    for video, name in (("", "image_token_index"), ("Video", "video_token_index")):
        family = getattr(transformers, f"InstructBlip{video}Config")
        for text, config in TEXTS.items():
            made = family(VISION, {"hidden_size": 16}, config.to_dict(), num_query_tokens=4)
            setattr(made, name, 41)
            yield f"instructblip{video.lower()}-{text}", made
    for text in ("llama", "mistral"):
        made = transformers.VideoLlavaConfig(
            transformers.CLIPVisionConfig(**VISION),
            TEXTS[text],
            image_token_index=5,
            vision_feature_layer=[-2, -1],
        )
        made.pad_token_id = 0
        yield f"video_llava-{text}", made


THEIRS = dict(their_families())


def fields_of(config):
    """Every field of the reference as a plain value, parts included."""
    return {name: value for name, value in config.to_dict().items() if name not in RECORDS}


def assert_same_values(mine, theirs):
    skip = OURS_ALONE.get(type(mine).__name__, set())
    for name, expected in fields_of(theirs).items():
        if name in type(mine).parts:
            assert_same_values(getattr(mine, name), getattr(theirs, name))
        elif name == "model_type":
            assert mine.model_type == expected
        elif name == "id2label":
            assert mine.id2label == theirs.id2label
        elif name not in skip:
            assert getattr(mine, name) == expected, f"{type(mine).__name__}.{name}"


@pytest.mark.parametrize("name", NAMES)
def test_constructor_has_the_names_order_and_defaults_of_the_reference(name):
    def listed(cls):
        return [(p.name, p.kind, p.default) for p in inspect.signature(cls).parameters.values()]

    assert listed(getattr(ours, name)) == listed(getattr(transformers, name))


@pytest.mark.parametrize("name", NAMES)
def test_default_config_has_the_values_of_the_reference(name):
    assert_same_values(getattr(ours, name)(), getattr(transformers, name)())


@pytest.mark.parametrize("name", NAMES)
def test_all_base_attributes_of_the_reference_are_there(name):
    mine = getattr(ours, name)()

    missing = [
        attribute
        for attribute in vars(getattr(transformers, name)())
        if not attribute.startswith("_") and not hasattr(mine, attribute)
    ]

    assert missing == ["transformers_version"]


@pytest.mark.parametrize("theirs", THEIRS.values(), ids=THEIRS)
def test_folder_of_the_reference_is_read_alike_and_written_back_unchanged(theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())

    mine = getattr(ours, type(theirs).__name__).from_pretrained(tmp_path)

    assert_same_values(mine, type(theirs).from_pretrained(tmp_path))
    assert json.loads(mine.to_json_string(), object_pairs_hook=list) == json.loads(
        (tmp_path / "config.json").read_text(), object_pairs_hook=list
    )
    assert mine.to_dict() == raw


@pytest.mark.parametrize("theirs", THEIRS.values(), ids=THEIRS)
def test_folder_written_from_code_is_read_alike_by_the_reference(theirs, tmp_path):
    raw = {name: value for name, value in theirs.to_dict().items() if name != "transformers_version"}
    mine = getattr(ours, type(theirs).__name__)(**raw)

    mine.save_pretrained(tmp_path)

    assert_same_values(mine, type(theirs).from_pretrained(tmp_path))
    assert_same_values(type(mine).from_pretrained(tmp_path), theirs)


@pytest.mark.parametrize("name", NAMES)
def test_default_folder_is_read_alike_by_the_reference(name, tmp_path):
    mine = getattr(ours, name)()

    mine.save_pretrained(tmp_path)

    assert_same_values(mine, getattr(transformers, name).from_pretrained(tmp_path))


@pytest.mark.parametrize("name", NAMES)
def test_full_document_of_the_reference_is_kept(name):
    raw = json.loads(getattr(transformers, name)().to_json_string(use_diff=False))

    config = getattr(ours, name).from_dict(raw)

    assert config.to_dict() == raw
    assert list(config.to_dict()) == list(raw)


@pytest.mark.parametrize("key", ["instructblip_vicuna", "instructblip_flan", "video_llava"])
def test_published_shapes_are_read_as_the_reference_reads_them(key):
    raw = published.ALL[key]
    theirs = transformers.CONFIG_MAPPING[raw["model_type"]].from_dict(json.loads(json.dumps(raw)))

    mine = ours.family_from_dict(raw)

    assert_same_values(mine, theirs)


def test_a_change_before_saving_reaches_the_reference(tmp_path):
    THEIRS["instructblip-t5"].save_pretrained(tmp_path)
    mine = ours.InstructBlipConfig.from_pretrained(tmp_path)

    mine.text_config.vocab_size = 77
    mine.image_token_id = 76
    mine.dtype = "float16"
    mine.architectures = ["InstructBlipForConditionalGeneration"]
    mine.save_pretrained(tmp_path)

    theirs = transformers.InstructBlipConfig.from_pretrained(tmp_path)
    assert theirs.text_config.vocab_size == 77
    assert theirs.image_token_index == 76
    assert theirs.dtype == mine.dtype
    assert theirs.architectures == mine.architectures
