import numpy as np
import pytest
import torch

from watchword.train.blip_student import BlipStudent
from watchword.train.lessons import Look
from watchword.train.mentions import MentionHeads, Mentions, mentioned
from watchword.train.readings import ReadingLessons
from watchword.train.shapes import ACTIONS, COLOURS, SHAPES, Thing
from watchword.train.words import SPLIT

LOOK = Look(frames=2)
RED = Thing("red", "circle", "left", "small", order=1, path=((0.8, 0.5), (0.2, 0.5)))
BLUE = Thing("blue", "circle", "still", "large", path=((0.2, 0.2),))
CROSS = Thing("red", "cross", "grows", "small", order=2, path=((0.5, 0.9),))
THINGS = [RED, BLUE, CROSS]


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("What does the red circle do?", {4: RED}),
        ("is the Blue one above the Cross", {3: BLUE, 6: CROSS}),
        ("What colour is the circle?", {}),  # there are two
        ("Is there a green circle?", {}),
        ("What is the red thing?", {}),
        ("How many red circles are there? Which one moves?", {}),
        ("The red circle moves left, then the red cross grows.", {2: RED, 9: CROSS}),
    ],
)
def test_a_name_is_found_where_it_fits_one_thing_alone(text, right):
    assert dict(mentioned(SPLIT.findall(text), THINGS)) == right


@pytest.mark.parametrize("picture", [True, False])
def test_mentions_of_a_pack_stand_at_the_words_that_name_them(picture):
    lessons = ReadingLessons(0, 0, clips=3, look=LOOK, asks=True, free=True)
    batch = lessons.batch(np.random.default_rng(0), picture)
    names = {index: word for word, index in LOOK.ids.items()}
    pack, told = batch.pack, batch.mentions
    assert len(told.row) > 10
    for row, column, (_, shape, _) in zip(told.row, told.column, told.looks):
        word = names[int(pack.ids[row, column])].lower()
        assert word in ("object", "thing", "one", "shape", SHAPES[shape])
        if word in SHAPES:
            before = names[int(pack.ids[row, column - 1])].lower()
            found = told.looks[(told.row == row) & (told.column == column), 0]
            assert before not in COLOURS or before == tuple(COLOURS)[found]
    if picture:
        assert (told.does[:, 0] == ACTIONS.index("still")).all()


def test_a_head_learns_what_is_named():
    torch.manual_seed(0)
    target = Mentions.of([(0, 3, 1, RED), (0, 5, -1, BLUE), (1, 2, -1, CROSS)])
    heads, states = MentionHeads(16), torch.randn(2, 8, 16)
    optimizer = torch.optim.Adam(heads.parameters(), lr=0.1)
    for _ in range(60):
        loss, right = heads(states, states, target, moving=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    assert set(right) == {"colour", "shape", "size", "action", "order"}
    assert all(value == 1 for value in right.values())
    assert set(heads(states, states, target, moving=False)[1]) == {"colour", "shape", "size"}


def test_names_of_answers_are_known_where_they_begin():
    lessons = ReadingLessons(0, 0, clips=3, look=LOOK, asks=True, free=True)
    batch = lessons.batch(np.random.default_rng(0), False)
    names = {index: word for word, index in LOOK.ids.items()}
    told = batch.mentions.coming()
    assert 3 < len(told.row) < len(batch.mentions.row)
    for row, column, (colour, _, _) in zip(told.row, told.column, told.looks):
        assert names[int(batch.pack.ids[row, column])].lower() in ("the", "a", "or")
        assert batch.pack.labels[row, column + 1] == LOOK.ids[tuple(COLOURS)[colour]]


def test_a_student_is_taught_by_mentions():
    student = BlipStudent(LOOK)
    batch = ReadingLessons(0, 0, clips=2, look=LOOK, asks=True).batch(np.random.default_rng(0), False)
    loss, report = student.loss(batch)
    loss.backward()
    assert all(weight.grad is not None for weight in student.mention.parameters())
    assert all(weight.grad is not None for weight in student.coming.parameters())
    assert {"named_action", "coming_colour"} <= report.keys()
