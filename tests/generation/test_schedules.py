"""Whatever runs beside it, whenever it joins and others leave: a request answers what it answers alone."""

import random

import pytest

from tests.generation.serving import CONFIGS, Asked, tiny
from watchword.generation.kept import Kept
from watchword.generation.options import GenerationOptions
from watchword.generation.requests import Ticket
from watchword.generation.serving import Engine, Limits

KINDS = (
    dict(),
    dict(repetition_penalty=1.4, no_repeat_ngram_size=2, min_new_tokens=3),
    dict(do_sample=True, top_k=0),
    dict(do_sample=True, temperature=0.6, top_k=9, top_p=0.9),
    dict(num_beams=3),
    dict(num_beams=2, num_return_sequences=2, length_penalty=-1.0, early_stopping=True),
    dict(num_beams=2, do_sample=True, top_k=0),
)
"""Options of all kinds."""


def drawn(name: str, draw: random.Random, common: tuple[int, ...]) -> Asked:
    """A request of any kind, whose prompt may begin as others do."""
    own = tuple(draw.randrange(1, 40) for _ in range(draw.choice([1, 3, 9, 30, 70])))
    options = GenerationOptions(
        max_new_tokens=draw.randint(1, 12), eos_token_ids=(2, 3), pad_token_id=0, **draw.choice(KINDS)
    )
    ids = own if draw.random() < 0.5 else (common + own)[:100]
    return Asked(name, ids, options, seed=draw.randrange(2**40), scope=draw.choice([None, "a", "a", "b"]))


def check(asked: Asked, ticket: Ticket) -> None:
    """The whole answer, or its beginning if it was cancelled."""
    assert ticket.error is None
    expected = asked.alone()
    if ticket.reason == "cancelled":
        for ids, whole in zip(ticket.sequences, expected):
            assert ids == whole[: len(ids)]
        return
    assert ticket.reason == "done"
    assert ticket.sequences == expected
    last = [ids[-1] in (2, 3) for ids in expected]
    assert [end == "eos" for end in ticket.ends] == last


def run(name: str, seed: int) -> int:
    """A random schedule; how many requests were answered to the end."""
    draw = random.Random(f"{name} {seed}")
    limits = Limits(rows=draw.choice([3, 6, 32]), bytes=draw.choice([None, 3_000_000]))
    kept = Kept(draw.choice([0, 60_000, 10**8]))
    engine = Engine(tiny(name), limits=limits, kept=kept, piece=draw.choice([5, 16, 64, 512]))
    common = tuple(draw.randrange(1, 40) for _ in range(90))
    left, open_, over = draw.randint(3, 8), [], []
    while left or open_:
        act = draw.random()
        if left and act < 0.3:
            asked = drawn(name, draw, common)
            open_.append((asked, engine.submit(asked.job())))
            left -= 1
        elif open_ and act > 0.98:
            engine.cancel(draw.choice(open_)[1])
        elif open_ and act > 0.96:  # someone waits for one token, which drives all, and leaves
            next(engine.steps(draw.choice(open_)[1]), None)
        else:
            engine.step()
        over += [pair for pair in open_ if pair[1].reason]
        open_ = [pair for pair in open_ if not pair[1].reason]
    for pair in over:
        check(*pair)
    assert engine.step() is False
    assert kept.stats().bytes <= kept.budget
    return sum(ticket.reason == "done" for _, ticket in over)


@pytest.mark.parametrize("name", CONFIGS)
def test_answers_are_those_of_requests_alone(name):
    assert sum(run(name, seed) for seed in range(5)) >= 12


@pytest.mark.parametrize("name", CONFIGS)
def test_answers_are_those_of_requests_alone_when_rows_attend_one_by_one(name, monkeypatch):
    monkeypatch.setattr("watchword.generation.rows.WASTE", 0)
    assert sum(run(name, seed) for seed in (205, 206)) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_answers_are_those_of_requests_alone_in_two_hundred_schedules(name):
    assert sum(run(name, seed) for seed in range(5, 205)) >= 600
