"""The embedded model's vocabulary: whole words, in small letters and with a capital, and its
`tokenizer.json`."""

import re
from typing import Any

from watchword.train.shapes import ACTIONS, COLOURS, SHAPES, SIZES

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "<image>", "<video>")
ROLES = ("USER", "ASSISTANT")
MARKS = (":", ".", ",", "?", "!", "'")
LITTLE = """
    a an and are at big both can clip color colour count describe direction do does doing each frame go
    goes going grow growing happen happening happens has have how image in is it its kind large little
    look looks many me move moved movement moves moving no none not nothing number object objects of on
    one ones or picture please s scene see seen shape shapes show shown shrink shrinking size stay stays
    tell that the them there they thing things this three to two video way what where which who with yes
    you
"""
"""What questions and answers are made of besides the names of the world."""
WORDS = (
    *COLOURS,
    *SHAPES,
    *ACTIONS,
    *SIZES,
    *re.findall(r"\w+", LITTLE),
)
MORE = """
    above acts about appear appears at become becomes before after beginning below change changes changing
    circles comes crosses end first last one right of same squares start then to triangles turn turning turns
    vanish vanishes did here list dialog history question answer
"""
"""What the wider world adds."""
SPLIT = re.compile(r"<unk>|\w+|[^\w\s]+")
"""The same cuts as the tokenizer's: runs of letters and digits, runs of other marks."""


def vocabulary(*, wide: bool = False) -> dict[str, int]:
    """Every token and its id; with those of the wider world if it is `wide`."""
    small = sorted({*WORDS, *(re.findall(r"\w+", MORE) if wide else ())})
    tokens = (*SPECIAL, *ROLES, *MARKS, *small, *(word.capitalize() for word in small))
    return {token: index for index, token in enumerate(tokens)}


def encode(text: str, ids: dict[str, int]) -> list[int]:
    """The ids of a text, without the opening `<s>`; what the tokenizer gives, only faster for training."""
    return [ids.get(piece, ids["<unk>"]) for piece in SPLIT.findall(text)]


def tokenizer_json(*, wide: bool = False) -> dict[str, Any]:
    """The contents of `tokenizer.json`: one id a word, `<s>` in front, spaces but before marks when read
    back."""
    ids = vocabulary(wide=wide)
    added = [
        {
            "id": ids[token],
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for token in SPECIAL
    ]
    opening = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    first, second = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [opening, first],
            "pair": [opening, first, second],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [ids["<s>"]], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "WordPiece", "prefix": "##", "cleanup": True},
                {"type": "Replace", "pattern": {"String": " :"}, "content": ":"},
            ],
        },
        "model": {"type": "WordLevel", "vocab": ids, "unk_token": "<unk>"},
    }
