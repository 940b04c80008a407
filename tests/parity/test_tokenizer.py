"""The tokenizer against the reference's fast tokenizers, on small vocabularies of every kind."""

import itertools
import logging

import numpy as np
import pytest
import torch
import transformers

from tests.prompt.vocabularies import LINES, MAKERS, write_tokenizer
from watchword.prompt import Tokenizer

TEXTS = [
    "What is happening in this video?",
    "USER: <video>\nWhy, doesn't it? ASSISTANT:</s> <s>x [SEP]",
    "Ünï  日本語 🙂 café",
    "",
    " leading and trailing  ",
]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    return {kind: pair(write_tokenizer(folder / kind, kind)) for kind in MAKERS}


def pair(folder):
    transformers.logging.set_verbosity_error()
    return Tokenizer.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)


def assert_same(ours, theirs):
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        other = theirs[name]
        assert type(value) is type(other) or isinstance(value, list), name
        if isinstance(value, torch.Tensor):
            assert value.dtype == other.dtype, name
            assert torch.equal(value, other), name
        elif isinstance(value, np.ndarray):
            assert value.dtype == other.dtype, name
            assert [list(row) for row in value] == [list(row) for row in other], name
        else:
            assert value == other, name


@pytest.mark.parametrize("kind", MAKERS)
def test_tokenizer_attributes_agree(pairs, kind):
    ours, theirs = pairs[kind]
    names = (
        "padding_side",
        "truncation_side",
        "model_max_length",
        "model_input_names",
        "vocab_size",
        "bos_token",
        "eos_token",
        "unk_token",
        "pad_token",
        "cls_token",
        "sep_token",
        "mask_token",
        "bos_token_id",
        "eos_token_id",
        "unk_token_id",
        "pad_token_id",
        "cls_token_id",
        "sep_token_id",
        "mask_token_id",
        "special_tokens_map",
        "all_special_tokens",
        "all_special_ids",
        "additional_special_tokens",
        "clean_up_tokenization_spaces",
        "added_tokens_decoder",
    )
    transformers.logging.set_verbosity(logging.CRITICAL)
    for name in names:
        assert getattr(ours, name) == getattr(theirs, name), name
    assert len(ours) == len(theirs)
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.get_added_vocab() == theirs.get_added_vocab()
    assert ours.num_special_tokens_to_add() == theirs.num_special_tokens_to_add()
    for name in ("image_token", "video_token", "image_token_id"):
        assert getattr(ours, name, None) == getattr(theirs, name, None), name


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("tensors", [None, "pt", "np"])
def test_tokenizer_calls_agree(pairs, kind, tensors):
    ours, theirs = pairs[kind]
    grid = itertools.product(
        (True, False),
        (False, True, "longest", "max_length"),
        (None, False, True, "longest_first"),
        (None, 9, 24),
    )
    for special, padding, truncation, length in grid:
        if length is None and (truncation or padding == "max_length") and kind != "bert":
            continue  # without a limit: only warnings
        options = {
            "add_special_tokens": special,
            "padding": padding,
            "truncation": truncation,
            "max_length": length,
            "return_tensors": tensors,
        }
        texts = TEXTS
        if tensors == "pt" and (padding is False or not (truncation or padding != "max_length")):
            texts = TEXTS[:1]
        assert_same(ours(texts, verbose=False, **options), theirs(texts, verbose=False, **options))
        assert_same(ours(TEXTS[1], verbose=False, **options), theirs(TEXTS[1], verbose=False, **options))


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize(
    "options",
    [
        {"return_special_tokens_mask": True, "return_offsets_mapping": True, "return_length": True},
        {"return_token_type_ids": True, "return_attention_mask": False},
        {"return_overflowing_tokens": True, "max_length": 9, "truncation": True, "stride": 2},
        {
            "return_overflowing_tokens": True,
            "max_length": 9,
            "truncation": True,
            "padding": "max_length",
            "return_tensors": "pt",
        },
        {"padding": True, "padding_side": "left"},
        {"padding": True, "padding_side": "right", "pad_to_multiple_of": 8},
        {"padding": "max_length", "max_length": 40, "pad_to_multiple_of": 16},
        {"split_special_tokens": True},
        {"max_length": 8},
    ],
)
def test_tokenizer_options_agree(pairs, kind, options):
    ours, theirs = pairs[kind]
    assert_same(ours(TEXTS, verbose=False, **options), theirs(TEXTS, verbose=False, **options))
    assert_same(ours(TEXTS[1], verbose=False, **options), theirs(TEXTS[1], verbose=False, **options))


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_tokenizer_sides_agree_when_set(pairs, kind, side):
    ours, theirs = pairs[kind]
    before = theirs.padding_side, theirs.truncation_side
    for tokenizer in (ours, theirs):
        tokenizer.padding_side = tokenizer.truncation_side = side
    options = {"padding": True, "truncation": True, "max_length": 12}
    assert_same(ours(TEXTS, **options), theirs(TEXTS, **options))
    for tokenizer in (ours, theirs):
        tokenizer.padding_side, tokenizer.truncation_side = before


