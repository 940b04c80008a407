"""The documented model classes on what published folders hold."""

import pytest
import torch

import watchword
from tests import folders
from watchword import RequestError, UnknownArgument


@pytest.fixture(scope="module")
def blip_folder(tmp_path_factory):
    return folders.instructblip(tmp_path_factory.mktemp("blip"))


def test_instructblip_takes_pictures_when_the_folder_names_a_video_token_too(blip_folder, tmp_path):
    config = watchword.InstructBlipConfig.from_pretrained(blip_folder)
    both = watchword.InstructBlipConfig.from_dict(config.to_dict() | {"video_token_index": 7})
    model = watchword.InstructBlipForConditionalGeneration(both)
    assert model.medium == ("image", config.image_token_index)


def test_video_class_reads_an_image_folder_with_both_tokens(blip_folder, tmp_path):
    model = watchword.InstructBlipForConditionalGeneration.from_pretrained(blip_folder)
    model.config.video_token_index = 7
    model.save_pretrained(tmp_path)
    video = watchword.InstructBlipVideoForConditionalGeneration.from_pretrained(tmp_path)
    assert video.medium == ("video", 7)


def test_instructblip_refuses_clips_in_the_picture_class(blip_folder):
    model = watchword.InstructBlipForConditionalGeneration.from_pretrained(blip_folder)
    with pytest.raises(
        RequestError, match=r"shape \(1, 4, 3, 28, 28\); expected \(batch, 3, height, width\)"
    ):
        model.generate(pixel_values=torch.zeros(1, 4, 3, 28, 28), qformer_input_ids=torch.tensor([[1, 2]]))


def test_forward_names_the_nearest_argument(blip_folder):
    model = watchword.InstructBlipForConditionalGeneration.from_pretrained(blip_folder)
    with pytest.raises(UnknownArgument, match="'pixelvalues'; did you mean 'pixel_values'"):
        model(torch.zeros(1, 3, 28, 28), torch.tensor([[1, 2]]), pixelvalues=1)


def test_generate_needs_the_instruction_for_the_qformer(blip_folder):
    model = watchword.InstructBlipForConditionalGeneration.from_pretrained(blip_folder)
    with pytest.raises(RequestError, match="qformer_input_ids: missing"):
        model.generate(pixel_values=torch.zeros(1, 3, 28, 28))


def test_bare_generate_starts_from_placeholders_and_the_first_token(blip_folder):
    model = watchword.InstructBlipForConditionalGeneration.from_pretrained(blip_folder)
    ids = model.generate(
        pixel_values=torch.zeros(2, 3, 28, 28), qformer_input_ids=torch.tensor([[1, 2]] * 2), max_new_tokens=2
    )
    bos = model.config.text_config.bos_token_id
    assert ids[:, :4].tolist() == [[model.config.image_token_index] * 3 + [bos]] * 2


def test_from_pretrained_overrides_config_fields_and_refuses_unknown_names(blip_folder):
    load = watchword.InstructBlipForConditionalGeneration.from_pretrained
    assert load(blip_folder, output_attentions=True).config.output_attentions
    with pytest.raises(
        UnknownArgument, match=r"unknown argument 'attn_implementatio'; did you mean 'attn_implementation'"
    ):
        load(blip_folder, attn_implementatio="eager")


def test_resize_token_embeddings_moves_table_head_and_config(blip_folder):
    model = watchword.InstructBlipForConditionalGeneration.from_pretrained(blip_folder)
    before = model.get_input_embeddings().weight.detach().clone()
    model.resize_token_embeddings(610, pad_to_multiple_of=64)
    assert model.get_input_embeddings().weight.shape[0] == model.config.text_config.vocab_size == 640
    assert model.get_output_embeddings().weight.shape[0] == 640
    assert torch.equal(model.get_input_embeddings().weight[:600], before)


def test_bitsandbytes_config_quantizes_as_in_the_documents(blip_folder):
    nf4 = watchword.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float16
    )
    assert nf4.to_dict()["bnb_4bit_compute_dtype"] == "float16"
    cls = watchword.InstructBlipForConditionalGeneration
    model = cls.from_pretrained(blip_folder, quantization_config=nf4, device_map="auto")
    assert model.quantization.linears["nf4"] > 20
    assert isinstance(model.get_output_embeddings(), torch.nn.Linear)  # the head stays dense
    plain = cls.from_pretrained(blip_folder, quantization_config=watchword.BitsAndBytesConfig())
    assert not hasattr(plain, "quantization")  # neither 4 nor 8 bits are asked for
    skipping = watchword.BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["vision_model"])
    model = cls.from_pretrained(blip_folder, quantization_config=skipping)
    assert isinstance(model.vision_model.encoder.layers[0].mlp.fc1, torch.nn.Linear)
    assert not isinstance(model.language_model.model.layers[0].mlp.up_proj, torch.nn.Linear)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"bnb_4bit_quant_type": "int3"}, "quant_type 'int3'"),
        ({"load_in_8bit": True, "load_in_4bit": True}, "are both set"),
        ({"llm_int8_threshold": 4.0}, "llm_int8_threshold 4.0: not implemented"),
        ({"llm_int8_has_fp16_weight": True}, "llm_int8_has_fp16_weight True: not implemented"),
        (
            {"llm_int8_enable_fp32_cpu_offload": True},
            "llm_int8_enable_fp32_cpu_offload True: not implemented",
        ),
        ({"bnb_4bit_quant_storage": torch.bfloat16}, r"bnb_4bit_quant_storage torch\.bfloat16: not impl"),
        ({"bnb_4bit_compute_dtype": "blah"}, "bnb_4bit_compute_dtype 'blah'; expected a floating type"),
        (
            {"bnb_4bit_compute_dtype": torch.int8},
            r"bnb_4bit_compute_dtype torch\.int8; expected a floating type",
        ),
        ({"llm_int8_skip_modules": "lm_head"}, "llm_int8_skip_modules 'lm_head'; expected a list of names"),
    ],
)
def test_bitsandbytes_config_refuses_what_it_cannot_do(fields, said):
    with pytest.raises(watchword.ConfigError, match=said):
        watchword.BitsAndBytesConfig(**fields)


def test_quantization_config_of_another_kind_is_refused(blip_folder):
    cls = watchword.InstructBlipForConditionalGeneration
    with pytest.raises(
        watchword.ConfigError, match="quantization_config str: not implemented; expected watchwo"
    ):
        cls.from_pretrained(blip_folder, quantization_config="nf4")
    with pytest.raises(watchword.ConfigError, match="quantize 'int8' and quantization_config: give one"):
        cls.from_pretrained(blip_folder, quantization_config={"load_in_4bit": True}, quantize="int8")
    with pytest.raises(watchword.UnknownArgument, match="unknown argument 'load_in_3bit'"):
        cls.from_pretrained(blip_folder, quantization_config={"load_in_3bit": True})
    with pytest.raises(
        watchword.UnknownArgument, match=r"give quantization_config=BitsAndBytesConfig\(load_in_4bit=True\)"
    ):
        cls.from_pretrained(blip_folder, load_in_4bit=True)


def test_flash_attention_says_what_is_missing(blip_folder):
    with pytest.raises(watchword.MissingExtra, match="flash"):
        watchword.InstructBlipForConditionalGeneration.from_pretrained(
            blip_folder, attn_implementation="flash_attention_2"
        )
