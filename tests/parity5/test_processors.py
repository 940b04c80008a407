"""Processor folders written by either side give the same inputs on the other."""

import numpy as np
import pytest
import torch
import transformers as ref
from PIL import Image

import watchword
from tests.prompt.vocabularies import MAKERS

LONG = "What is happening in this video? A cat chases the red ball."
SHORT = "Why is this video funny?"
# Since version 5 the reference resizes pictures by torch, ours go as Pillow does it: a grey level apart.
ONE_GREY_LEVEL = 0.0151


def tokenizer(kind):
    """A tokenizer of the reference around a small vocabulary."""
    backend = MAKERS[kind]()
    special = {
        "llama": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"},
        "t5": {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
        "bert": {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]"},
    }[kind]
    return ref.PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="left", **special)


def instructblip(kind):
    return ref.InstructBlipProcessor(
        ref.BlipImageProcessor(size={"height": 28, "width": 28}),
        tokenizer(kind),
        tokenizer("bert"),
        num_query_tokens=4,
    )


def instructblip_video(kind):
    return ref.InstructBlipVideoProcessor(
        ref.InstructBlipVideoVideoProcessor(size={"height": 28, "width": 28}),
        tokenizer(kind),
        tokenizer("bert"),
        num_query_tokens=4,
    )


def video_llava(kind):
    size = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    words = tokenizer(kind)
    words.add_tokens(["<image>", "<video>"], special_tokens=True)
    return ref.VideoLlavaProcessor(
        ref.VideoLlavaImageProcessor(**size), ref.VideoLlavaVideoProcessor(**size), words, patch_size=14
    )


CASES = {
    "instructblip-llama": (instructblip, "llama"),
    "instructblip-t5": (instructblip, "t5"),
    "instructblipvideo-llama": (instructblip_video, "llama"),
    "instructblipvideo-t5": (instructblip_video, "t5"),
    "video_llava-llama": (video_llava, "llama"),
}


def media(family):
    """Two texts with one picture or clip each, as arguments of the family's processor.

    56 x 80 leaves an even margin around the centre: versions 4 and 5 round an odd one differently for clips.
    """
    draw = np.random.default_rng(0)
    pictures = [Image.fromarray(draw.integers(0, 256, (56, 80, 3), dtype=np.uint8)) for _ in range(2)]
    clips = [draw.integers(0, 256, (4, 56, 80, 3), dtype=np.uint8) for _ in range(2)]
    if family is instructblip:
        return {"text": [LONG, SHORT], "images": pictures}
    if family is instructblip_video:
        return {"text": [LONG, SHORT], "images": clips}
    return {
        "text": [f"USER: <image>\n{LONG}", f"USER: <video>\n{SHORT}"],
        "images": pictures[:1],
        "videos": clips[:1],
    }


def assert_inputs_alike(ours, theirs, family):
    arguments = media(family) | {"padding": True, "return_tensors": "pt"}
    mine, expected = ours(**arguments), theirs(**arguments)
    assert set(mine) == set(expected) - {"token_type_ids"}
    for name, value in mine.items():
        if name.startswith("pixel"):
            assert value.shape == expected[name].shape
            assert (value - expected[name]).abs().max() <= ONE_GREY_LEVEL
        else:
            assert torch.equal(value, expected[name]), name
    ids = expected["input_ids"].tolist()
    assert ours.batch_decode(ids, skip_special_tokens=True) == theirs.batch_decode(
        ids, skip_special_tokens=True
    )


@pytest.mark.parametrize(("family", "kind"), CASES.values(), ids=CASES)
def test_processor_folder_of_transformers_5_gives_the_same_inputs(family, kind, tmp_path):
    theirs = family(kind)
    theirs.save_pretrained(tmp_path)
    assert not (tmp_path / "preprocessor_config.json").exists()  # the newer layout: one nested file

    ours = getattr(watchword, type(theirs).__name__).from_pretrained(tmp_path)

    assert_inputs_alike(ours, theirs, family)


@pytest.mark.parametrize(("family", "kind"), CASES.values(), ids=CASES)
def test_processor_folder_written_here_gives_the_same_inputs(family, kind, tmp_path):
    theirs = family(kind)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = getattr(watchword, type(theirs).__name__).from_pretrained(tmp_path / "theirs")

    ours.save_pretrained(tmp_path / "ours")
    again = type(theirs).from_pretrained(tmp_path / "ours")

    assert_inputs_alike(ours, again, family)
