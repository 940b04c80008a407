import json

import pytest

from watchword.prompt import Tokenizer
from watchword.train import folder, words

IDS = words.vocabulary()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("words")
    for name, content in folder.tokenizer_files().items():
        (path / name).write_text(json.dumps(content), encoding="utf-8")
    return Tokenizer.from_pretrained(path)


@pytest.mark.parametrize(
    "text",
    [
        "What happens?",
        "what colour is the Circle ?",
        "USER: Why, zebra?! ASSISTANT: The red circle moves left.",
    ],
)
def test_encode_equals_the_tokenizer(tokenizer, text):
    assert [IDS["<s>"], *words.encode(text, IDS)] == list(tokenizer(text)["input_ids"])


def test_unknown_words_become_unk(tokenizer):
    assert list(tokenizer("zebra what")["input_ids"]) == [IDS["<s>"], IDS["<unk>"], IDS["what"]]


@pytest.mark.parametrize(
    "text",
    [
        "The red circle moves left and the blue square grows.",
        "A red circle, a blue square and a white cross.",
        "None of them.",
    ],
)
def test_answers_come_back_exactly(tokenizer, text):
    assert tokenizer.decode([*words.encode(text, IDS), IDS["</s>"]], skip_special_tokens=True) == text


def test_placeholders_stand_side_by_side(tokenizer):
    ids = list(tokenizer("USER: <video><video>\nWhat happens? ASSISTANT:")["input_ids"])
    video = IDS["<video>"]
    assert ids == [
        IDS["<s>"],
        *words.encode("USER:", IDS),
        video,
        video,
        *words.encode("What happens? ASSISTANT:", IDS),
    ]
