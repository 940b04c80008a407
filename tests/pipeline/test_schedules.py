"""Whole families, with pictures and clips: whatever runs beside it, whenever it joins and others leave, a
request answers what it answers alone."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

import watchword
from tests import folders
from watchword.generation.kept import Kept
from watchword.generation.serving import Engine, Limits
from watchword.pipeline.streaming import Stream

MAKERS = {
    "llava-llama": lambda folder: folders.video_llava(folder),
    "llava-mistral": lambda folder: folders.video_llava(folder, text="mistral"),
    "blip-llama": lambda folder: folders.instructblip(folder),
    "blip-opt": lambda folder: folders.instructblip(folder, text="opt"),
    "blip-t5": lambda folder: folders.instructblip(folder, text="t5"),
    "blip-video-llama": lambda folder: folders.instructblip(folder, video=True),
    "blip-video-opt": lambda folder: folders.instructblip(folder, text="opt", video=True),
    "blip-video-t5": lambda folder: folders.instructblip(folder, text="t5", video=True),
}
WAYS = (
    {},
    {},
    {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3, "min_new_tokens": 4},
    {"temperature": 1.5},
    {"temperature": 0.7, "top_k": 12, "top_p": 0.9, "min_p": 0.01},
    {"temperature": 2.0, "n": 3},
    {"num_beams": 3},
    {"num_beams": 4, "n": 2, "length_penalty": -0.5, "early_stopping": True},
    {"stop": ["a", "th"]},
    {"choices": ["the cat", "people", "the red ball"]},
    {"choices": ["the cat", "people"], "temperature": 3.0},
    {"logprobs": 2},
)
"""Options of all kinds."""

QUESTIONS = ("What?", "Why is this video funny?", "How many people are in the picture?", "the the the the")
SHAPES = {"picture": (30, 40, 3), "tall": (50, 20, 3), **{f"clip {n}": (n, 24, 32, 3) for n in (1, 3, 4, 9)}}


def medium(kind: str, seed: int) -> np.ndarray:
    """A picture or a clip of so many frames."""
    return np.random.default_rng(seed).integers(0, 255, SHAPES[kind], np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A loaded checkpoint of a kind, and what its requests answered alone."""
    made = {}

    def make(name):
        if name not in made:
            torch.manual_seed(5)
            made[name] = watchword.load(MAKERS[name](tmp_path_factory.mktemp(name))), {}
        return made[name]

    return make


def drawn(name: str, draw: random.Random) -> tuple:
    """A request in plain values; equal values are equal requests."""
    way = dict(draw.choice(WAYS))
    if "choices" not in way:
        way["max_new_tokens"] = draw.randint(4, 12)
    if way.get("temperature"):
        way["seed"] = draw.randrange(5)
    if draw.random() < 0.5:
        way["scope"] = "other"
    most = 2 if name.startswith("llava") else 1
    media = tuple((draw.choice(sorted(SHAPES)), draw.randrange(2))
                  for _ in range(draw.randint(2 - most, most)))  # fmt: skip
    return media, draw.choice(QUESTIONS), tuple((key, str(way[key])) for key in sorted(way)), way


def asked(pipeline, request: tuple) -> Stream:
    """The request, handed to the engine."""
    media, question, _, way = request
    chat = pipeline.chat(scope=way.get("scope", ""))
    rest = {key: value for key, value in way.items() if key != "scope"}
    if len(media) == 1:
        return pipeline._called(medium(*media[0]), question, scope=chat.scope, **rest)
    if way.get("n"):
        rest = {"max_new_tokens": way["max_new_tokens"]}
    for one in media:
        chat.show(medium(*one))
    return chat.stream(question, **rest)


def engine_of(pipeline, kept: Kept, **given) -> object:
    """The same model with an engine of its own."""
    return replace(pipeline, cache=kept, engine=Engine(pipeline.engine._decoder, kept=kept, **given))


def alone(model: tuple, request: tuple) -> list[list[int]]:
    """What it answers with nothing kept and nobody beside it."""
    pipeline, known = model
    if request[:3] not in known:
        stream = asked(engine_of(pipeline, Kept(0), piece=10_000), request)
        stream.collect()
        known[request[:3]] = stream.ticket.sequences, stream.answer.texts
    return known[request[:3]]


def check(model: tuple, request: tuple, stream: Stream) -> bool:
    """The whole answer, or its beginning if it was cancelled; whether it was whole."""
    ticket = stream.ticket
    assert ticket.error is None
    sequences, texts = alone(model, request)
    if ticket.reason == "cancelled":
        assert all(ids == whole[: len(ids)] for ids, whole in zip(ticket.sequences, sequences))
        return False
    assert ticket.sequences == sequences
    assert stream.collect().texts == texts
    return True


def run(model: tuple, name: str, seed: int) -> int:
    """A random schedule; how many requests were answered to the end."""
    draw = random.Random(f"{name} {seed}")
    kept = Kept(draw.choice([0, 50_000, 10**8]))
    limits = Limits(rows=draw.choice([4, 9, 32]), bytes=draw.choice([None, 3_000_000]))
    pipeline = engine_of(model[0], kept, limits=limits, piece=draw.choice([7, 32, 512]))
    left, running, over = draw.randint(3, 9), [], []
    while left or running:
        act = draw.random()
        if left and act < 0.35:
            for _ in range(min(left, draw.choice([1, 1, 3]))):
                request = drawn(name, draw)
                running.append((request, asked(pipeline, request)))
                left -= 1
        elif running and act > 0.97:
            draw.choice(running)[1].close()
        elif running and act > 0.9:  # someone takes a piece, which drives all
            next(draw.choice(running)[1], None)
        else:
            pipeline.engine.step()
        over += [pair for pair in running if pair[1].ticket.reason]
        running = [pair for pair in running if not pair[1].ticket.reason]
    whole = [check(model, *pair) for pair in over]
    assert pipeline.engine.step() is False
    assert kept.stats().bytes <= kept.budget
    return sum(whole)


@pytest.mark.parametrize("name", MAKERS)
def test_families_answer_as_each_request_alone(model, name):
    assert sum(run(model(name), name, seed) for seed in range(2)) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_families_answer_as_each_request_alone_in_two_hundred_schedules(model, name):
    assert sum(run(model(name), name, seed) for seed in range(2, 27)) >= 100
