"""What callers give to documented classes: rows that do not fit, configs that are theirs, settings."""

import pytest
import torch

import watchword
from tests import folders
from watchword import ConfigError, GenerationConfig, RequestError, UnknownArgument


@pytest.fixture(scope="module")
def llava_folder(tmp_path_factory):
    return folders.video_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def llava(llava_folder):
    return watchword.VideoLlavaForConditionalGeneration.from_pretrained(llava_folder)


@pytest.fixture(scope="module")
def blips(tmp_path_factory):
    """InstructBLIP with LLaMA and with T5, and two prompts for each."""
    made = {}
    for text in ("llama", "t5"):
        folder = folders.instructblip(tmp_path_factory.mktemp(text), text=text)
        model = watchword.InstructBlipForConditionalGeneration.from_pretrained(folder)
        marks = torch.full((2, 3), model.config.image_token_index)
        made[text] = (
            model,
            {
                "pixel_values": torch.randn(2, 3, 28, 28),
                "qformer_input_ids": torch.tensor([[5, 6, 7], [8, 9, 10]]),
                "input_ids": torch.cat([marks, torch.randint(5, 90, (2, 6))], dim=1),
            },
        )
    return made


def ask_llava(model, **more):
    marks = torch.full((2, 4), model.config.image_token_index)
    ids = torch.cat([marks, torch.tensor([[9, 8, 7], [6, 5, 9]])], dim=1)
    return dict(input_ids=ids, pixel_values_images=torch.randn(2, 3, 28, 28), **more)


# ---- rows


@pytest.mark.parametrize("start", [[[0, 5]], [[0, 5]] * 3])
def test_a_decoder_begins_with_a_row_for_each_prompt(blips, start):
    model, given = blips["t5"]
    with pytest.raises(
        RequestError, match=r"decoder_input_ids: shape \(\d, 2\), torch.int64; expected ids, a"
    ):
        model.generate(**given, decoder_input_ids=torch.tensor(start))
    with pytest.raises(RequestError, match=r"decoder_input_ids: shape .*; expected ids, a row for each of 2"):
        model(**given, decoder_input_ids=torch.tensor(start))


def test_labels_of_t5_are_a_row_for_each_prompt_and_divided_as_asked(blips):
    model, given = blips["t5"]
    labels = torch.randint(5, 90, (2, 4))
    mean = model(**given, labels=labels).loss
    assert torch.allclose(model(**given, labels=labels, num_items_in_batch=100).loss, mean * 8 / 100)
    with pytest.raises(RequestError, match=r"labels: shape \(1, 4\).*a row for each of 2 prompts"):
        model(**given, labels=labels[:1])


@pytest.mark.parametrize("text", ["llama", "t5"])
def test_ids_past_the_vocabulary_say_so(blips, text):
    model, given = blips[text]
    with pytest.raises(
        RequestError, match=r"input_ids: from .* to 5000; expected ids from 0 to 599, for .*resi"
    ):
        model.generate(**given | {"input_ids": given["input_ids"].index_fill(1, torch.tensor([8]), 5000)})
    with pytest.raises(RequestError, match="qformer_input_ids: from 255 to 260; expected ids from 0 to 249"):
        model(**given | {"qformer_input_ids": given["qformer_input_ids"] + 250})


def test_options_name_the_ids_that_no_vocabulary_has(blips):
    model, given = blips["llama"]
    for name in ("suppress_tokens", "begin_suppress_tokens", "forced_eos_token_id", "eos_token_id"):
        with pytest.raises(RequestError, match=r"ids \[5000\] .*vocabulary has 600"):
            model.generate(**given, **{name: [5000]}, min_new_tokens=1, max_new_tokens=1)
    for name in ("suppress_tokens", "eos_token_id"):
        model.generate(**given, **{name: [2, -1]}, min_new_tokens=1, max_new_tokens=1)


# ---- media


def test_video_features_count_frames_whatever_form_the_clips_have(llava):
    clip = torch.randn(2, 3, 28, 28)
    for clips in (clip[None], [clip], [clip, clip]):
        tokens, frames = llava.get_video_features(clips)
        assert frames == 2
        assert tokens.shape[1:] == (5, 24)
    with pytest.raises(RequestError, match=r"get_video_features: clips of \[1, 2\] frames"):
        llava.get_video_features([clip, clip[:1]])
    with pytest.raises(RequestError, match=r"pixel_values_videos: got shape \[\]; expected"):
        llava.get_video_features([])


def test_generate_looks_at_the_layer_it_is_told(llava):
    given = ask_llava(llava, max_new_tokens=6, min_new_tokens=6)
    ways = ({}, {"vision_feature_layer": 0}, {"vision_feature_layer": llava.config.vision_feature_layer})
    found = [llava.generate(**given, **way).tolist() for way in ways]
    assert found[0] == found[2] != found[1]


# ---- settings


def test_a_config_given_stays_the_callers(llava_folder):
    config = watchword.VideoLlavaConfig.from_pretrained(llava_folder)
    before = config.to_dict()
    cls = watchword.VideoLlavaForConditionalGeneration
    first = cls.from_pretrained(llava_folder, config=config, attn_implementation="eager")
    cls.from_pretrained(llava_folder, config=config, vision_feature_layer=-1)
    assert (config._attn_implementation, config.to_dict()) == (None, before)
    assert first.config.vision_feature_layer == before["vision_feature_layer"]


