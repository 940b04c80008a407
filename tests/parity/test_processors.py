"""The processors against the reference: ids exactly, pixels within 2e-6, in every combination of inputs."""

import itertools
import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import watchword
import watchword.prompt
from tests.prompt.vocabularies import write_tokenizer

TEXTS = ["What is this?", "Why is this video funny, doesn't it? And what happens then?"]
SIZE = {"height": 12, "width": 12}
CROP = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
NAMES = {
    "InstructBlipProcessor": ("BlipImageProcessor", None),
    "InstructBlipVideoProcessor": (None, "InstructBlipVideoVideoProcessor"),
    "VideoLlavaProcessor": ("VideoLlavaImageProcessor", "VideoLlavaVideoProcessor"),
}


def picture(seed, height=30, width=40):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def clip(seed, frames=4, height=30, width=40):
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def build(library, tokenizers, name, kind, **fields):
    """One processor of one library, with that library's tokenizers."""
    image, video = NAMES[name]
    sizes = {"size": SIZE} if name.startswith("Instruct") else CROP
    parts = {}
    if image:
        parts["image_processor"] = getattr(library, image)(**sizes)
    if video:
        parts["video_processor"] = getattr(library, video)(**sizes)
    parts["tokenizer"] = tokenizers(kind)
    if name.startswith("Instruct"):
        parts["qformer_tokenizer"] = tokenizers("bert")
        fields = {"num_query_tokens": 5} | fields
    return getattr(library, name)(**parts, **fields)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    transformers.logging.set_verbosity_error()
    root = tmp_path_factory.mktemp("tokenizers")
    kinds = {kind: write_tokenizer(root / kind, kind) for kind in ("llama", "llama_new", "t5", "opt", "bert")}
    # without names for its media tokens, as InstructBLIP's folders are: with them the reference cannot take
    # pictures
    for side in ("", "left", "right"):
        changes = {"padding_side": side} if side else {}
        kinds[f"vicuna{side}"] = write_tokenizer(
            root / f"vicuna{side}", "llama", extra_special_tokens={}, **changes
        )
    return kinds


@pytest.fixture
def both(folders):
    """Makes the pair of processors, ours and theirs."""

    def make(name, kind, **fields):
        ours = build(
            watchword, lambda k: watchword.prompt.Tokenizer.from_pretrained(folders[k]), name, kind, **fields
        )
        theirs = build(
            transformers,
            lambda k: transformers.AutoTokenizer.from_pretrained(folders[k]),
            name,
            kind,
            **fields,
        )
        return ours, theirs

    return make


def assert_same(ours, theirs):
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        other = theirs[name]
        if not name.startswith("pixel"):
            same = (
                torch.equal(value, other)
                if isinstance(value, torch.Tensor)
                else np.array_equal(value, other)
                if isinstance(value, np.ndarray)
                else value == other
            )
            assert same, name
            continue
        if isinstance(other, list) and isinstance(value, list):
            assert len(value) == len(other)
        value, other = stacked(value), stacked(other)
        assert value.shape == other.shape
        assert value.dtype == other.dtype
        assert (value - other).abs().max() <= 2e-6, name


def stacked(rows):
    """Whatever holds pixels as one tensor."""
    if isinstance(rows, list):
        return torch.stack([stacked(row) for row in rows])
    return torch.as_tensor(rows)


LAYOUTS = [
    {},
    {"padding": True},
    {"padding": True, "return_tensors": "pt"},
    {"padding": True, "return_tensors": "np"},
    {"padding": "max_length", "max_length": 80, "return_tensors": "pt"},
    {"padding": "max_length", "max_length": 12, "truncation": True, "return_tensors": "pt"},
    {"padding": True, "max_length": 14, "truncation": True},
    {"max_length": 15},
    {"padding": True, "add_special_tokens": False},
    {"padding": True, "pad_to_multiple_of": 8, "return_tensors": "pt"},
    {"padding": True, "return_token_type_ids": True, "return_special_tokens_mask": True},
    {"padding": "longest", "return_offsets_mapping": True},
]


