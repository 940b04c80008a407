"""In a conversation every answer is right, and `it` is what was spoken of."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from watchword.hf.language import IGNORED
from watchword.prompt.segments import Text, Turn, encode_segments, video_llava
from watchword.prompt.tokenizer import Tokenizer
from watchword.train import topics, words
from watchword.train.folder import tokenizer_files
from watchword.train.packing import labelled, opening, pack, pack_talks
from watchword.train.shapes import Thing
from watchword.train.talks import FACTS, another, talk
from watchword.train.world import sample

RED = Thing("red", "circle", "left", "large", path=((0.8, 0.2), (0.3, 0.2)))
GREEN = Thing("green", "square", "becomes", "small", "blue", path=((0.5, 0.7), (0.5, 0.7)))


def talks(number, *, turns=4, still=False, seed=0):
    rng = np.random.default_rng(seed)
    worlds = sample(rng, number, still=still)
    kinds = topics.PICTURES if still else None
    for row in range(number):
        yield worlds.things(row), talk(worlds.things(row), rng, turns=turns, kinds=kinds)


@pytest.mark.parametrize("still", [False, True])
def test_it_is_what_the_turn_before_was_about(still):
    found = {fact: 0 for fact in FACTS}
    for things, said in talks(400, still=still):
        assert len(said) == 4
        about = None
        for question, answer in said:
            fact = next((name for name, (asks, _) in FACTS.items() if question in asks), None)
            if fact is not None:
                assert about is not None, said
                assert answer == FACTS[fact][1](about)
                found[fact] += 1
            elif not question.startswith(("And the", "What about the")):
                about = subject(question, answer, things)
            else:
                about = subject(question, "", things)
    wanted = ("colour", "shape", "size") if still else tuple(FACTS)
    assert all(found[fact] > 15 for fact in wanted)
    assert all(found[fact] == 0 for fact in set(FACTS) - set(wanted))


def subject(question, answer, things):
    """The thing that an answer names, or else a question."""
    named = [thing for thing in things if answer == f"The {thing.name}."]
    if named:
        return named[0]
    mine = [thing for thing in things if thing.name in question]
    mine = mine or [t for t in things if re.search(rf"\b{t.shape}\b", question)]
    mine = mine or [t for t in things if re.search(rf"\b{t.colour}\b", question)]
    return mine[0] if len(mine) == 1 else None


def test_the_same_is_asked_of_another_without_giving_it_away():
    rng = np.random.default_rng(0)
    things = [RED, GREEN]
    for fact, (_, answer) in FACTS.items():
        turns = [another(RED, fact, things, rng) for _ in range(30)]
        turns = [turn for turn in turns if turn is not None]
        assert {turn.asked[1] for turn in turns} <= {answer(GREEN)}
        if fact == "colour":
            assert not turns  # it has two
        if fact == "shape":
            assert {turn.asked[0] for turn in turns} == {"And the green one?", "What about the green one?"}
    white = replace(GREEN, colour="white", becomes="", action="still")
    asked = {another(RED, "colour", [RED, white], rng).asked for _ in range(30)}
    assert asked == {("And the square?", "White."), ("What about the square?", "White.")}
    twins = [RED, replace(RED, colour="blue")]
    assert another(RED, "colour", twins, rng) is None


def test_nothing_is_asked_twice_and_every_word_has_an_id():
    ids = words.vocabulary()
    for still in (False, True):
        for _, said in talks(100, turns=6, still=still, seed=1):
            assert len({question for question, _ in said}) == 6
            for question, answer in said:
                assert ids["<unk>"] not in words.encode(f"{question} {answer}", ids)


def test_a_conversation_is_laid_out_as_it_will_be_asked(tmp_path):
    for name, content in tokenizer_files().items():
        (tmp_path / name).write_text(__import__("json").dumps(content))
    tokenizer, ids = Tokenizer.from_pretrained(tmp_path), words.vocabulary()
    said = (("What moves?", "The red circle."), ("What colour is it?", "Red."), ("How big is it?", "Large."))
    tokens, labels = labelled(said, ids)
    for turn in range(3):
        turns = [Turn(question, (), answer) for question, answer in said[:turn]]
        prompt = encode_segments(tokenizer, video_llava([*turns, Turn(said[turn][0], ())]))
        start = len(encode_segments(tokenizer, [Text("USER:")]))
        assert tokens[: len(prompt) - start] == prompt[start:]
        answer = [*words.encode(said[turn][1], ids), ids["</s>"]]
        at = len(prompt) - start
        assert labels[at : at + len(answer)] == answer
    assert sum(label != IGNORED for label in labels) == sum(len(words.encode(a, ids)) + 1 for _, a in said)


def test_single_questions_are_packed_as_before_and_talks_see_only_themselves():
    ids = words.vocabulary()
    start = opening(ids, "<video>", 4)
    rows = [[("What moves?", "The red circle."), ("How many are there?", "Two.")]]
    one, two = pack(rows, start, ids), pack_talks([[[pair] for pair in rows[0]]], start, ids)
    for name in ("ids", "labels", "positions", "part"):
        assert torch.equal(getattr(one, name), getattr(two, name))
    both = pack_talks([[rows[0], rows[0][:1]]], start, ids)
    assert both.part.max() == 2
    assert (both.part[0] == 1).sum() > (both.part[0] == 2).sum()
