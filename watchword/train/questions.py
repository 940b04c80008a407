"""Questions about the things of a world and their exact answers, in several wordings.

Each function asks one question of a kind, or returns None where the world does not admit one (an object that
cannot be told apart is never asked about). `train.topics` has more of them, and says which kinds there are.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from watchword.train.shapes import COLOURS, SHAPES, STEPS, Thing

NUMBERS = ("None", "One", "Two", "Three")
Asked = tuple[str, str]
"""A question and its answer."""


def act(thing: Thing) -> str:
    """What the thing does, as a verb phrase."""
    if thing.action in STEPS:
        return f"moves {thing.action}"
    if thing.becomes:
        return f"becomes {thing.becomes}"
    return "stays still" if thing.action == "still" else thing.action


T = TypeVar("T")


def one(rng: np.random.Generator, values: Sequence[T]) -> T:
    """One of the values."""
    return values[int(rng.integers(len(values)))]


def called(thing: Thing, things: Sequence[Thing], rng: np.random.Generator) -> str:
    """A way to speak of the thing that fits no other in the scene; mostly colour and shape."""
    names = [thing.name] * 3
    if sum(other.shape == thing.shape for other in things) == 1:
        names.append(thing.shape)
    if sum(other.colour == thing.colour for other in things) == 1:
        names.append(f"{thing.colour} {one(rng, ('object', 'one', 'thing', 'shape'))}")
    return one(rng, names)


def favoured(things: Sequence[Thing], rng: np.random.Generator) -> Thing:
    """One of the things; more often than not one that does something, or "It stays still." would answer
    most questions."""
    actors = [thing for thing in things if thing.action != "still"]
    return one(rng, actors) if actors and rng.random() < 0.75 else one(rng, things)


def joined(parts: Sequence[str]) -> str:
    """a, b and c."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def happens(things: Sequence[Thing], rng: np.random.Generator) -> Asked:
    """What the clip shows: every actor and its action."""
    question = one(
        rng,
        (
            "What happens?",
            "What happens?",
            "What happens in the video?",
            "What happens in this clip?",
            "What is happening?",
            "What is going on?",
            "Describe what happens.",
            "Describe the video.",
            "What do you see happening?",
        ),
    )
    actors = [f"the {thing.name} {act(thing)}" for thing in things if thing.action != "still"]
    return question, sentence(joined(actors)) if actors else "Nothing happens."


def capital(text: str) -> str:
    """With a capital at the front."""
    return text[:1].upper() + text[1:]


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return f"{capital(text)}."


def does(things: Sequence[Thing], rng: np.random.Generator) -> Asked:
    """What one object does."""
    thing = favoured(things, rng)
    question = one(
        rng,
        (
            "What does the {} do?",
            "What does the {} do?",
            "What is the {} doing?",
            "How does the {} move?",
            "What happens to the {}?",
            "What does the {} do in the video?",
            "Describe what the {} does.",
        ),
    )
    return question.format(called(thing, things, rng)), f"It {act(thing)}."


def colour(things: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    """The colour of the only object of its shape."""
    alone = [thing for thing in things if sum(other.shape == thing.shape for other in things) == 1]
    if not alone:
        return None
    thing = one(rng, alone)
    question = one(
        rng,
        (
            "What colour is the {}?",
            "What color is the {}?",
            "Which colour is the {}?",
            "What is the colour of the {}?",
            "What is the color of the {}?",
            "Which color does the {} have?",
        ),
    )
    return question.format(thing.shape), sentence(thing.colour)


def shape(things: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    """The shape of the only object of its colour."""
    alone = [thing for thing in things if sum(other.colour == thing.colour for other in things) == 1]
    if not alone:
        return None
    thing = one(rng, alone)
    question = one(
        rng,
        (
            "What shape is the {} object?",
            "What shape is the {} one?",
            "What shape is the {} thing?",
            "What is the shape of the {} object?",
            "Which shape does the {} object have?",
            "What is the {} object?",
            "What is the {} thing?",
        ),
    )
    return question.format(thing.colour), f"A {thing.shape}."


def count(things: Sequence[Thing], rng: np.random.Generator) -> Asked:
    """How many objects there are."""
    question = one(
        rng,
        (
            "How many objects are there?",
            "How many objects are there?",
            "How many shapes are there?",
            "How many objects do you see?",
            "How many things are in the video?",
            "How many shapes can you see?",
            "Count the objects.",
            "How many objects are in the picture?",
        ),
    )
    return question, f"{NUMBERS[len(things)]}."


def moves(things: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    """The only object that changes its place."""
    movers = [thing for thing in things if thing.action in STEPS]
    if len(movers) > 1 or (
        not movers and rng.random() < 0.5
    ):  # or "None of them." would answer most questions
        return None
    question = one(
        rng,
        (
            "Which one moves?",
            "Which one moves?",
            "Which object moves?",
            "What moves?",
            "Which shape moves?",
            "Which object is moving?",
            "What is moving?",
            "Which one is moving?",
            "Which thing moves?",
        ),
    )
    return question, f"The {movers[0].name}." if movers else "None of them."


def size(things: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    """How big an object is that keeps its size."""
    steady = [thing for thing in things if thing.action not in ("grows", "shrinks")]
    if not steady:
        return None
    thing = one(rng, steady)
    question = one(
        rng,
        ("How big is the {}?", "What size is the {}?", "How large is the {}?", "Is the {} small or large?"),
    )
    return question.format(called(thing, things, rng)), sentence(thing.size)


def exists(things: Sequence[Thing], rng: np.random.Generator) -> Asked:
    """Whether there is such an object."""
    if rng.random() < 0.5:
        name = one(rng, things).name
    else:
        name = f"{one(rng, tuple(COLOURS))} {one(rng, SHAPES)}"
    question = one(
        rng, ("Is there a {}?", "Do you see a {}?", "Can you see a {}?", "Is there a {} in the video?")
    )
    return question.format(name), "Yes." if name in [thing.name for thing in things] else "No."


def listing(things: Sequence[Thing], rng: np.random.Generator) -> Asked:
    """All objects, moving or not."""
    question = one(
        rng,
        (
            "What do you see?",
            "What can you see?",
            "What is in the picture?",
            "What is in the video?",
            "Which objects are there?",
            "What is there?",
            "Describe the picture.",
        ),
    )
    return question, sentence(joined([f"a {thing.name}" for thing in things]))


def direction(things: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    """Which way an object moves."""
    movers = [thing for thing in things if thing.action in STEPS]
    if not movers:
        return None
    thing = one(rng, movers)
    question = one(
        rng,
        (
            "Which way does the {} move?",
            "Where does the {} move?",
            "Where does the {} go?",
            "In which direction does the {} move?",
        ),
    )
    return question.format(called(thing, things, rng)), sentence(thing.action)