@pytest.mark.parametrize("kind", ["vicuna", "vicunaleft", "vicunaright", "t5", "opt"])
@pytest.mark.parametrize("medium", [True, False])
def test_instructblip_processor_agrees(both, kind, medium):
    ours, theirs = both("InstructBlipProcessor", kind)
    for options in LAYOUTS:
        inputs = {"text": TEXTS} | ({"images": [picture(0), picture(1, 41, 17)]} if medium else {})
        assert_same(ours(**inputs, **options), theirs(**inputs, **options))
    inputs = {"text": TEXTS[1]} | ({"images": picture(2)} if medium else {})
    for tensors in (None, "pt"):
        assert_same(ours(**inputs, return_tensors=tensors), theirs(**inputs, return_tensors=tensors))


@pytest.mark.parametrize("kind", ["vicuna", "vicunaleft", "t5", "opt"])
@pytest.mark.parametrize("medium", [True, False])
def test_instructblipvideo_processor_agrees(both, kind, medium):
    ours, theirs = both("InstructBlipVideoProcessor", kind)
    for options in LAYOUTS:
        if medium and options.get("return_tensors") == "np":
            continue  # the reference's video processors only give torch tensors
        inputs = {"text": TEXTS} | ({"images": [clip(0), clip(1)]} if medium else {})
        assert_same(ours(**inputs, **options), theirs(**inputs, **options))
    inputs = {"text": TEXTS[1]} | ({"images": clip(2)} if medium else {})
    assert_same(ours(**inputs, return_tensors="pt"), theirs(**inputs, return_tensors="pt"))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["InstructBlipProcessor", "InstructBlipVideoProcessor"])
def test_instructblip_processors_agree_when_a_side_is_set(both, name, side):
    for kind in ("vicuna", "vicunaleft", "vicunaright", "t5"):
        ours, theirs = both(name, kind)
        media = [picture(0), picture(1)] if name == "InstructBlipProcessor" else [clip(0), clip(1)]
        for processor in (ours, theirs):
            processor.tokenizer.padding_side = side
            processor.tokenizer.truncation_side = side
            processor.num_query_tokens = 3
        for options in (
            {"padding": True, "return_tensors": "pt"},
            {"padding": "max_length", "max_length": 13},
        ):
            options = {"truncation": True, **options} if "max_length" in options else options
            assert_same(ours(media, TEXTS, **options), theirs(media, TEXTS, **options))


def test_instructblip_media_only_agree(both):
    ours, theirs = both("InstructBlipProcessor", "t5")
    assert_same(ours(picture(0), return_tensors="pt"), theirs(picture(0), return_tensors="pt"))
    assert_same(ours(images=[picture(0)]), theirs(images=[picture(0)]))
    ours, theirs = both("InstructBlipVideoProcessor", "t5")
    assert_same(ours(clip(0), return_tensors="pt"), theirs(clip(0), return_tensors="pt"))
    frames = [Image.fromarray(frame) for frame in clip(0)]
    assert_same(ours(frames, return_tensors="pt"), theirs(frames, return_tensors="pt"))


def test_instructblip_grouped_options_agree(both):
    ours, theirs = both("InstructBlipProcessor", "vicuna")
    for options in (
        {"text_kwargs": {"padding": "max_length", "max_length": 30}, "images_kwargs": {"do_rescale": False},
         "common_kwargs": {"return_tensors": "pt"}},
        {"padding": True, "do_normalize": False, "size": {"height": 6, "width": 8}, "return_tensors": "pt"},
        {"padding": True, "padding_side": "right"},
    ):  # fmt: skip
        copies = [json.loads(json.dumps(options)) for _ in range(2)]
        media = [picture(0), picture(1)]
        assert_same(ours(media, TEXTS, **copies[0]), theirs(media, TEXTS, **copies[1]))