@pytest.mark.parametrize("kind", MAKERS)
def test_tokenizer_decoding_agrees(pairs, kind):
    ours, theirs = pairs[kind]
    rows = [theirs(text)["input_ids"] for text in TEXTS + LINES[:5]] + [
        list(range(min(len(theirs), 300))),
        [len(theirs) + 5],
    ]
    for skip, clean in itertools.product((False, True), (None, False, True)):
        options = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": clean}
        assert ours.batch_decode(rows, **options) == theirs.batch_decode(rows, **options)
    assert ours.decode(torch.tensor(rows[0])) == theirs.decode(torch.tensor(rows[0]))
    assert ours.decode(np.array(rows[0])) == theirs.decode(np.array(rows[0]))
    assert ours.decode(rows[0][0]) == theirs.decode(rows[0][0])
    for row in rows[:3]:
        tokens = theirs.convert_ids_to_tokens(row)
        assert ours.convert_ids_to_tokens(row) == tokens
        assert ours.convert_ids_to_tokens(row, skip_special_tokens=True) == theirs.convert_ids_to_tokens(
            row, skip_special_tokens=True
        )
        assert ours.convert_tokens_to_ids(tokens) == theirs.convert_tokens_to_ids(tokens)
        assert ours.convert_tokens_to_string(tokens) == theirs.convert_tokens_to_string(tokens)
    assert ours.convert_tokens_to_ids("no such token") == theirs.convert_tokens_to_ids("no such token")
    assert ours.tokenize(TEXTS[1]) == theirs.tokenize(TEXTS[1])
    assert ours.encode(TEXTS[1]) == theirs.encode(TEXTS[1])


@pytest.mark.parametrize("kind", MAKERS)
def test_tokenizer_additions_agree(tmp_path, kind):
    ours, theirs = pair(write_tokenizer(tmp_path, kind))
    for tokenizer in (ours, theirs):
        tokenizer.added = [
            tokenizer.add_tokens(["<new>", "walking"]),
            tokenizer.add_tokens("<extra>", special_tokens=True),
            tokenizer.add_special_tokens({"pad_token": "<PAD>", "additional_special_tokens": ["<a>", "<b>"]}),
            tokenizer.add_tokens(["<new>"]),
        ]
        tokenizer.sep_token = "<new>"
        tokenizer.mask_token_id = 5
    assert ours.added == theirs.added
    assert (ours.sep_token_id, ours.mask_token) == (theirs.sep_token_id, theirs.mask_token)
    assert ours.special_tokens_map == theirs.special_tokens_map
    text = "a <new> b <extra>walking <a> <PAD> café"
    assert_same(ours([text, "x"], padding=True), theirs([text, "x"], padding=True))
    ids = theirs(text)["input_ids"]
    assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("kind", MAKERS)
def test_tokenizer_saved_by_us_is_read_by_the_reference(tmp_path, kind):
    ours, _ = pair(write_tokenizer(tmp_path / "read", kind))
    ours.add_special_tokens({"additional_special_tokens": ["<sep>"]})
    ours.padding_side = "left"
    ours.chat_template = "{{ messages[0].content }}"
    ours.save_pretrained(tmp_path / "saved")
    again, theirs = pair(tmp_path / "saved")
    assert type(theirs).__name__ == type(pair(tmp_path / "read")[1]).__name__
    assert theirs.padding_side == again.padding_side == "left"
    assert theirs.chat_template == again.chat_template == ours.chat_template
    assert again.special_tokens_map == theirs.special_tokens_map == ours.special_tokens_map
    assert again.added_tokens_decoder == theirs.added_tokens_decoder == ours.added_tokens_decoder
    texts = [*TEXTS, "a <sep> b"]
    assert_same(again(texts, padding=True), theirs(texts, padding=True))
    assert_same(again(texts, padding=True), ours(texts, padding=True))


@pytest.mark.parametrize("kind", MAKERS)
def test_tokenizer_saved_by_the_reference_is_read(tmp_path, kind):
    _, theirs = pair(write_tokenizer(tmp_path / "read", kind))
    theirs.add_special_tokens({"pad_token": "<PAD>", "additional_special_tokens": ["<sep>"]})
    theirs.save_pretrained(tmp_path / "saved")
    ours, theirs = pair(tmp_path / "saved")
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert_same(ours([*TEXTS, "a <sep> b"], padding=True), theirs([*TEXTS, "a <sep> b"], padding=True))


