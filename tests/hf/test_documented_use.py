"""The documented classes used as their documents use them, from a folder to text."""

import av
import numpy as np
import pytest
import torch
from PIL import Image

import watchword
from tests import folders
from tests.media.clips import write
from watchword import RequestError

BEAMS = {
    "do_sample": False,
    "num_beams": 5,
    "max_length": 256,
    "repetition_penalty": 1.5,
    "length_penalty": 1.0,
}


def read_as_documented(path, count):
    """Frames by the documented rule and loop."""
    container = av.open(str(path))
    total = container.streams.video[0].frames
    indices = np.arange(0, total, total / count).astype(int)
    container.seek(0)
    frames = [f for i, f in enumerate(container.decode(video=0)) if i in indices]
    return np.stack([f.to_ndarray(format="rgb24") for f in frames])


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("media") / "clip.mp4"
    write(path)
    return path


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    folder = folders.video_llava(tmp_path_factory.mktemp("llava"))
    model = watchword.VideoLlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return model, watchword.VideoLlavaProcessor.from_pretrained(folder)


def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))


def test_instructblip_answers_about_a_picture(tmp_path):
    folder = folders.instructblip(tmp_path)
    model = watchword.InstructBlipForConditionalGeneration.from_pretrained(folder)
    processor = watchword.InstructBlipProcessor.from_pretrained(folder)
    inputs = processor(images=picture(), text="What is unusual about this image?", return_tensors="pt").to(
        "cpu"
    )
    outputs = model.generate(**inputs, **BEAMS, min_length=1, top_p=0.9, temperature=1)
    text = processor.batch_decode(outputs, skip_special_tokens=True)[0].strip()
    assert text.startswith("What is unusual about this image?")


def test_instructblipvideo_answers_about_a_clip(tmp_path, clip):
    folder = folders.instructblip(tmp_path, video=True)
    model = watchword.InstructBlipVideoForConditionalGeneration.from_pretrained(folder, device_map="auto")
    processor = watchword.InstructBlipVideoProcessor.from_pretrained(folder)
    inputs = processor(text="What is happening?", images=read_as_documented(clip, 4), return_tensors="pt")
    outputs = model.generate(**inputs.to(model.device), **BEAMS)
    assert processor.batch_decode(outputs, skip_special_tokens=True)[0].startswith("What is happening?")


def test_video_llava_answers_about_a_clip_and_a_picture_together(llava, clip):
    model, processor = llava
    processor.tokenizer.padding_side = "left"
    prompts = [
        "USER: <image>\nHow many cats do you see? ASSISTANT:",
        "USER: <video>\nWhy is this video funny? ASSISTANT:",
    ]
    inputs = processor(
        text=prompts, images=picture(), videos=read_as_documented(clip, 8), padding=True, return_tensors="pt"
    )
    out = model.generate(**inputs, max_new_tokens=5)
    texts = processor.batch_decode(out, skip_special_tokens=True, clean_up_tokenization_spaces=True)
    assert "How many cats do you see? ASSISTANT:" in texts[0]
    assert "Why is this video funny? ASSISTANT:" in texts[1]
    assert out.shape[1] <= inputs["input_ids"].shape[1] + 5


def test_video_llava_max_length_below_the_prompt_names_max_new_tokens(llava, clip):
    model, processor = llava
    inputs = processor(
        text="USER: <video>\nWhy? ASSISTANT:", videos=read_as_documented(clip, 8), return_tensors="pt"
    )
    with pytest.raises(
        RequestError, match=r"max_length=20, but the prompt already has \d+; .* max_new_tokens"
    ):
        model.generate(**inputs, generation_config=watchword.GenerationConfig(max_length=21), max_length=20)


def test_video_llava_placeholders_without_media_are_an_error(llava):
    model, processor = llava
    ids = processor.tokenizer("USER: <video>\nWhy? ASSISTANT:", return_tensors="pt")
    with pytest.raises(
        RequestError, match=r"video features and video tokens do not match: tokens: 1 .*features 0"
    ):
        model.generate(**ids, max_new_tokens=3)


def test_video_llava_media_without_placeholders_are_an_error(llava):
    model, _ = llava
    with pytest.raises(
        RequestError, match=r"image features and image tokens do not match: tokens: 0 .*features 4"
    ):
        model(input_ids=torch.tensor([[1, 5, 6]]), pixel_values_images=torch.zeros(1, 3, 28, 28))


def test_pixels_that_are_no_numbers_are_an_error(llava):
    model, _ = llava
    pixels = torch.full((1, 3, 28, 28), float("nan"))
    with pytest.raises(RequestError, match=r"pixel_values_images: 2352 of 2352 values are NaN or infinite"):
        model.get_image_features(pixels)


def test_pixels_of_another_size_are_an_error(llava):
    model, _ = llava
    with pytest.raises(RequestError, match=r"\(?56.*28"):
        model.get_image_features(torch.zeros(1, 3, 56, 56))


@pytest.mark.parametrize("family", ["InstructBlip", "InstructBlipVideo"])
def test_default_configs_make_models_of_the_documented_size(family):
    config = getattr(watchword, f"{family}Config")()
    with torch.device("meta"):
        model = getattr(watchword, f"{family}ForConditionalGeneration")(config)
    assert model.num_parameters() > 1e9
    parts = (f"{family}VisionConfig", f"{family}QFormerConfig", "OPTConfig")
    objects = [getattr(watchword, name)() for name in parts]
    assert getattr(watchword, f"{family}Config").from_text_vision_configs(*objects).num_query_tokens == 32
