import numpy as np
import pytest

from watchword.train import topics
from watchword.train.shapes import Thing

LEFT = Thing("red", "circle", "left", "large")
GROWS = Thing("blue", "square", "grows", "small")
STILL = Thing("white", "circle", "still", "small")


def answers(kind, things, tries=40):
    rng = np.random.default_rng(0)
    return {topics.CLIPS[kind](things, rng) for _ in range(tries)}


@pytest.mark.parametrize(
    ("kind", "things", "expected"),
    [
        ("happens", [LEFT, STILL], "The red circle moves left."),
        ("happens", [LEFT, GROWS], "The red circle moves left and the blue square grows."),
        ("happens", [STILL], "Nothing happens."),
        ("does", [LEFT], "It moves left."),
        ("does", [GROWS], "It grows."),
        ("does", [STILL], "It stays still."),
        ("colour", [LEFT], "Red."),
        ("shape", [GROWS], "A square."),
        ("count", [LEFT, GROWS, STILL], "Three."),
        ("moves", [LEFT, GROWS, STILL], "The red circle."),
        ("size", [LEFT], "Large."),
        ("listing", [LEFT, GROWS, STILL], "A red circle, a blue square and a white circle."),
        ("direction", [LEFT, GROWS], "Left."),
        ("changes", [STILL], "No."),
    ],
)
def test_ask_gives_the_answer_whatever_the_wording(kind, things, expected):
    asked = answers(kind, things)
    assert {answer for _, answer in asked} == {expected}
    assert len({question for question, _ in asked}) > 2


@pytest.mark.parametrize(
    ("kind", "things"),
    [
        ("colour", [LEFT, STILL]),  # two circles
        ("shape", [LEFT, Thing("red", "square", "up", "small")]),  # two red ones
        ("moves", [LEFT, Thing("green", "cross", "up", "small")]),  # two move
        ("size", [GROWS]),
        ("direction", [GROWS, STILL]),
    ],
)
def test_ask_gives_none_where_no_answer_is_right(kind, things):
    assert answers(kind, things) == {None}


def test_moves_says_none_where_nothing_changes_its_place():
    assert {asked[1] for asked in answers("moves", [GROWS, STILL]) if asked} == {"None of them."}


def test_exists_is_answered_by_what_is_there():
    for question, answer in answers("exists", [LEFT, GROWS], tries=200):
        named = any(name in question for name in ("red circle", "blue square"))
        assert answer == ("Yes." if named else "No.")


def test_does_never_asks_by_a_name_that_fits_two():
    for question, answer in answers("does", [LEFT, STILL], tries=200):
        assert "red" in question or "white" in question
        assert answer == ("It moves left." if "red" in question else "It stays still.")
