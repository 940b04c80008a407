import re
from dataclasses import FrozenInstanceError

import pytest

from watchword.errors import RequestError, UnknownArgument
from watchword.pipeline import Options
from watchword.pipeline.options import generation_options


def test_options_are_greedy_and_set_nothing_by_default():
    options = Options()
    assert options.to_dict() == {}
    assert not options.is_drawing
    made = generation_options(options, {}, {})
    assert (made.do_sample, made.num_beams, made.max_new_tokens) == (False, 1, 128)
    with pytest.raises(FrozenInstanceError):
        options.n = 2


def test_options_win_over_the_checkpoint_and_leave_it_the_rest():
    made = generation_options(
        Options(temperature=1, num_beams=2, repetition_penalty=2), {"typical_p": 0.5},
        {"temperature": 0.3, "top_p": 0.8, "max_length": 9, "num_beams": 5},
    )  # fmt: skip
    assert (made.temperature, made.top_p, made.typical_p, made.num_beams) == (1.0, 0.8, 0.5, 2)
    assert (made.max_length, made.repetition_penalty, made.do_sample) == (None, 2.0, True)


def test_options_survive_json():
    options = Options(temperature=0.5, stop=["\n", "x"], seed=3, n=2, logprobs=4)
    raw = options.to_dict()
    assert raw == {"temperature": 0.5, "stop": ["\n", "x"], "seed": 3, "n": 2, "logprobs": 4}
    assert Options.from_dict(raw) == options
    assert Options(stop="end").stop == ("end",)


def test_options_refuse_unknown_names():
    with pytest.raises(UnknownArgument, match="options: unknown argument 'temprature'; did you mean 'temper"):
        Options.from_dict({"temprature": 1})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0, expected a whole number, at least 1"),
        ({"n": True}, "n=True, expected a whole number, at least 1"),
        ({"temperature": -1}, "temperature=-1, expected a number, 0 or above"),
        ({"temperature": float("nan")}, "temperature=nan, expected a number"),
        ({"top_p": 1.5}, "top_p=1.5, expected a number from 0 to 1"),
        ({"repetition_penalty": 0}, "repetition_penalty=0, expected a number above 0"),
        ({"num_beams": 2, "early_stopping": "soon"}, "early_stopping='soon', not a bool or 'never'"),
        ({"seed": 2**64}, f"seed={2**64}, expected a whole number of at most 64 bits"),
        ({"stop": ["a", ""]}, "stop=['a', ''], expected a string or several, none of them empty"),
        ({"stop": ""}, "stop='', expected a string or several"),
        ({"temperature": 0, "top_k": 5}, "top_k=5 has no effect at temperature=0"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, "min_new_tokens=9 is more than max_new_tokens=8"),
        ({"min_new_tokens": 200}, "min_new_tokens=200 is more than max_new_tokens=128"),
        ({"length_penalty": 2}, "length_penalty=2.0 is for beams; set num_beams above 1"),
        ({"early_stopping": False}, "early_stopping=False is for beams"),
        ({"n": 3, "num_beams": 2}, "n=3 of num_beams=2; ask for at most as many as beams"),
        ({"n": 2}, "n=2 of the best token each time would be one answer repeated"),
        ({"logprobs": 1, "num_beams": 2}, "logprobs=1 with num_beams=2; set num_beams=1"),
        ({"choices": ["a"], "stop": "b"}, "stop=('b',) with choices, whose length and words are fixed"),
        ({"choices": ["a"], "no_repeat_ngram_size": 2}, "no_repeat_ngram_size=2 with choices"),
        ({"choices": ["a"], "num_beams": 2, "top_p": 0.5}, "num_beams=2 draw among choices"),
        ({"choices": ["a"], "num_beams": 3, "n": 2}, "n=2 of 1 choices; ask for at most as many"),
        ({"choices": []}, "choices: got [], expected a list of answers, at least one"),
        ({"choices": "yes"}, "choices: got 'yes', expected a list of answers"),
        ({"choices": ["a", " "]}, "choices: one is ' ', expected words in each"),
        ({"choices": ["a", "a "]}, "choices: 'a' is there twice; leave one of them out"),
    ],
)
def test_options_refuse_what_does_not_fit(given, message):
    with pytest.raises(RequestError, match=re.escape(message)):
        Options(**given)