def test_instructblip_layout_saved_in_the_tokenizer_agrees(folders, both, tmp_path):
    folder = write_tokenizer(
        tmp_path, "llama", extra_special_tokens={}, max_length=20, stride=1, pad_to_multiple_of=None
    )
    folders["saved"] = folder
    ours, theirs = both("InstructBlipProcessor", "saved")
    for options in ({"padding": True, "verbose": False}, {}):
        assert_same(ours([picture(0)] * 2, TEXTS, **options), theirs([picture(0)] * 2, TEXTS, **options))


PROMPTS = {
    "text": (["USER: Why? ASSISTANT:", "USER: And what is that over there? ASSISTANT:"], 0, 0),
    "image": (["USER: <image>\nWhy? ASSISTANT:", "USER: What is it? <image> ASSISTANT:"], 2, 0),
    "video": (["USER: <video>\nWhy? ASSISTANT:", "USER: <video>What happens there? ASSISTANT:"], 0, 2),
    "mixed": (["USER: <image>\nWhy? ASSISTANT:", "USER: <video>\nWhat happens there? ASSISTANT:"], 1, 1),
    "row": (["USER: <image>\n<video><image> Why? ASSISTANT:", "USER: Hm? ASSISTANT:"], 2, 1),
}


@pytest.mark.parametrize("prompts", PROMPTS)
@pytest.mark.parametrize("kind", ["llama", "llama_new", "vicunaleft", "vicunaright"])
def test_video_llava_processor_agrees(both, kind, prompts):
    ours, theirs = both("VideoLlavaProcessor", kind)
    texts, images, videos = PROMPTS[prompts]
    inputs = {"text": texts}
    if images:
        inputs["images"] = [picture(n, 30 + n, 41) for n in range(images)]
    if videos:
        inputs["videos"] = [clip(n, 3, 30 + n, 41) for n in range(videos)]
    for options in (
        {"padding": True},
        {"padding": True, "return_tensors": None if videos else "np"},
        {"return_tensors": None},
        {"padding": "max_length", "max_length": 70},
        {"padding": True, "max_length": 90, "truncation": True},
    ):
        assert_same(ours(**inputs, **options), theirs(**inputs, **options))


@pytest.mark.parametrize(
    ("patch", "extra", "strategy"), list(itertools.product((14, 7), (0, 1, 2), ("default", "full")))
)
def test_video_llava_counts_agree(both, patch, extra, strategy):
    ours, theirs = both(
        "VideoLlavaProcessor",
        "llama",
        patch_size=patch,
        num_additional_image_tokens=extra,
        vision_feature_select_strategy=strategy,
    )
    inputs = {"text": PROMPTS["mixed"][0], "images": picture(0), "videos": clip(0, 2), "padding": True}
    assert_same(ours(**inputs), theirs(**inputs))
    for processor in (ours, theirs):
        processor.patch_size, processor.num_additional_image_tokens = 4, 3
        processor.vision_feature_select_strategy = "full"
        processor.tokenizer.padding_side = "right"
    assert_same(ours(**inputs), theirs(**inputs))


def test_video_llava_token_types_agree(folders, both, tmp_path):
    folders["plain"] = write_tokenizer(tmp_path, "llama", tokenizer_class="PreTrainedTokenizerFast")
    ours, theirs = both("VideoLlavaProcessor", "plain")
    assert_same(ours(PROMPTS["text"][0], padding=True), theirs(PROMPTS["text"][0], padding=True))


@pytest.mark.parametrize("name", NAMES)
def test_attributes_agree(both, name):
    ours, theirs = both(name, "t5" if name.startswith("Instruct") else "llama")
    assert ours.model_input_names == theirs.model_input_names
    for attribute in ("image_token", "video_token", "image_token_id", "video_token_id"):
        assert hasattr(ours, attribute) == hasattr(theirs, attribute), attribute
        if hasattr(ours, attribute):
            assert str(getattr(ours, attribute)) == str(getattr(theirs, attribute)), attribute
    assert ours.to_dict() == theirs.to_dict()
    ids = theirs.tokenizer(TEXTS)["input_ids"]
    assert ours.batch_decode(ids, skip_special_tokens=True) == theirs.batch_decode(
        ids, skip_special_tokens=True
    )
    assert ours.decode(ids[0]) == theirs.decode(ids[0])
    assert ours.post_process_image_text_to_text(ids) == theirs.post_process_image_text_to_text(ids)


