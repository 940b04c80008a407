"""The documented processors: what they give for every mixture of inputs, and what they refuse."""

import inspect
import json

import numpy as np
import pytest
import torch
from PIL import Image

import watchword
from tests.prompt.vocabularies import write_tokenizer
from watchword.errors import CheckpointError, RequestError, UnknownArgument
from watchword.hf.processing import InstructBlipProcessor, InstructBlipVideoProcessor, VideoLlavaProcessor
from watchword.prompt import Tokenizer

QUERIES = 3
TEXTS = ["What is this?", "Why is this video funny, doesn't it?"]


def picture(seed=0, height=30, width=40):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def clip(seed=0, frames=4):
    return np.random.default_rng(seed).integers(0, 256, (frames, 30, 40, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizers")
    return {kind: write_tokenizer(root / kind, kind) for kind in ("llama", "t5", "bert")}


@pytest.fixture
def blip(folders):
    images = watchword.BlipImageProcessor(size={"height": 8, "width": 8})
    tokenizers = [Tokenizer.from_pretrained(folders[kind]) for kind in ("llama", "bert")]
    return InstructBlipProcessor(images, *tokenizers, num_query_tokens=QUERIES)


@pytest.fixture
def blip_video(folders):
    videos = watchword.InstructBlipVideoVideoProcessor(size={"height": 8, "width": 8})
    tokenizers = [Tokenizer.from_pretrained(folders[kind]) for kind in ("llama", "bert")]
    return InstructBlipVideoProcessor(videos, *tokenizers, num_query_tokens=QUERIES)


@pytest.fixture
def llava(folders):
    sizes = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    return VideoLlavaProcessor(
        watchword.VideoLlavaImageProcessor(**sizes),
        watchword.VideoLlavaVideoProcessor(**sizes),
        Tokenizer.from_pretrained(folders["llama"]),
    )


# ---- every mixture of inputs


def test_instructblip_text_only(blip):
    inputs = blip(text=TEXTS, padding=True, return_tensors="pt")
    assert list(inputs) == ["qformer_input_ids", "qformer_attention_mask", "input_ids", "attention_mask"]
    assert torch.equal(inputs.input_ids, blip.tokenizer(TEXTS, padding=True, return_tensors="pt").input_ids)
    assert torch.equal(
        inputs.qformer_input_ids, blip.qformer_tokenizer(TEXTS, padding=True, return_tensors="pt").input_ids
    )


def test_instructblip_image_only(blip):
    inputs = blip(images=picture(), return_tensors="pt")
    assert list(inputs) == ["pixel_values"]
    assert inputs.pixel_values.shape == (1, 3, 8, 8)


def test_instructblip_image_and_text(blip):
    inputs = blip(
        images=[picture(0), Image.fromarray(picture(1))], text=TEXTS, padding=True, return_tensors="pt"
    )
    assert list(inputs)[-1] == "pixel_values"
    image = blip.tokenizer.image_token_id
    words = blip.tokenizer(TEXTS, padding=True, return_tensors="pt")
    assert inputs.input_ids[:, :QUERIES].eq(image).all()
    assert torch.equal(
        inputs.input_ids[:, QUERIES:], words.input_ids
    )  # before BOS and before padding on the left
    assert inputs.attention_mask[:, :QUERIES].eq(1).all()
    assert torch.equal(inputs.attention_mask[:, QUERIES:], words.attention_mask)
    moved = inputs.to("cpu", torch.bfloat16)
    assert (moved.pixel_values.dtype, moved.input_ids.dtype) == (torch.bfloat16, torch.int64)


def test_instructblip_video_text_only(blip_video):
    inputs = blip_video(text=TEXTS[0], return_tensors="pt")
    assert list(inputs) == ["qformer_input_ids", "qformer_attention_mask", "input_ids", "attention_mask"]


def test_instructblip_video_video_only(blip_video):
    assert blip_video(images=clip(), return_tensors="pt").pixel_values.shape == (1, 4, 3, 8, 8)


def test_instructblip_video_image_only_is_a_clip_of_one_frame(blip_video):
    inputs = blip_video(images=Image.fromarray(picture()), text=TEXTS[0], return_tensors="pt")
    assert inputs.pixel_values.shape == (1, 1, 3, 8, 8)
    assert inputs.input_ids.eq(blip_video.tokenizer.video_token_id).sum() == QUERIES


@pytest.mark.parametrize("frames", [1, 3, 4, 9])
def test_instructblip_video_placeholders_follow_the_frames(blip_video, frames):
    inputs = blip_video(images=clip(0, frames), text=TEXTS[0], return_tensors="pt")
    assert inputs.pixel_values.shape[1] == frames
    assert inputs.input_ids.eq(blip_video.tokenizer.video_token_id).sum() == frames * QUERIES


@pytest.mark.parametrize("side", ["left", "right"])
def test_instructblip_video_clips_of_different_lengths(blip_video, side):
    blip_video.tokenizer.padding_side = side
    options = {
        "padding": True,
        "return_tensors": "pt",
        "return_special_tokens_mask": True,
        "return_length": True,
    }
    inputs = blip_video(images=[clip(0, 2), clip(1, 5)], text=TEXTS, **options)
    assert [len(pixels) for pixels in inputs.pixel_values] == [2, 5]
    video = blip_video.tokenizer.video_token_id
    assert inputs.input_ids.eq(video).sum(1).tolist() == [2 * QUERIES, 5 * QUERIES]
    assert inputs.length.tolist() == [inputs.input_ids.shape[1]] * 2
    for row, (text, frames) in enumerate(zip(TEXTS, (2, 5))):
        alone = blip_video(images=clip(row, frames), text=text, return_tensors="pt")
        real = inputs.attention_mask[row].bool()
        assert torch.equal(inputs.input_ids[row][real], alone.input_ids[0])
        assert inputs.input_ids[row][~real].eq(blip_video.tokenizer.pad_token_id).all()
        assert inputs.special_tokens_mask[row][~real].eq(1).all()
        assert torch.equal(inputs.pixel_values[row], alone.pixel_values[0])
    ragged = blip_video(images=[clip(0, 2), clip(1, 5)], text=TEXTS)
    assert len(ragged.input_ids[1]) - len(ragged.input_ids[0]) != 0


def test_video_llava_text_only(llava):
    inputs = llava(TEXTS[0])
    assert list(inputs) == ["input_ids", "attention_mask"]
    assert torch.equal(inputs.input_ids, llava.tokenizer(TEXTS[0], return_tensors="pt").input_ids)


def test_video_llava_image_only(llava):
    inputs = llava(images=picture())
    assert list(inputs) == ["pixel_values_images"]
    assert inputs.pixel_values_images.shape == (1, 3, 28, 28)


def test_video_llava_video_only(llava):
    inputs = llava(videos=clip())
    assert list(inputs) == ["pixel_values_videos"]
    assert inputs.pixel_values_videos.shape == (1, 4, 3, 28, 28)


def test_video_llava_mixed(llava):
    texts = ["USER: <image>\n<video>\nWhat? ASSISTANT:", "USER: <image>\nWhy? ASSISTANT:"]
    inputs = llava(texts, images=[picture(0), picture(1)], videos=clip(0, 3), padding=True)
    assert list(inputs) == ["pixel_values_images", "pixel_values_videos", "input_ids", "attention_mask"]
    image, video = llava.image_token_id, llava.video_token_id
    assert inputs.input_ids.eq(image).sum(1).tolist() == [4, 4]
    assert inputs.input_ids.eq(video).sum(1).tolist() == [3 * 5, 0]


def test_video_llava_videos_of_different_lengths(llava):
    texts = ["USER: <video>\nWhat? ASSISTANT:", "USER: <video>\nWhy? ASSISTANT:"]
    inputs = llava(texts, videos=[clip(0, 2), clip(1, 4)], padding=True)
    assert [len(pixels) for pixels in inputs.pixel_values_videos] == [2, 4]
    assert inputs.input_ids.eq(llava.video_token_id).sum(1).tolist() == [2 * 5, 4 * 5]


# ---- refusals


def test_nothing_given_is_refused(blip, blip_video, llava):
    for processor in (blip, blip_video, llava):
        with pytest.raises(
            RequestError, match=rf"{type(processor).__name__}: expected .*; got (neither|none of them)"
        ):
            processor()


def test_unequal_numbers_are_refused(blip, blip_video):
    with pytest.raises(
        RequestError, match=r"1 text\(s\) and 2 picture\(s\) or clip\(s\); expected one for each"
    ):
        blip([picture(), picture()], TEXTS[0])
    with pytest.raises(RequestError, match=r"2 text\(s\) and 1 picture\(s\) or clip\(s\)"):
        blip_video(clip(), TEXTS)


def test_placeholders_and_media_must_agree(llava):
    with pytest.raises(RequestError, match=r"hold 2 <image> \(\[2\] per text\) and 1 image\(s\) were given"):
        llava("<image> and <image>", images=picture())
    with pytest.raises(RequestError, match=r"hold 0 <video> \(\[0\] per text\) and 1 video\(s\) were given"):
        llava("<image> and", images=picture(), videos=clip())


def test_placeholders_cut_off_are_refused(llava):
    with pytest.raises(RequestError, match=r"Mismatch in `video` token count .*ids=\[19\] and text=\[20\]"):
        llava("<video> Why?", videos=clip(), truncation=True, max_length=20)


def test_unknown_arguments_are_refused(blip, blip_video, llava):
    for processor in (blip, blip_video, llava):
        for kind in (UnknownArgument, TypeError, ValueError):
            with pytest.raises(kind, match=r"unknown argument 'paddings'; did you mean 'padding'?"):
                processor(text=TEXTS[0], paddings=True)
    with pytest.raises(UnknownArgument, match="text_kwargs: unknown argument 'paddin'"):
        blip(text=TEXTS[0], text_kwargs={"paddin": True})
    with pytest.raises(UnknownArgument, match="videos_kwargs: unknown argument 'fps'"):
        blip(text=TEXTS[0], videos_kwargs={"fps": 2})
    with pytest.raises(RequestError, match="padding was given twice, in text_kwargs and by itself"):
        blip(text=TEXTS[0], padding=True, text_kwargs={"padding": True})
    with pytest.raises(UnknownArgument, match="InstructBlipProcessor: unknown argument 'num_query'"):
        InstructBlipProcessor(blip.image_processor, blip.tokenizer, blip.qformer_tokenizer, num_query=3)


def test_other_media_are_refused(blip):
    with pytest.raises(RequestError, match="InstructBlipProcessor: takes no videos; use images and text"):
        blip(text=TEXTS[0], videos=clip())
    with pytest.raises(RequestError, match="InstructBlipProcessor: takes no audio"):
        blip(text=TEXTS[0], audio=[0.0])


@pytest.mark.parametrize("wrong", [3, [], [["nested"]], [1]])
def test_text_must_be_text(blip, blip_video, llava, wrong):
    for processor in (blip, blip_video, llava):
        with pytest.raises(RequestError, match=r"text is (int|list), expected a string or a list of strings"):
            processor(text=wrong)


def test_max_length_must_hold_the_visual_tokens(blip):
    with pytest.raises(RequestError, match="max_length=2 has no room for the 3 visual tokens"):
        blip(text=TEXTS[0], max_length=2)


def test_rows_that_need_padding_are_refused_as_tensors(blip):
    with pytest.raises(
        RequestError, match=r"rows of lengths \[\d+, \d+\] cannot be one tensor; pass padding=True"
    ):
        blip(text=TEXTS, return_tensors="pt")


def test_parts_are_required(folders):
    tokenizer = Tokenizer.from_pretrained(folders["llama"])
    with pytest.raises(RequestError, match="VideoLlavaProcessor: image_processor is required"):
        VideoLlavaProcessor(tokenizer=tokenizer)
    with pytest.raises(RequestError, match="InstructBlipProcessor: qformer_tokenizer is required"):
        InstructBlipProcessor(watchword.BlipImageProcessor(), tokenizer, None)


# ---- attributes


def test_tips_of_the_documents_work(blip, llava):
    blip.tokenizer.padding_side = "right"
    blip.num_query_tokens = 7
    inputs = blip([picture(), picture()], TEXTS, padding=True, return_tensors="pt")
    assert inputs.input_ids.eq(blip.tokenizer.image_token_id).sum(1).tolist() == [7, 7]
    assert inputs.attention_mask[0, -1] == 0
    llava.patch_size, llava.num_additional_image_tokens = 7, 2
    llava.vision_feature_select_strategy = "full"
    assert llava("<image>", images=picture()).input_ids.eq(llava.image_token_id).sum() == 16 + 2


def test_processor_of_an_old_folder_writes_no_placeholders(folders):
    tokenizer, qformer = (Tokenizer.from_pretrained(folders[kind]) for kind in ("t5", "bert"))
    processor = InstructBlipProcessor(watchword.BlipImageProcessor(size=8), tokenizer, qformer)
    inputs = processor(picture(), TEXTS[0], return_tensors="pt", max_length=60)
    assert inputs.input_ids.tolist() == [tokenizer(TEXTS[0])["input_ids"]]
    assert "pixel_values" in inputs


def test_media_token_is_added_once(folders):
    tokenizer, qformer = (Tokenizer.from_pretrained(folders[kind]) for kind in ("t5", "bert"))
    size = len(tokenizer)
    for _ in range(2):
        processor = InstructBlipProcessor(watchword.BlipImageProcessor(), tokenizer, qformer, 2)
        assert len(tokenizer) == size + 1
        assert str(processor.image_token) == processor.image_token.content == "<image>"


def test_nulls_of_old_folders_mean_the_defaults(llava):
    processor = VideoLlavaProcessor(
        llava.image_processor,
        llava.video_processor,
        llava.tokenizer,
        None,
        vision_feature_select_strategy=None,
    )
    assert (processor.patch_size, processor.vision_feature_select_strategy) == (14, "default")


def test_signatures_are_the_documented_ones():
    names = {
        InstructBlipProcessor.__call__: "images text audio videos kwargs",
        InstructBlipVideoProcessor.__call__: "images text add_special_tokens padding truncation "
        "max_length stride "
        "pad_to_multiple_of return_attention_mask return_overflowing_tokens return_special_tokens_mask "
        "return_offsets_mapping return_token_type_ids return_length verbose return_tensors kwargs",
        VideoLlavaProcessor.__call__: "text images videos padding truncation max_length return_tensors",
        VideoLlavaProcessor.__init__: "image_processor video_processor tokenizer patch_size "
        "vision_feature_select_strategy image_token video_token chat_template num_additional_image_tokens "
        "kwargs",
    }
    for method, expected in names.items():
        assert list(inspect.signature(method).parameters) == ["self", *expected.split()]


# ---- folders


def test_folders_round_trip(blip, blip_video, llava, tmp_path):
    for processor in (blip, blip_video, llava):
        folder = tmp_path / type(processor).__name__
        assert processor.save_pretrained(folder) == [str(folder / "processor_config.json")]
        again = type(processor).from_pretrained(folder)
        assert again.to_dict() == processor.to_dict()
        assert again.model_input_names == processor.model_input_names
        assert again(text=TEXTS) == processor(text=TEXTS) if processor is not llava else True
        assert again.tokenizer(TEXTS) == processor.tokenizer(TEXTS)


def newer_layout(folder):
    """Rewrite a folder as the 5.x versions of the reference do: one file with the parts inside."""
    config = json.loads((folder / "processor_config.json").read_text())
    for name in ("image", "video"):
        file = folder / ("preprocessor_config.json" if name == "image" else "video_preprocessor_config.json")
        if file.exists():
            config[f"{name}_processor"] = json.loads(file.read_text())
            file.unlink()
    (folder / "processor_config.json").write_text(json.dumps(config))
    for words in (folder, folder / "qformer_tokenizer"):
        if words.exists():
            (words / "special_tokens_map.json").unlink()
            settings = json.loads((words / "tokenizer_config.json").read_text())
            del settings["added_tokens_decoder"]
            settings |= settings.pop("extra_special_tokens") | {
                "extra_special_tokens": [],
                "backend": "tokenizers",
            }
            settings["tokenizer_class"] = "TokenizersBackend"
            (words / "tokenizer_config.json").write_text(json.dumps(settings))


def test_newer_folders_are_read(blip, blip_video, llava, tmp_path):
    for processor, media in ((blip, picture()), (blip_video, clip()), (llava, None)):
        folder = tmp_path / type(processor).__name__
        processor.save_pretrained(folder)
        newer_layout(folder)
        again = type(processor).from_pretrained(folder)
        if media is None:
            ours, theirs = (p("<image> <video>", picture(), clip()) for p in (again, processor))
        else:
            ours, theirs = (p(media, TEXTS[0], return_tensors="pt") for p in (again, processor))
        assert list(ours) == list(theirs)
        for name in ours:
            assert torch.equal(ours[name], theirs[name]), name


def test_video_llava_folder_with_one_preprocessor_file(llava, tmp_path):
    llava.save_pretrained(tmp_path)
    (tmp_path / "video_preprocessor_config.json").unlink()
    (tmp_path / "processor_config.json").unlink()
    again = VideoLlavaProcessor.from_pretrained(tmp_path)
    assert (again.patch_size, again.num_additional_image_tokens) == (14, 1)
    assert again("<video>", videos=clip()).pixel_values_videos.shape == (1, 4, 3, 28, 28)


def test_arguments_of_from_pretrained_reach_their_part(blip, llava, tmp_path):
    blip.save_pretrained(tmp_path / "a")
    again = InstructBlipProcessor.from_pretrained(
        tmp_path / "a",
        num_query_tokens=9,
        padding_side="right",
        size={"height": 4, "width": 4},
        revision="main",
    )
    assert (again.num_query_tokens, again.tokenizer.padding_side) == (9, "right")
    assert again(picture(), return_tensors="pt").pixel_values.shape == (1, 3, 4, 4)
    llava.save_pretrained(tmp_path / "b")
    assert VideoLlavaProcessor.from_pretrained(tmp_path / "b", patch_size=7, num_frames=2).patch_size == 7
    with pytest.raises(
        UnknownArgument, match=r"from_pretrained: unknown argument 'patchsize'; did you mean 'patch_size'?"
    ):
        VideoLlavaProcessor.from_pretrained(tmp_path / "b", patchsize=7)
    with pytest.raises(RequestError, match="use_fast=True; pictures are resized by Pillow here"):
        InstructBlipProcessor.from_pretrained(tmp_path / "a", use_fast=True)
    with pytest.raises(RequestError, match="force_download is not supported"):
        InstructBlipProcessor.from_pretrained(tmp_path / "a", force_download=True)


def test_missing_folders_and_files_are_named(blip, tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        InstructBlipProcessor.from_pretrained(tmp_path / "nowhere")
    blip.save_pretrained(tmp_path)
    (tmp_path / "qformer_tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="qformer_tokenizer: no tokenizer"):
        InstructBlipProcessor.from_pretrained(tmp_path)


def test_saving_refuses_what_it_cannot(blip, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="is a file, expected a folder"):
        blip.save_pretrained(tmp_path / "file")
    with pytest.raises(RequestError, match="leave push_to_hub and legacy_serialization alone"):
        blip.save_pretrained(tmp_path, push_to_hub=True)


# ---- chat

TEMPLATE = (
    "{% for m in messages %}{{ m.role | upper }}: {% for part in m.content %}{% if part.type == 'text' %}{{ "
    "part.text }}"
    "{% else %}<{{ part.type }}>\n{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def message(*parts, role="user"):
    return [{"role": role, "content": list(parts)}]


@pytest.mark.parametrize(
    "source", ["chat_template.json", "chat_template.jinja", "processor_config.json", "tokenizer_config.json"]
)
def test_chat_template_comes_from_any_of_the_files(llava, tmp_path, source):
    llava.save_pretrained(tmp_path)
    file = tmp_path / source
    if source.endswith("jinja"):
        file.write_text(TEMPLATE)
    else:
        known = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(known | {"chat_template": TEMPLATE}))
    processor = VideoLlavaProcessor.from_pretrained(tmp_path)
    prompt = processor.apply_chat_template(message({"type": "video"}, {"type": "text", "text": "Why?"}))
    assert prompt == "USER: <video>\nWhy? "


def test_chat_without_a_template_is_refused(llava):
    with pytest.raises(RequestError, match="chat template: this checkpoint has none"):
        llava.apply_chat_template(message({"type": "text", "text": "Why?"}))


def test_chat_gives_inputs_with_its_media(llava, tmp_path):
    llava.chat_template = TEMPLATE
    Image.fromarray(picture()).save(tmp_path / "picture.png")
    conversation = message(
        {"type": "image", "path": str(tmp_path / "picture.png")},
        {"type": "video", "video": clip(0, 6)},
        {"type": "text", "text": "Why?"},
    )
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
    inputs = llava.apply_chat_template(conversation, num_frames=2, **options)
    prompt = "USER: <image>\n<video>\nWhy? ASSISTANT:"
    direct = llava(prompt, images=[picture()], videos=[clip(0, 6)[::3]])
    assert list(inputs) == list(direct)
    for name in inputs:
        assert torch.equal(inputs[name], direct[name]), name
    ids = llava.apply_chat_template(
        [conversation, conversation], tokenize=True, padding=True, add_generation_prompt=True
    )
    assert ids.shape[0] == 2
    assert torch.equal(ids[0], llava(prompt, images=[picture()], videos=[clip(0, 6)]).input_ids[0])


def test_chat_does_not_repeat_bos(llava):
    llava.chat_template = "{{ bos_token }}" + TEMPLATE
    ids = llava.apply_chat_template(message({"type": "text", "text": "Why?"}), tokenize=True)
    assert ids[0].tolist().count(llava.tokenizer.bos_token_id) == 1


def test_chat_of_instructblip(blip, blip_video):
    blip.chat_template = blip_video.chat_template = (
        "{% for part in messages[0].content %}{{ part.text }}{% endfor %}"
    )
    conversation = message({"type": "image", "image": picture()}, {"type": "text", "text": TEXTS[0]})
    inputs = blip.apply_chat_template(conversation, tokenize=True, return_dict=True, return_tensors="pt")
    direct = blip(picture(), TEXTS[0], return_tensors="pt")
    assert all(torch.equal(inputs[name], direct[name]) for name in direct)
    with pytest.raises(RequestError, match="the conversation has pictures; this family takes clips"):
        blip_video.apply_chat_template(conversation, tokenize=True)
    conversation = message({"type": "video", "video": clip(0, 5)}, {"type": "text", "text": TEXTS[0]})
    inputs = blip_video.apply_chat_template(
        conversation, tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert inputs.pixel_values.shape[1] == 5
    with pytest.raises(RequestError, match="the conversation has clips; this family takes pictures"):
        blip.apply_chat_template(conversation, tokenize=True)


def test_chat_marks_what_the_assistant_says(llava):
    llava.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}Q {{ m.content }}{% else %} A{% generation %} {{ "
        "m.content }}"
        "{% endgeneration %}{% endif %}{% endfor %}"
    )
    conversation = [
        {"role": "user", "content": "Why is this?"},
        {"role": "assistant", "content": "A cat chases"},
    ]
    inputs = llava.apply_chat_template(
        conversation, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt"
    )
    said = llava.decode(inputs.input_ids[0][inputs.assistant_masks[0].bool()])
    assert "cat chases" in said
    assert "Why" not in said
    with pytest.raises(
        RequestError, match="return_assistant_tokens_mask needs tokenize=True and return_dict=True"
    ):
        llava.apply_chat_template(conversation, return_assistant_tokens_mask=True)
    with pytest.raises(RequestError, match="load_audio_from_video; these models do not hear"):
        llava.apply_chat_template(conversation, load_audio_from_video=True)
