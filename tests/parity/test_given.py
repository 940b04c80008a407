"""Lists, arrays and other things where tensors should be: words for it, whatever the annotations say.

Here because these tests run without the annotations being enforced.
"""

import numpy as np
import pytest
import torch
import transformers

import watchword
from tests import folders
from watchword import ConfigError, RequestError

PICTURE = np.zeros((40, 40, 3), np.uint8)


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    folder = folders.instructblip(tmp_path_factory.mktemp("blip"))
    model = watchword.InstructBlipForConditionalGeneration.from_pretrained(folder)
    return model, watchword.InstructBlipProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = folders.instructblip(tmp_path_factory.mktemp("clips"), video=True)
    model = watchword.InstructBlipVideoForConditionalGeneration.from_pretrained(folder)
    return model, watchword.InstructBlipVideoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    folder = folders.video_llava(tmp_path_factory.mktemp("llava"))
    model = watchword.VideoLlavaForConditionalGeneration.from_pretrained(folder)
    return model, watchword.VideoLlavaProcessor.from_pretrained(folder)


def test_frames_that_are_no_number():
    model = watchword.load()
    for frames in ("8", 2.5, [1]):
        with pytest.raises(RequestError, match=r"frames: .*; expected a whole number, or a choice"):
            model.ask(PICTURE, "What?", frames=frames)


@pytest.mark.parametrize("kind", [None, "np"])
def test_what_a_processor_returns_without_tensors(blip, clips, llava, kind):
    for (model, processor), given in (
        (blip, {"text": "hi", "images": PICTURE}),
        (clips, {"text": "hi", "images": [PICTURE] * 4}),
        (llava, {"text": "<image> hi", "images": PICTURE}),
    ):
        with pytest.raises(
            RequestError, match=r"is a (list|ndarray).*; expected a tensor; .*return_tensors='pt'"
        ):
            model.generate(**processor(**given, return_tensors=kind))


def test_caches_of_the_reference_are_filled(llava):
    model, ids = llava[0], torch.tensor([[9, 8, 7, 6]])
    whole = model(input_ids=ids).logits[:, -1]
    config = transformers.LlamaConfig(num_hidden_layers=2)
    for cache in (transformers.DynamicCache(), transformers.DynamicCache(config=config)):
        for part in ids.split([2, 1, 1], dim=1):
            found = model(input_ids=part, past_key_values=cache)
        assert found.past_key_values is cache
        assert cache.get_seq_length() == 4
        assert torch.allclose(found.logits[:, -1], whole, atol=1e-5)
    for cache in (transformers.StaticCache(config, max_cache_len=8), 3):
        with pytest.raises(
            RequestError, match=r"past_key_values: a (StaticCache|int); expected what this model"
        ):
            model(input_ids=ids, past_key_values=cache)


def test_configs_of_the_reference_build_models(llava, tmp_path):
    model, _ = llava
    model.save_pretrained(tmp_path)
    config = transformers.VideoLlavaConfig.from_pretrained(tmp_path)
    found = watchword.VideoLlavaForConditionalGeneration.from_pretrained(tmp_path, config=config)
    assert isinstance(found.config, watchword.VideoLlavaConfig)
    ids = torch.tensor([[9, 8, 7, 6]])
    assert torch.equal(found(input_ids=ids).logits, model(input_ids=ids).logits)


def test_lists_for_labels_and_places(llava, blip):
    ids = torch.tensor([[5, 6]])
    for given in ({"labels": [[5, 6]]}, {"position_ids": [[0, 1]]}):
        with pytest.raises(RequestError, match=f"{next(iter(given))} is a list; expected a tensor"):
            llava[0](input_ids=ids, **given)
    with pytest.raises(RequestError, match=r"labels: from -100 to 5000; expected ids from 0"):
        llava[0](input_ids=ids, labels=torch.tensor([[5, 5000]]))
    config = blip[0].config
    with pytest.raises(RequestError, match="pixel_values is a ndarray; expected a tensor"):
        watchword.InstructBlipVisionModel(config.vision_config)(PICTURE)
    with pytest.raises(RequestError, match="input_ids is a list; expected a tensor"):
        watchword.InstructBlipQFormerModel(config.qformer_config)([[1, 2]])


def test_embeddings_may_be_any_module(tmp_path):
    folder = folders.video_llava(tmp_path)
    model = watchword.VideoLlavaForConditionalGeneration.from_pretrained(folder)
    ids = torch.tensor([[9, 8]])
    before = model(input_ids=ids).logits
    model.set_input_embeddings(torch.nn.Sequential(model.get_input_embeddings()))
    assert torch.equal(model(input_ids=ids).logits, before)


def test_missing_pixels(blip):
    model, processor = blip
    with pytest.raises(RequestError, match="pixel_values: missing"):
        model.generate(**processor(text="hi", images=PICTURE, return_tensors="pt") | {"pixel_values": None})


def test_ids_and_embeddings_are_of_one_prompt(blip, llava):
    model, _ = llava
    embeds = model.get_input_embeddings()(torch.tensor([[9, 8]]))
    with pytest.raises(
        RequestError, match=r"input_ids: shape \(2, 2\), but the embeddings have \(1, 2, 24\)"
    ):
        model.generate(input_ids=torch.tensor([[9, 8], [7, 6]]), inputs_embeds=embeds)
    model, processor = blip
    given = processor(text=["hi", "ho"], images=[PICTURE] * 2, return_tensors="pt")
    embeds = model.get_input_embeddings()(given["input_ids"])
    with pytest.raises(
        RequestError, match=r"input_ids: shape \(2, \d+\), but the embeddings have \(1, \d+, 24"
    ):
        model(**given, inputs_embeds=embeds[:1])


def test_a_clip_without_the_axis_of_clips(llava):
    tokens, frames = llava[0].get_video_features(torch.randn(2, 3, 28, 28))
    assert (tokens.shape, frames) == ((2, 5, 24), 2)


def test_configs_that_are_none(llava):
    for given in ({}, {"a": 1}, 3):
        with pytest.raises(
            ConfigError, match=r"VideoLlavaForConditionalGeneration: config is a builtins\.(dict|int)"
        ):
            watchword.VideoLlavaForConditionalGeneration(given)
    with pytest.raises(
        ConfigError,
        match=r"InstructBlipModel: config is a watchword\.config.*VideoLlavaConfig; expected InstructBlip",
    ):
        watchword.InstructBlipModel(llava[0].config)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("exponential_decay_length_penalty", (2,)),
        ("max_time", "x"),
        ("temperature", "x"),
        ("top_p", "x"),
        ("length_penalty", "x"),
        ("exponential_decay_length_penalty", 5),
        ("pad_token_id", "x"),
        ("logits_processor", 3),
        ("generation_config", "x"),
    ],
)
def test_settings_of_another_type(llava, name, value):
    with pytest.raises(RequestError, match=f"generate: {name}"):
        llava[0].generate(input_ids=torch.tensor([[5, 6]]), **{name: value})
