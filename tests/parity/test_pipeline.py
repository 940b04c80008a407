"""The front door against the reference, end to end: the same file, the same folder, the same words."""

import numpy as np
import pytest
import transformers as ref

import watchword
from tests import folders
from tests.media.clips import decoded, write

PICTURE = np.random.default_rng(0).integers(0, 255, (40, 56, 3), np.uint8)
QUESTION = "What is unusual about this image?"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write(tmp_path_factory.mktemp("media") / "clip.mp4", frames=21)


def answered(family, folder, text, settings, **media):
    """The reference's answer."""
    processor = getattr(ref, f"{family}Processor").from_pretrained(folder)
    model = getattr(ref, f"{family}ForConditionalGeneration").from_pretrained(folder)
    inputs = processor(text=text, **media, return_tensors="pt")
    ids = model.generate(**inputs, **settings)
    if not model.config.text_config.is_encoder_decoder:
        ids = ids[:, inputs["input_ids"].shape[1] :]
    return processor.tokenizer.decode(ids[0], skip_special_tokens=True).strip()


SETTINGS = [
    ({}, {}),
    ({"beams": 4, "repetition_penalty": 1.5}, {"num_beams": 4, "repetition_penalty": 1.5}),
]


@pytest.mark.parametrize(("ours", "theirs"), SETTINGS)
def test_video_llava_answers_as_the_reference(tmp_path, clip, ours, theirs):
    folder = folders.video_llava(tmp_path)
    model = watchword.load(folder)
    for medium, source in (("image", PICTURE), ("video", clip)):
        answer = model.ask(source, QUESTION, max_tokens=12, **ours)
        media = (
            {"images": PICTURE}
            if medium == "image"
            else {"videos": np.stack(decoded(clip))[list(answer.frames)]}
        )
        text = f"USER: <{medium}>\n{QUESTION} ASSISTANT:"
        assert answer.text == answered("VideoLlava", folder, text, {"max_new_tokens": 12, **theirs}, **media)


@pytest.mark.parametrize(("ours", "theirs"), SETTINGS)
@pytest.mark.parametrize("text", ["llama", "opt", "t5"])
@pytest.mark.parametrize("video", [False, True])
def test_instructblip_answers_as_the_reference(tmp_path, clip, text, video, ours, theirs):
    folder = folders.instructblip(tmp_path, text=text, video=video)
    answer = watchword.load(folder).ask(clip if video else PICTURE, QUESTION, max_tokens=12, **ours)
    frames = np.stack(decoded(clip))[list(answer.frames)] if video else PICTURE
    family = "InstructBlipVideo" if video else "InstructBlip"
    assert answer.text == answered(family, folder, QUESTION, {"max_new_tokens": 12, **theirs}, images=frames)
