"""Questions as people put them: in other words, without capitals or marks, with words nobody taught."""

import re

import numpy as np

from watchword.train.questions import capital, one

REWORDINGS = (
    (
        r"(What happens|What is happening|Describe the video|Describe what happens)[?.]",
        (
            "Tell me what happens.",
            "Can you describe the video?",
            "Can you describe the clip please?",
            "Please describe what happens.",
            "What happens here?",
            "What can you see happening?",
            "Describe this clip.",
            "What do the objects do?",
        ),
    ),
    (
        r"(?:What does (the .+) do|What is (the .+) doing|How does (the .+) move)\?",
        (
            "Tell me what {} does.",
            "What did {} do?",
            "How is {} moving?",
            "Describe the movement of {}.",
            "What happens with {}?",
        ),
    ),
    (
        r"(?:Where does (the .+) go|Which way does (the .+) move)\?",
        (
            "Where is {} going?",
            "Which direction does {} go?",
            "In which direction is {} moving?",
            "Which way is {} going?",
            "What is the direction of {}?",
        ),
    ),
    (
        r"How many (?:objects|shapes|things) (?!.*\b(?:start|beginning|first|end|last)\b).+\?",
        (
            "How many are there?",
            "How many objects are shown?",
            "How many objects?",
            "What is the number of objects?",
            "How many shapes are in this clip?",
            "Tell me how many things you see.",
        ),
    ),
    (
        r"(?:Which one|Which object|What|Which shape|Which thing) (?:moves|is moving)\?",
        (
            "Who moves?",
            "What is it that moves?",
            "Tell me what moves.",
            "What moves in this clip?",
            "Which of them moves?",
            "Which object is it that is moving?",
        ),
    ),
    (
        r"(?:Which one|Which object|What) (?:moves (?:left|right|up|down)|grows|shrinks)\?",
        ("What is it that {}?", "Which of the objects {}?", "Who {}?", "Which thing {}?"),
    ),
    (
        r"What (?:colour|color) is (the .+)\?",
        ("{}: what colour?", "Tell me the color of {}.", "What colour has {}?", "Is {} red or blue or what?"),
    ),
    (
        r"What shape is (the .+)\?",
        ("What kind of shape is {}?", "Tell me the shape of {}.", "What shape has {}?", "What is {}?"),
    ),
    (
        r"What (?:do|can) you see\?",
        (
            "List the objects.",
            "What objects do you see?",
            "What is shown in the picture?",
            "Tell me what you see.",
        ),
    ),
    (
        r"(?:Which one|Which object|What) (?:turns|changes colour|appears|vanishes)\?",
        ("What is it that {}?", "Which of the objects {}?", "Who {}?", "Which thing {}?"),
    ),
    (
        r"(What happens first|What comes first|What happens at the beginning)\?",
        (
            "Tell me what happens first.",
            "What is the first thing that happens?",
            "What happens at first?",
            "Describe what comes first.",
        ),
    ),
    (
        r"(What happens last|What comes last|What happens at the end|What happens then)\?",
        (
            "Tell me what happens last.",
            "What is the last thing that happens?",
            "What happens after that?",
            "Describe what comes last.",
        ),
    ),
    (
        r"(?:Which|What) (?:colour|color) does (the .+) become\?",
        (
            "Tell me which color {} becomes.",
            "What does {} change to?",
            "What is the colour of {} at the end?",
        ),
    ),
    (
        r"What is (?:to the )?(left of|right of|above|below) the (.+)\?",
        ("Tell me what is {} the {}.", "What do you see {} the {}?", "What object is {} the {}?"),
    ),
)
"""Patterns of questions, and other ways to ask them, with a place for what the pattern's group holds."""


def reword(question: str, rng: np.random.Generator) -> str:
    """The question in other words, where there are some; half the time as it was."""
    for pattern, others in REWORDINGS:
        match = re.fullmatch(pattern, question)
        if match and rng.random() < 0.5:
            subjects = [group for group in match.groups() if group] or [verb_of(question)]
            return capital(one(rng, others).format(*subjects))
    return question


def verb_of(question: str) -> str:
    """What follows the subject of a question such as `Which object moves left?`"""
    return re.sub(r"^(Which one|Which object|What) |\?$", "", question)


def roughen(question: str, rng: np.random.Generator) -> str:
    """As people type: sometimes without capital or question mark, sometimes with words nobody taught."""
    if rng.random() < 0.25:
        question = question.lower()
    elif rng.random() < 0.05:
        question = question.title()
    if rng.random() < 0.15:
        question = question.rstrip("?.")
    if rng.random() < 0.06:
        words = question.split()
        words.insert(int(rng.integers(len(words) + 1)), "<unk>")
        question = " ".join(words)
    return question
