"""What is new in the wider world: seen in the frames, told in the answers, and nothing else changed."""

import json

import numpy as np
import pytest
import torch

from watchword.media.decode import read_frames
from watchword.train import novelty, words, world
from watchword.train.shapes import Thing

TIMES = np.linspace(0, 1, 9)[None]
JUMPER = Thing("red", "circle", novelty.ACTION, "large", path=((0.5, 0.8), (0.5, 0.4)))
PINK = Thing(novelty.COLOUR, "square", "still", "small", path=((0.2, 0.2), (0.2, 0.2)))
NEW = ("pink", "jump", "jumps")
PLAIN = Thing("red", "square", "up", "large", path=((0.5, 0.8), (0.5, 0.4)))


@pytest.fixture(scope="module")
def worlds():
    return novelty.sample(np.random.default_rng(3), 300)


def test_every_world_has_something_new_of_each_kind_a_third(worlds):
    pink, jumping = worlds.fresh.any(axis=1), worlds.back.any(axis=1)
    assert [(pink & ~jumping).sum(), (jumping & ~pink).sum(), (pink & jumping).sum()] == [100, 100, 100]
    assert worlds.fresh.sum(axis=1).max() == worlds.back.sum(axis=1).max() == 1
    assert not (worlds.fresh & (worlds.action == world.ACTIONS.index("becomes"))).any()


def test_what_jumps_goes_up_and_is_back_at_the_end(worlds):
    height = worlds.state(TIMES)[..., 1]
    for row, place in zip(*np.nonzero(worlds.back)):
        path = height[row, :, place]
        assert path[0] == path[-1]
        assert path.min() < path[0] - 0.15  # y points down
    others = ~worlds.back & (worlds.action == world.ACTIONS.index("up"))
    assert (height[:, -1][others] < height[:, 0][others] - 0.15).all()


def test_what_is_pink_is_painted_so(worlds):
    rows = np.flatnonzero(worlds.fresh.any(axis=1))[:20]
    some = worlds.pick(rows)
    pixels, _ = world.render(some, np.full((len(rows), 1), 0.05), 112)
    for row, place in zip(*np.nonzero(some.fresh)):
        if some.action[row, place] in (world.ACTIONS.index("appears"), world.ACTIONS.index("vanishes")):
            continue
        x, y = (some.start[row, place] * 112).astype(int)
        assert torch.allclose(pixels[row, 0, :, y, x], torch.tensor(novelty.RGB).float(), atol=25)


def test_things_are_told_by_their_new_names_in_order(worlds):
    for row in range(50):
        things = worlds.things(row)
        pink = [thing.colour == novelty.COLOUR for thing in things]
        assert pink == sorted(pink)
        assert sum(pink) == worlds.fresh[row].sum()
        assert sum(thing.action == novelty.ACTION for thing in things) == worlds.back[row].sum()


@pytest.mark.parametrize(
    ("ask", "things", "known"),
    [
        (novelty.jumps, [JUMPER], {"Yes."}),
        (novelty.jumps, [PLAIN], {"No."}),
        (novelty.exists, [PINK], {"Yes.", "No."}),
        (novelty.exists, [PLAIN], {"No."}),
    ],
)
def test_new_questions_have_exact_answers(ask, things, known):
    rng = np.random.default_rng(0)
    found = [ask(things, rng) for _ in range(40)]
    assert {answer for _, answer in found} == known
    for question, answer in found:
        if "pink" in question:
            assert (answer == "Yes.") == (
                any(f"pink {thing.shape}" in question for thing in things if thing is PINK)
            )


def test_a_lesson_asks_about_what_is_new_first_and_every_word_has_an_id(worlds):
    rng, ids = np.random.default_rng(1), words.vocabulary()
    for row in range(100):
        pairs = novelty.lesson(worlds.things(row), rng)
        assert 2 <= len(pairs) <= novelty.ASKS
        assert novelty.is_new(tuple(text.lower() for text in pairs[0]))
        for word in words.SPLIT.findall(" ".join(text for pair in pairs for text in pair)):
            assert word in ids or word.lower() in {*NEW, "<unk>"}, word


def test_clips_and_lines_are_what_training_reads(tmp_path):
    path = novelty.write(tmp_path, 5, seed=2)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [one["video"] for one in lines] == [f"{number}.mp4" for number in range(5)]
    new = [any(novelty.is_new((t["question"].lower(), t["answer"])) for t in one["turns"]) for one in lines]
    assert sum(new) >= 3
    assert read_frames(tmp_path / "0.mp4").frames.shape == (8, novelty.SIDE, novelty.SIDE, 3)
    again = novelty.write(tmp_path / "again", 5, seed=2)
    assert again.read_text() == path.read_text()


def test_the_exam_counts_exact_answers(tmp_path):
    class Known:
        def __init__(self, text):
            self.text = text

        def ask(self, path, question):
            return self

    share = novelty.exam(Known("Pink."), tmp_path, 90, seed=1, new=True)
    assert 0 < share < 1
    assert novelty.exam(Known("Never."), tmp_path, 5, seed=1, new=False) == 0
