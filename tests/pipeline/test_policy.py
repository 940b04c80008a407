"""What a pipeline may open, through every door that reads."""

from dataclasses import replace

import pytest

import watchword
from tests.media.test_sandbox import counted_children
from watchword.errors import MediaError
from watchword.media import OPEN, STRICT


@pytest.fixture(scope="module")
def saved(pipeline, clip, tmp_path_factory):
    """A conversation about the clip, on disk."""
    path = tmp_path_factory.mktemp("talk") / "talk.json"
    talk = pipeline("llava").chat(clip)
    talk.ask("What?", max_tokens=1)
    talk.save(path)
    return path


DOORS = {
    "ask": lambda model, clip, saved: model.ask(clip, "What?", max_tokens=1),
    "stream": lambda model, clip, saved: model.stream(clip, "What?", max_tokens=1).collect(),
    "ask_many": lambda model, clip, saved: model.ask_many([(clip, "What?")], max_tokens=1),
    "chat": lambda model, clip, saved: model.chat(clip),
    "load_chat": lambda model, clip, saved: model.load_chat(saved),
    "rank": lambda model, clip, saved: model.rank(clip, "What?", ["A dog.", "A cat."]),
    "score": lambda model, clip, saved: model.score(clip, "What?", "A dog."),
    "explain": lambda model, clip, saved: model.explain(clip, "What?", max_tokens=1),
}


@pytest.mark.parametrize("door", DOORS)
def test_every_door_keeps_to_the_policy(pipeline, clip, saved, door):
    with pytest.raises(MediaError, match=r"clip\.mp4: outside what may be read; move it there, or give its"):
        DOORS[door](replace(pipeline("llava"), policy=STRICT), clip, saved)
    inside = replace(STRICT, folders=(str(clip.parent),), sandbox=False)
    DOORS[door](replace(pipeline("llava"), policy=inside), clip, saved)


def test_load_takes_a_policy_and_a_sandbox(checkpoint, clip, monkeypatch):
    started = counted_children(monkeypatch)
    assert watchword.load(checkpoint("llava")).policy == OPEN
    strict = watchword.load(checkpoint("llava"), policy=STRICT)
    assert strict.policy == STRICT
    boxed = watchword.load(checkpoint("llava"), sandbox=True)
    assert boxed.policy == replace(OPEN, sandbox=True)
    answer = boxed.ask(clip, "What?", max_tokens=3)
    assert len(started) == 1
    assert answer.text == watchword.load(checkpoint("llava")).ask(clip, "What?", max_tokens=3).text
