"""Conversations about a world: questions that follow from what was said, with `it` and `And the square?`.

Whatever is asked has an exact answer; a pronoun stands only where the turn before was about one thing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from watchword.train import questions, topics
from watchword.train.questions import Asked, act, called, one, sentence
from watchword.train.shapes import STEPS, Thing
from watchword.train.topics import Kinds, alone

Talk = tuple[Asked, ...]
"""Questions and answers, one after the other."""


@dataclass(frozen=True)
class Turn:
    """One turn, what it was about, and which fact it asked for; "" where it was neither."""

    asked: Asked
    thing: Thing | None = None
    fact: str = ""


FACTS: dict[str, tuple[tuple[str, ...], Callable[[Thing], str | None]]] = {
    "colour": (
        ("What colour is it?", "What color is it?", "Which colour is it?"),
        lambda thing: None if thing.becomes else sentence(thing.colour),
    ),
    "shape": (("What shape is it?", "Which shape is it?"), lambda thing: f"A {thing.shape}."),
    "size": (
        ("How big is it?", "Is it small or large?", "What size is it?"),
        lambda thing: None if thing.action in ("grows", "shrinks") else sentence(thing.size),
    ),
    "does": (
        ("What does it do?", "What is it doing?", "What happens to it?"),
        lambda thing: sentence(f"it {act(thing)}"),
    ),
    "stirs": (
        ("Does it move?", "Is it moving?"),
        lambda thing: None if thing.action == "turns" else "Yes." if thing.action in STEPS else "No.",
    ),
}
"""What `it` may be asked, and the answer; None where there is none."""

SEEN = ("colour", "shape", "size")
"""Facts that a picture shows."""


def talk(
    things: Sequence[Thing], rng: np.random.Generator, *, turns: int, kinds: Kinds | None = None
) -> Talk:
    """A conversation of that many turns.

    Args:
        kinds: of questions that begin anew: `topics.CLIPS`, as for None, or `topics.PICTURES`.
    """
    kinds = topics.CLIPS if kinds is None else kinds
    facts = tuple(FACTS) if kinds is topics.CLIPS else SEEN
    left = list(rng.permutation(list(kinds)))
    said: list[Turn] = []
    while len(said) < turns:
        last = said[-1] if said else Turn(("", ""))
        draw, found = rng.random(), None
        if last.thing is not None and draw < 0.5:
            known = {turn.fact for turn in said if turn.thing is last.thing}
            found = about(last.thing, rng, [fact for fact in facts if fact not in known])
        elif last.thing is not None and last.fact and draw < 0.75:
            found = another(last.thing, last.fact, things, rng)
        elif not said and draw < 0.4:
            found = opening(things, rng, facts)
        if found is None:
            found = anew(kinds[left.pop() if left else "count"], things, rng)
        if found is not None and all(found.asked[0] != turn.asked[0] for turn in said):
            said.append(found)
    return tuple(turn.asked for turn in said)


def anew(kind: Callable, things: Sequence[Thing], rng: np.random.Generator) -> Turn | None:
    """A question that needs nothing said before; it is about a thing if its answer is one."""
    asked = kind(things, rng)
    if asked is None:
        return None
    return Turn(asked, next((thing for thing in things if asked[1] == f"The {thing.name}."), None))


def opening(things: Sequence[Thing], rng: np.random.Generator, facts: Sequence[str]) -> Turn:
    """A first question about one thing: whether it is there, or what it does."""
    thing = questions.favoured(things, rng)
    if "does" in facts and rng.random() < 0.5:
        question = one(rng, ("What does the {} do?", "What is the {} doing?", "What happens to the {}?"))
        return Turn(
            (question.format(called(thing, things, rng)), sentence(f"it {act(thing)}")), thing, "does"
        )
    return Turn((one(rng, ("Is there a {}?", "Do you see a {}?")).format(thing.name), "Yes."), thing)


def about(thing: Thing, rng: np.random.Generator, facts: Sequence[str]) -> Turn | None:
    """One more question about the same thing, by one of these facts."""
    if not facts:
        return None
    fact = one(rng, facts)
    words, answer = FACTS[fact]
    told = answer(thing)
    return None if told is None else Turn((one(rng, words), told), thing, fact)


def another(thing: Thing, fact: str, things: Sequence[Thing], rng: np.random.Generator) -> Turn | None:
    """The same question about another thing: "And the square?"."""
    others = [other for other in things if other is not thing]
    if not others:
        return None
    other = one(rng, others)
    told = FACTS[fact][1](other)
    if told is None:
        return None
    name = called(other, things, rng)
    if fact == "colour":  # not by what is asked for
        name = other.shape if alone(other, things, "shape") else ""
    elif fact == "shape":
        name = f"{other.colour} one" if alone(other, things, "colour") else ""
    question = one(rng, ("And the {}?", "What about the {}?")).format(name)
    return Turn((question, told), other, fact) if name else None