def test_settings_of_generation_win_over_the_folders_file(llava_folder, tmp_path):
    cls = watchword.VideoLlavaForConditionalGeneration
    cls.from_pretrained(llava_folder).save_pretrained(tmp_path)
    GenerationConfig(max_length=25, top_k=7).save_pretrained(tmp_path)
    found = cls.from_pretrained(tmp_path, max_length=33).generation_config
    assert (found.max_length, found.top_k) == (33, 7)


def test_a_dictionary_changes_a_part_of_the_config(llava_folder):
    change = {"text_config": {"rms_norm_eps": 1e-3}}
    for config in (
        watchword.VideoLlavaConfig.from_pretrained(llava_folder, **change),
        watchword.VideoLlavaForConditionalGeneration.from_pretrained(llava_folder, **change).config,
    ):
        assert (config.text_config.rms_norm_eps, config.text_config.hidden_size) == (1e-3, 24)


def test_a_part_takes_what_it_gives_and_refuses_what_its_class_does(llava_folder):
    cls = watchword.VideoLlavaForConditionalGeneration
    config = watchword.VideoLlavaConfig.from_pretrained(llava_folder)
    changes = {"text_config": config.text_config.to_dict() | {"my_note": 1}, "model_type": "video_llava"}
    found = cls.from_pretrained(llava_folder, **changes, _attn_implementation="eager").config
    assert (found.text_config.my_note, found._attn_implementation) == (1, "eager")
    config.update({"text_config": {"rms_norm_eps": 0.5}})
    assert (config.text_config.rms_norm_eps, config.text_config.hidden_size) == (0.5, 24)
    with pytest.raises(ConfigError, match="tie_encoder_decoder is True, which is not implemented"):
        cls.from_pretrained(llava_folder, tie_encoder_decoder=True)


@pytest.mark.parametrize("name", ["to_dict", "_raw", "hiden_size"])
def test_only_fields_are_set(llava_folder, name):
    for cls in (watchword.VideoLlavaConfig, watchword.VideoLlavaForConditionalGeneration):
        with pytest.raises(UnknownArgument, match=name):
            cls.from_pretrained(llava_folder, **{name: 3})


def test_weights_are_of_a_floating_type(llava_folder):
    with pytest.raises(ConfigError, match=r"dtype torch\.int8: not a floating torch dtype"):
        watchword.VideoLlavaForConditionalGeneration.from_pretrained(llava_folder, dtype=torch.int8)


def test_generate_checks_its_arguments_before_it_looks(llava, blips, monkeypatch):
    monkeypatch.setattr(llava, "image_tokens", lambda *_, **__: pytest.fail("looked"))
    with pytest.raises(UnknownArgument, match="'max_new_tokns'; did you mean 'max_new_tokens'"):
        llava.generate(**ask_llava(llava, max_new_tokns=3))
    with pytest.raises(UnknownArgument, match="'pixel_values_image'; did you mean 'pixel_values_images'"):
        llava.generate(input_ids=torch.tensor([[5]]), pixel_values_image=1)
    model, given = blips["llama"]
    with pytest.raises(
        UnknownArgument, match="'qformer_attention_msk'; did you mean 'qformer_attention_mask'"
    ):
        model.generate(**given, qformer_attention_msk=1)


def test_penalties_on_the_prompt_know_the_ids_of_t5_too(blips):
    model, given = blips["t5"]
    ask = dict(given, max_new_tokens=8, min_new_tokens=8)
    plain = model.generate(**ask)
    assert not torch.equal(model.generate(**ask, encoder_repetition_penalty=9.0), plain)


def test_settings_as_a_model_holds_them_are_arguments(llava):
    settings = llava.generation_config.to_dict() | {"max_new_tokens": 3}
    assert llava.generate(input_ids=torch.tensor([[9, 8]]), **settings).shape[1] <= 5


# ---- caches


def test_a_cache_may_be_empty_and_has_the_models_layers(llava):
    ids = torch.tensor([[9, 8, 7]])
    first = llava(input_ids=ids[:, :2], past_key_values=())
    after = llava(input_ids=ids[:, 2:], past_key_values=first.past_key_values)
    assert torch.allclose(after.logits, llava(input_ids=ids).logits[:, 2:], atol=1e-5)
    with pytest.raises(RequestError, match="past_key_values: 1 layers; expected 2"):
        llava(input_ids=ids[:, 2:], past_key_values=tuple(first.past_key_values)[:1])


# ---- tokens


def test_parts_answer_the_generic_methods_as_far_as_they_can(blips):
    config = blips["llama"][0].config
    qformer = watchword.InstructBlipQFormerModel(config.qformer_config)
    vision = watchword.InstructBlipVisionModel(config.vision_config)
    for model in (qformer, vision):
        assert model.get_output_embeddings() is None
        model.tie_weights()
        with pytest.raises(RequestError, match="has no head"):
            model.set_output_embeddings(torch.nn.Linear(2, 2))
    assert qformer.resize_token_embeddings(260).num_embeddings == qformer.config.vocab_size == 260
    with pytest.raises(
        RequestError, match=r"the embedding of InstructBlipVisionModel is a .*; expected a table"
    ):
        vision.resize_token_embeddings(70)


@pytest.mark.parametrize("given", [{"new_num_tokens": -3}, {"new_num_tokens": 0}, {"pad_to_multiple_of": 0}])
def test_a_vocabulary_has_a_whole_number_of_tokens(llava, given):
    with pytest.raises(RequestError, match=f"{next(iter(given))}=.*; expected a whole number from 1 up"):
        llava.resize_token_embeddings(**given)


def test_parameters_in_few_bits_count_too(llava_folder, llava):
    few = watchword.VideoLlavaForConditionalGeneration.from_pretrained(llava_folder, quantize="int8")
    assert few.num_parameters() == llava.num_parameters()
