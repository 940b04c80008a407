"""Kinds of questions; beside those of `train.questions`: what comes first, where things stand, what becomes
of them. Each answer follows from what a clip of eight frames, or of four, shows.

`CLIPS` and `PICTURES` map the name of a kind to a function that asks one question of that kind, or returns
None where the world does not admit it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from watchword.train import questions
from watchword.train.questions import NUMBERS, Asked, act, called, favoured, joined, one, sentence
from watchword.train.shapes import COLOURS, SHAPES, STEPS, Thing

GAP = 0.18
"""Things are beside or above each other when their centres are this far apart, in parts of the side."""

SIDES = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
"""Axis and direction of each relation; y points down."""

VERBS = {
    "grows": "grow", "shrinks": "shrink", "turns": "turn", "becomes": "change colour", "appears": "appear",
    "vanishes": "vanish",
}  # fmt: skip
"""Actions as questions ask for them."""

PHRASES = {name: f"moves {name}" for name in STEPS} | {"becomes": "changes colour"}
"""Actions that are called otherwise when one asks who does them."""


def happens(things: Sequence[Thing], rng: np.random.Generator) -> Asked:
    """What the clip shows: every actor and its action, in their order where there is one."""
    question, _ = questions.happens(things, rng)
    actors = [thing for thing in things if thing.action != "still"]
    told = [f"the {thing.name} {act(thing)}" for thing in sorted(actors, key=lambda thing: thing.order)]
    if not told:
        return question, "Nothing happens."
    return question, sentence(f"{told[0]}, then {told[1]}" if actors[0].order else joined(told))


def colour(things: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    """The colour of the only thing of its shape, which keeps it."""
    kept = [thing for thing in things if alone(thing, things, "shape") and thing.action != "becomes"]
    return None if not kept else (questions.colour([one(rng, kept)], rng))


def alone(thing: Thing, things: Sequence[Thing], what: str) -> bool:
    """Whether no other has the same colour, or shape."""
    return sum(getattr(other, what) == getattr(thing, what) for other in things) == 1


def moves(things: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    """The only thing that changes its place; what turns may be said to move."""
    if any(thing.action == "turns" for thing in things):
        return None
    idle = not any(thing.action in STEPS for thing in things)
    return None if idle and rng.random() < 0.6 else questions.moves(things, rng)


def stirs(things: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    """Whether a thing changes its place."""
    movers = [thing for thing in things if thing.action in STEPS]
    others = [thing for thing in things if thing.action not in (*STEPS, "turns")]
    if not movers and (not others or rng.random() < 0.75):  # most things stay where they are
        return None
    thing = one(rng, movers if movers and (not others or rng.random() < 0.6) else others)
    question = one(rng, ("Does the {} move?", "Is the {} moving?")).format(called(thing, things, rng))
    return question, "Yes." if thing.action in STEPS else "No."


def exists(things: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    """Whether there is such a thing, at the start or later."""
    question, answer = questions.exists(things, rng)
    later = [f"{thing.becomes} {thing.shape}" for thing in things if thing.becomes]
    return None if any(name in question for name in later) else (question, answer)


def who(things: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    """The only thing that does a certain thing."""
    action = favoured(things, rng).action
    if action == "still" or rng.random() < 0.15:
        action = one(rng, (*STEPS, *VERBS))
    actors = [thing for thing in things if thing.action == action]
    if len(actors) > 1:
        return None
    question = one(rng, ("Which one {}?", "Which object {}?", "What {}?")).format(PHRASES.get(action, action))
    return question, f"The {actors[0].name}." if actors else "None of them."


def changes(things: Sequence[Thing], rng: np.random.Generator) -> Asked:
    """Whether a thing does something other than move."""
    thing = favoured(things, rng)
    action = thing.action if thing.action in VERBS and rng.random() < 0.75 else one(rng, tuple(VERBS))
    question = one(rng, ("Does the {} {}?", "Does the {} {} in the video?"))
    asked = question.format(called(thing, things, rng), VERBS[action])
    return asked, "Yes." if thing.action == action else "No."


def becomes(things: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    """The colour that a thing has in the end."""
    found = [thing for thing in things if thing.becomes]
    if not found:
        return None
    thing = one(rng, found)
    question = one(
        rng,
        (
            "Which colour does the {} become?",
            "Which color does the {} become?",
            "What colour does the {} become?",
            "What colour is the {} at the end?",
            "What does the {} become?",
        ),
    )
    return question.format(called(thing, things, rng)), sentence(thing.becomes)


def ordered(things: Sequence[Thing]) -> list[Thing]:
    """The one that acts first and the one that acts second; nobody where there is no order."""
    return sorted((thing for thing in things if thing.order), key=lambda thing: thing.order)


def first(things: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    """What happens first, or last."""
    if not (actors := ordered(things)):
        return None
    last = int(rng.integers(2))
    question = one(
        rng,
        (
            ("What happens first?", "What comes first?", "What happens at the beginning?"),
            ("What happens last?", "What comes last?", "What happens at the end?", "What happens then?"),
        )[last],
    )
    return question, sentence(f"the {actors[last].name} {act(actors[last])}")


def earlier(things: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    """Which of the two acts first."""
    if not (actors := ordered(things)):
        return None
    last = int(rng.integers(2))
    names = [called(thing, things, rng) for thing in actors]
    rng.shuffle(names)
    question = one(
        rng,
        (
            "Which one acts {}?",
            "Which one is {}?",
            "Which object comes {}?",
            "What comes {}, the " + names[0] + " or the " + names[1] + "?",
        ),
    )
    return question.format("last" if last else "first"), f"The {actors[last].name}."


def before(things: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    """Whether one thing happens before another."""
    if not (actors := ordered(things)):
        return None
    a, b = actors if rng.random() < 0.5 else actors[::-1]
    names = [called(thing, things, rng) for thing in (a, b)]
    question = f"Does the {names[0]} {infinitive(a)} before the {names[1]} {act(b)}?"
    return question, "Yes." if a.order < b.order else "No."


def infinitive(thing: Thing) -> str:
    """What a thing does, behind `does`."""
    found = act(thing).split(" ")
    plain = VERBS | {"moves": "move", "becomes": "become"}
    return " ".join([plain[found[0]], *found[1:]])


def stands(thing: Thing, other: Thing, side: str) -> bool | None:
    """Whether a thing is on that side of another all the time; None where it is sometimes, or hardly."""
    axis, sign = SIDES[side]
    apart = [sign * (a[axis] - b[axis]) for a in thing.path for b in other.path]
    if min(apart) > GAP:
        return True
    return False if max(apart) < -GAP else None


def lasting(things: Sequence[Thing]) -> list[Thing]:
    """Those that are there all the time: where something was that is not, can not be seen."""
    return [thing for thing in things if thing.action not in ("appears", "vanishes")]


def pairs(things: Sequence[Thing], sides: Sequence[str]) -> list[tuple[Thing, Thing, str, bool]]:
    """Two things, a side, and whether the first is on that side of the second, where that is plain to see."""
    there = lasting(things)
    both = [(a, b) for a in there for b in there if a is not b]
    found = [(a, b, side, stands(a, b, side)) for a, b in both for side in sides]
    return [(a, b, side, answer) for a, b, side, answer in found if answer is not None]


def beside(things: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    """Whether a thing is left of, right of, above or below another."""
    if not (found := pairs(things, tuple(SIDES))):
        return None
    a, b, side, answer = one(rng, found)
    question = one(rng, ("Is the {} {} the {}?", "Is the {} {} the {}?", "Do you see the {} {} the {}?"))
    asked = question.format(called(a, things, rng), spoken(side, rng), called(b, things, rng))
    return asked, "Yes." if answer else "No."


def spoken(side: str, rng: np.random.Generator) -> str:
    """A side in words."""
    return f"to the {side}" if side.endswith("of") and rng.random() < 0.3 else side


def side(things: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    """On which side of another a thing is."""
    words = one(rng, (("left of", "right of"), ("above", "below")))
    if not (found := pairs(things, words)):
        return None
    a, b, name, answer = one(rng, found)
    true = name if answer else words[1 - words.index(name)]
    names = called(a, things, rng), called(b, things, rng)
    swapped = words if rng.random() < 0.5 else words[::-1]
    plain = [word.removesuffix(" of") for word in swapped]
    question = f"Is the {names[0]} {plain[0]} or {swapped[1]} the {names[1]}?"
    return question, sentence(true.removesuffix(" of"))


def neighbour(things: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    """What is on one side of a thing, where that is one other or nothing."""
    found: dict[bool, list[tuple[Thing, str, str]]] = {True: [], False: []}
    for thing in lasting(things) if len(lasting(things)) == len(things) > 1 else ():
        for name in SIDES:
            answers = {other.name: stands(other, thing, name) for other in things if other is not thing}
            there = [other for other, answer in answers.items() if answer]
            if None not in answers.values() and len(there) < 2:
                found[bool(there)].append((thing, name, f"The {there[0]}." if there else "Nothing."))
    wanted = bool(rng.random() < 0.75)  # or "Nothing." would answer most questions
    if not found[wanted]:
        return None
    thing, name, answer = one(rng, found[wanted])
    question = one(rng, ("What is {} the {}?", "Which object is {} the {}?", "Which one is {} the {}?"))
    asked = question.format(spoken(name, rng), called(thing, things, rng))
    return asked, answer


def moment(things: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    """How many things there are at the start, or at the end, where that is not all the same."""
    words = one(
        rng, (("at the start", "at the beginning", "at first"), ("at the end", "in the end", "at last"))
    )
    gone = "appears" if words[0] == "at the start" else "vanishes"
    there = sum(thing.action != gone for thing in things)
    if len(lasting(things)) == len(things):
        return None
    question = one(rng, ("How many objects are there {}?", "How many objects do you see {}?",
                         "How many things are there {}?"))  # fmt: skip
    return question.format(one(rng, words)), f"{NUMBERS[there]}."


def number(things: Sequence[Thing], rng: np.random.Generator) -> Asked:
    """How many there are of a colour or of a shape; of those that are there twice where there are such, or
    "One." would answer most questions."""
    what, values = one(rng, (("colour", tuple(COLOURS)), ("shape", SHAPES)))
    counts = {value: sum(getattr(thing, what) == value for thing in things) for value in values}
    wanted = (2, 3) if max(counts.values()) > 1 and rng.random() < 0.7 else one(rng, ((0,), (1,)))
    value = one(rng, [value for value in values if counts[value] in wanted] or values)
    noun = f"{value} {one(rng, ('objects', 'things', 'shapes'))}" if what == "colour" else PLURALS[value]
    question = one(rng, ("How many {} are there?", "How many {} do you see?", "How many {} can you see?"))
    return question.format(noun), f"{NUMBERS[counts[value]]}."


PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}


def steady(function: Callable) -> Callable[[Sequence[Thing], np.random.Generator], Asked | None]:
    """A kind of question that is asked only where no colour changes."""

    def ask(things: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
        return None if any(thing.becomes for thing in things) else function(things, rng)

    return ask


Kinds = dict[str, Callable[[Sequence[Thing], np.random.Generator], Asked | None]]

PICTURES: Kinds = {
    "colour": colour,
    "shape": questions.shape,
    "count": questions.count,
    "size": questions.size,
    "exists": exists,
    "listing": questions.listing,
    "number": number,
    "beside": beside,
    "side": side,
    "neighbour": neighbour,
}
"""What one picture answers."""

CLIPS: Kinds = PICTURES | {
    "number": steady(number),
    "happens": happens,
    "does": questions.does,
    "moves": moves,
    "who": who,
    "stirs": stirs,
    "direction": questions.direction,
    "changes": changes,
    "becomes": becomes,
    "first": first,
    "earlier": earlier,
    "before": before,
    "moment": moment,
}
"""What a clip answers."""


def still(things: Sequence[Thing]) -> list[Thing]:
    """The same things where nothing happens."""
    return [replace(thing, action="still", becomes="", order=0, path=thing.path[:1]) for thing in things]