def inputs_of(name):
    if name == "InstructBlipProcessor":
        return {"images": [picture(0), picture(1)], "text": TEXTS, "padding": True, "return_tensors": "pt"}
    if name == "InstructBlipVideoProcessor":
        return {"images": [clip(0), clip(1)], "text": TEXTS, "padding": True, "return_tensors": "pt"}
    return {"text": PROMPTS["mixed"][0], "images": picture(0), "videos": clip(0, 2), "padding": True}


@pytest.mark.parametrize("name", NAMES)
def test_saved_by_us_is_read_by_the_reference(both, tmp_path, name):
    ours, _ = both(name, "vicuna")
    ours.tokenizer.padding_side = "left"
    ours.chat_template = "{{ messages[0].role }}"
    ours.save_pretrained(tmp_path)
    theirs = getattr(transformers, name).from_pretrained(tmp_path)
    again = getattr(watchword, name).from_pretrained(tmp_path)
    assert_same(again(**inputs_of(name)), theirs(**inputs_of(name)))
    assert_same(ours(**inputs_of(name)), theirs(**inputs_of(name)))
    assert again.chat_template == ours.chat_template
    if name == "VideoLlavaProcessor":  # the other two of the reference take no template
        assert theirs.chat_template == ours.chat_template


@pytest.mark.parametrize("name", NAMES)
def test_saved_by_the_reference_is_read(both, tmp_path, name):
    _, theirs = both(name, "vicuna")
    theirs.save_pretrained(tmp_path)
    ours = getattr(watchword, name).from_pretrained(tmp_path)
    theirs = getattr(transformers, name).from_pretrained(tmp_path)
    assert ours.to_dict() == theirs.to_dict()
    assert_same(ours(**inputs_of(name)), theirs(**inputs_of(name)))


@pytest.mark.parametrize("name", NAMES)
def test_tokenizer_objects_of_the_reference_work(folders, both, name):
    _, theirs = both(name, "vicuna")
    ours = build(watchword, lambda k: transformers.AutoTokenizer.from_pretrained(folders[k]), name, "vicuna")
    assert_same(ours(**inputs_of(name)), theirs(**inputs_of(name)))


def test_prompt_segments_work_with_tokenizer_objects_of_the_reference(folders):
    from watchword.prompt import FORMATS, Detokenizer, StopStrings, Turn, encode_segments

    ours = watchword.prompt.Tokenizer.from_pretrained(folders["llama"])
    theirs = transformers.AutoTokenizer.from_pretrained(folders["llama"])
    for question in ("What is it?", "a </s> <video> b"):
        segments = FORMATS["video_llava"]([Turn(question, (("<video>", 4),))])
        assert encode_segments(theirs, segments) == encode_segments(ours, segments)
    stream = Detokenizer(theirs)
    ids = theirs("a 🙂 cat")["input_ids"]
    assert "".join([*(stream.push(index) for index in ids), stream.finish()]) == "a 🙂 cat"
    assert StopStrings(theirs, "cat")(ids)


CHAT = (
    "{% for m in messages %}{{ m.role | upper }}: {% for part in m.content %}{% if part.type == 'text' %}{{ "
    "part.text }}"
    "{% else %}<{{ part.type }}>\n{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}{{ mood }}"
)


def test_chat_prompts_agree(both):
    ours, theirs = both("VideoLlavaProcessor", "llama", chat_template=CHAT)
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "video"}, {"type": "text", "text": "Why? "}]}
    ]
    for options in (
        {},
        {"add_generation_prompt": True},
        {"mood": "glad"},
        {"chat_template": "{{ messages[0].role }}"},
        {"continue_final_message": True},
    ):
        for conversation in (messages, [messages, messages]):
            assert ours.apply_chat_template(conversation, **options) == theirs.apply_chat_template(
                conversation, **options
            )