@pytest.mark.parametrize("kind", ["bert", "opt"])
def test_tokenizer_from_plain_vocabulary_agrees(tmp_path, kind):
    ours, _ = pair(write_tokenizer(tmp_path, kind))
    ours.backend_tokenizer.model.save(str(tmp_path))
    (tmp_path / "tokenizer.json").unlink()
    ours, theirs = pair(tmp_path)
    assert_same(ours(TEXTS, padding=True), theirs(TEXTS, padding=True))
    assert ours.batch_decode(ours(TEXTS)["input_ids"]) == theirs.batch_decode(ours(TEXTS)["input_ids"])


@pytest.mark.parametrize("kind", MAKERS)
def test_tokenizer_without_a_class_agrees_with_the_plain_fast_tokenizer(tmp_path, kind):
    folder = write_tokenizer(tmp_path, kind, tokenizer_class="PreTrainedTokenizerFast")
    ours, theirs = pair(folder)
    assert ours.padding_side == theirs.padding_side
    assert_same(ours(TEXTS, padding=True), theirs(TEXTS, padding=True))


def test_tokenizer_case_and_prefix_settings_win_over_the_file(tmp_path):
    for kind, changes in (("bert", {"do_lower_case": False}), ("opt", {"add_prefix_space": True})):
        ours, theirs = pair(write_tokenizer(tmp_path / kind, kind, **changes))
        assert_same(ours(TEXTS, padding=True), theirs(TEXTS, padding=True))


def test_tokenizer_bos_and_eos_switches_agree(tmp_path):
    ours, theirs = pair(write_tokenizer(tmp_path, "llama"))
    for bos, eos in itertools.product((True, False), repeat=2):
        for tokenizer in (ours, theirs):
            tokenizer.add_bos_token, tokenizer.add_eos_token = bos, eos
        assert_same(ours(TEXTS, padding=True), theirs(TEXTS, padding=True))


def test_tokenizer_layout_inside_the_file_agrees(tmp_path):
    for kind in ("t5", "bert", "llama"):
        folder = write_tokenizer(tmp_path / kind, kind)
        backend = Tokenizer.from_pretrained(folder).backend_tokenizer
        backend.enable_truncation(7, stride=1, direction="left")
        backend.enable_padding(direction="left", pad_id=0, pad_token="<pad>", length=11)
        backend.save(str(folder / "tokenizer.json"))
        ours, theirs = pair(folder)
        assert (ours.padding_side, ours.truncation_side) == (theirs.padding_side, theirs.truncation_side)
        for name in ("max_length", "stride", "pad_to_multiple_of"):
            assert ours.init_kwargs[name] == theirs.init_kwargs[name]
        assert_same(ours(TEXTS, padding=True), theirs(TEXTS, padding=True))


CHAT = (
    "{% for m in messages %}{% if m.role not in ['user', 'assistant'] %}{{ raise_exception('who is ' ~ "
    "m.role) }}{% endif %}"
    "{{ bos_token }}{{ m.role | upper }}: {% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% else %}<{{ part.type }}>\n{% "
    "endif %}{% endfor %}"
    "{% endif %}{% if m.role == 'assistant' %}{% generation %} {{ m.content | trim }}{{ eos_token }}{% "
    "endgeneration %}"
    "{% endif %}\n{% if loop.index > 90 %}{% break %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}{{ {'a<': [1, tools]} | tojson }}{{ mood }}"
)
MESSAGES = [
    {
        "role": "user",
        "content": [{"type": "video", "path": "x.mp4"}, {"type": "text", "text": "Why, isn't it?"}],
    },
    {"role": "assistant", "content": "Because. "},
    {"role": "user", "content": "And  now?"},
]


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_tokenizer_chat_agrees(pairs, kind):
    ours, theirs = pairs[kind]
    for options in (
        {"tokenize": False},
        {"tokenize": False, "add_generation_prompt": True, "mood": "glad"},
        {"tokenize": True},
        {"return_dict": True, "return_tensors": "pt"},
        {"tokenize": False, "tools": [{"name": "f"}]},
        {"return_dict": True, "return_assistant_tokens_mask": True},
    ):
        for conversation in (MESSAGES, [MESSAGES[:2], MESSAGES[:2]]):
            a = ours.apply_chat_template(conversation, chat_template=CHAT, **options)
            b = theirs.apply_chat_template(conversation, chat_template=CHAT, **options)
            if isinstance(a, dict):
                assert_same(a, b)
            else:
                assert a == b
    for final in ("Because. ", "Because", " Because."):
        conversation = [MESSAGES[0], {"role": "assistant", "content": final}]
        options = {"chat_template": CHAT, "continue_final_message": True, "tokenize": False}
        assert ours.apply_chat_template(conversation, **options) == theirs.apply_chat_template(
            conversation, **options
        )
