"""Folders written by either side answer alike on the other; transformers 5 spells configs and towers anew."""

import json

import pytest
import torch
import transformers as ref

import watchword
from tests.parity import tiny

BLIP = [(text, video) for video in (False, True) for text in tiny.TEXTS]
LLAVA = ["llama", "mistral"]
TOLERANCE = 2e-5  # of the largest value: the two sides sum in another order


def blip_inputs(video):
    token = tiny.VIDEO if video else tiny.IMAGE
    frames = 2 if video else 1
    words = torch.randint(3, 90, (2, 6))
    ids = torch.cat([torch.full((2, tiny.QUERIES * frames), token), words], dim=1)
    shape = (2, frames, 3, 28, 28) if video else (2, 3, 28, 28)
    return {
        "pixel_values": torch.randn(shape),
        "qformer_input_ids": torch.randint(0, 60, (2, 7)),
        "qformer_attention_mask": torch.tensor([[1] * 7, [1] * 4 + [0] * 3]),
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
    }


def llava_inputs():
    picture, clip = 4, 2 * 5
    row = [1, *[tiny.IMAGE] * picture, 7, 8, *[tiny.VIDEO] * clip, 9, 10]
    ids = torch.tensor([row, row])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values_images": torch.randn(2, 3, 28, 28),
        "pixel_values_videos": torch.randn(2, 2, 3, 28, 28),
    }


def logits(model, inputs, decoder_ids):
    more = {"decoder_input_ids": decoder_ids} if model.config.get_text_config().is_encoder_decoder else {}
    with torch.no_grad():
        return model(**inputs, **more).logits


def assert_answer_alike(ours, theirs, inputs):
    decoder_ids = torch.tensor([[0, 4, 5], [0, 6, 7]])
    tiny.agree(logits(ours, inputs, decoder_ids), logits(theirs, inputs, decoder_ids), tolerance=TOLERANCE)
    settings = {"max_new_tokens": 6, "do_sample": False, "num_beams": 1}
    assert ours.generate(**inputs, **settings).tolist() == theirs.generate(**inputs, **settings).tolist()


def case(family, text, video):
    if family == "video_llava":
        return tiny.video_llava(text), llava_inputs()
    return tiny.instructblip(text, video), blip_inputs(video)


CASES = [("instructblip", *one) for one in BLIP] + [("video_llava", text, True) for text in LLAVA]
NAMES = [f"{family}{'-video' if video else ''}-{text}" for family, text, video in CASES]


@pytest.mark.parametrize(("family", "text", "video"), CASES, ids=NAMES)
def test_folder_of_transformers_5_answers_alike_here(family, text, video, tmp_path):
    theirs, inputs = case(family, text, video)
    tiny.saved(theirs, tmp_path)

    ours = getattr(watchword, type(theirs).__name__).from_pretrained(tmp_path)

    assert_answer_alike(ours, theirs, inputs)
    assert ours.config.to_dict() == json.loads((tmp_path / "config.json").read_text())


@pytest.mark.parametrize(("family", "text", "video"), CASES, ids=NAMES)
def test_folder_written_here_answers_alike_in_transformers_5(family, text, video, tmp_path):
    theirs, inputs = case(family, text, video)
    tiny.saved(theirs, tmp_path / "theirs")
    ours = getattr(watchword, type(theirs).__name__).from_pretrained(tmp_path / "theirs")

    ours.save_pretrained(tmp_path / "ours", max_shard_size="60KB")
    again = type(theirs).from_pretrained(tmp_path / "ours", dtype="float32").eval()

    assert_answer_alike(ours, again, inputs)


@pytest.mark.parametrize(("family", "text", "video"), CASES, ids=NAMES)
def test_model_made_here_from_a_plain_config_answers_alike_in_transformers_5(family, text, video, tmp_path):
    theirs, inputs = case(family, text, video)
    tiny.saved(theirs, tmp_path / "theirs")
    ours_class = getattr(watchword, type(theirs).__name__)
    read = ours_class.config_class.from_pretrained(tmp_path / "theirs")
    plain = ours_class.config_class(**{**read.to_dict(), "dtype": None})
    ours = tiny.shaken(ours_class(plain))

    ours.save_pretrained(tmp_path / "ours")
    again = type(theirs).from_pretrained(tmp_path / "ours", dtype="float32").eval()

    assert_answer_alike(ours, again, inputs)


@pytest.mark.parametrize(
    "name", ["LlamaConfig", "MistralConfig", "OPTConfig", "T5Config", "CLIPVisionConfig"]
)
def test_default_config_of_transformers_5_is_kept(name):
    raw = json.loads(getattr(ref, name)().to_json_string())

    config = getattr(watchword, name).from_dict(raw)

    assert config.to_dict() == raw
    assert list(config.to_dict()) == list(raw)
