"""The embedded model's vocabulary: whole words, in small letters and with a capital, and its
`tokenizer.json`."""

import re
from typing import Any

from watchword.train.shapes import ACTIONS, COLOURS, SHAPES, SIZES

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "<image>", "<video>")
ROLES = ("USER", "ASSISTANT")
MARKS = (":", ".", ",", "?", "!", "'")
LITTLE = """
    a about above acts after an and answer appear appears are at become becomes before beginning
    below big both can change changes changing circles clip color colour comes count crosses
    describe dialog did direction do does doing each end first frame go goes going grow growing
    happen happening happens has have here history how image in is it its kind large last list
    little look looks many me move moved movement moves moving no none not nothing number object
    objects of on one ones or picture please question right s same scene see seen shape shapes show
    shown shrink shrinking size squares start stay stays tell that the them then there they thing
    things this three to triangles turn turning turns two vanish vanishes video way what where which
    who with yes you
"""
"""What questions and answers are made of besides the names of the world."""
WORDS = (
    *COLOURS,
    *SHAPES,
    *ACTIONS,
    *SIZES,
    *re.findall(r"\w+", LITTLE),
)
SPARE = """
    orange pink black brown bounces bounce jumps jump swings swing shakes shake
"""
"""Words that nothing here says or asks: they are free to be taught something new, with no change of the
vocabulary."""
SPLIT = re.compile(r"<unk>|\w+|[^\w\s]+")
"""The same cuts as the tokenizer's: runs of letters and digits, runs of other marks."""


def vocabulary() -> dict[str, int]:
    """Every token and its id."""
    small, spare = sorted({*WORDS}), re.findall(r"\w+", SPARE)
    tokens = (*SPECIAL, *ROLES, *MARKS)
    for some in (small, spare):
        tokens += (*some, *(word.capitalize() for word in some))
    return {token: index for index, token in enumerate(tokens)}


def encode(text: str, ids: dict[str, int]) -> list[int]:
    """The ids of a text, without the opening `<s>`; what the tokenizer gives, only faster for training."""
    return [ids.get(piece, ids["<unk>"]) for piece in SPLIT.findall(text)]


def tokenizer_json() -> dict[str, Any]:
    """The contents of `tokenizer.json`: one id a word, `<s>` in front, spaces but before marks when read
    back."""
    ids = vocabulary()
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
