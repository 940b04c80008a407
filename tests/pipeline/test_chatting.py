import errno
import json
import os
import re

import numpy as np
import pytest
from PIL import Image

import watchword
from tests.media.clips import write
from watchword.errors import CapacityError, MediaError, RequestError
from watchword.pipeline.families import Exchange

PICTURE = np.arange(36 * 48 * 3, dtype=np.uint8).reshape(36, 48, 3)
OTHER = PICTURE[::-1].copy()


def last_prompt(model, monkeypatch):
    """The texts of the prompts that a model is asked with, placeholders as one token each."""
    prompts = []
    submit = model.engine.submit

    def spy(job):
        table = model.words.text.convert_tokens_to_ids(["<image>", "<video>"])
        pairs = zip(job.encoder_ids, (None, *job.encoder_ids))
        ids = [one for one, before in pairs if one != before or one not in table]
        prompts.append(model.words.text.decode(ids, skip_special_tokens=False))
        return submit(job)

    monkeypatch.setattr(model.engine, "submit", spy)
    return prompts


def test_video_llava_turns_are_as_documented(pipeline, monkeypatch, clip):
    model = pipeline("llava")
    prompts = last_prompt(model, monkeypatch)
    chat = model.chat(clip)
    first = chat.ask("What do you see?", max_tokens=3)
    second = chat.ask("Why is it funny?", max_tokens=3)
    assert (first.medium, second.medium) == ("video", "video")
    documented = f"USER: <video>\nWhat do you see? ASSISTANT: {first.text} USER: Why is it funny? ASSISTANT:"
    assert re.sub(r"\s*<s>\s*", "", prompts[1]).replace("<video> ", "<video>") == documented
    chat.ask("And this?", PICTURE, max_tokens=3)
    assert f"ASSISTANT: {second.text} USER: <image>\nAnd this? ASSISTANT:" in prompts[2].replace(
        "> \n", ">\n"
    )
    assert [one.answer for one in chat.history][:2] == [first.text, second.text]
    assert [len(one.clips) for one in chat.history] == [1, 0, 1]


def test_a_conversation_equals_the_documented_classes(pipeline, checkpoint):
    model = pipeline("llava")
    chat = model.chat(PICTURE)
    first = chat.ask("What do you see in this video?", max_tokens=8)
    text = f"USER: <image>\nWhat do you see in this video? ASSISTANT: {first.text} USER: Why? ASSISTANT:"
    second = chat.ask("Why?", max_tokens=8)
    documented = watchword.VideoLlavaForConditionalGeneration.from_pretrained(checkpoint("llava"))
    processor = watchword.VideoLlavaProcessor.from_pretrained(checkpoint("llava"))
    inputs = processor(text=text, images=PICTURE, return_tensors="pt")
    ids = documented.generate(**inputs, max_new_tokens=8)[0, inputs["input_ids"].shape[1] :]
    assert second.text == processor.tokenizer.decode(ids, skip_special_tokens=True).strip()


def test_turns_of_the_original_end_with_the_end_token(pipeline, monkeypatch):
    model = pipeline("llava")
    prompts = last_prompt(model, monkeypatch)
    chat = model.chat(PICTURE, turns="original")
    first = chat.ask("What?", max_tokens=3)
    chat.ask("Why?", max_tokens=3)
    assert re.search(re.escape(first.text) + r"\s*</s>\s*USER: Why\? ASSISTANT:$", prompts[1])
    with pytest.raises(RequestError, match=r"turns='original', but .* knows no turns; leave it out"):
        pipeline("blip").chat(PICTURE, turns="original")


@pytest.mark.parametrize("kind", ["blip", "blip-bare", "blip-opt"])
def test_instructblip_reads_what_was_said_and_its_qformer_the_question(pipeline, monkeypatch, kind):
    model = pipeline(kind)
    prompts = last_prompt(model, monkeypatch)
    chat = model.chat(PICTURE)
    first = chat.ask("What?", max_tokens=2)
    told = []
    instruction = type(model.family).instruction
    monkeypatch.setattr(
        type(model.family), "instruction", lambda self, words, question: told.append(question)
        or instruction(self, words, question),
    )  # fmt: skip
    chat.ask("Why?", OTHER, max_tokens=2)
    assert set(told) == {"Why?"}
    assert f"dialog history: Question: What? Answer: {first.text}" in prompts[1]
    assert prompts[1].endswith("\nWhy?")
    exchanges = [
        Exchange("What?", chat.history[0].clips, first.text),
        Exchange("Why?", chat.history[1].clips),
    ]
    shown = model.family.shown(exchanges)
    assert len(shown) == 1
    assert np.array_equal(shown[0].frames[0], OTHER)


def test_a_conversation_about_nothing_to_see(pipeline):
    answer = pipeline("llava").chat().ask("What?", max_tokens=2)
    assert (answer.medium, answer.frames, answer.tokens["visual"]) == ("text", (), 0)
    with pytest.raises(RequestError, match="instructblip: no picture or clip, and it answers about one"):
        pipeline("blip").chat().ask("What?")


@pytest.mark.parametrize("kind", ["llava", "blip", "blip-t5"])
def test_streaming_equals_asking_and_broken_answers_do_not_count(pipeline, kind):
    model = pipeline(kind)
    chat, other = model.chat(PICTURE), model.chat(PICTURE)
    with chat.stream("What?", max_tokens=20) as broken:
        with pytest.raises(RequestError, match="the last answer is still coming"):
            chat.ask("Why?")
        next(broken, None)
    assert len(chat.history) == int(broken.answer.samples[0].end != "cancelled")
    chat = model.chat(PICTURE)
    stream = chat.stream("What?", max_tokens=5)
    assert "".join(stream) == other.ask("What?", max_tokens=5).text == chat.history[0].answer


def test_a_third_turn_reuses_the_prompt_and_the_answers(pipeline, clip):
    model = pipeline("llava")
    model.cache.clear()
    chat = model.chat(clip)
    for question in ("What do you see?", "Why is it funny?"):
        chat.ask(question, max_tokens=20)
    third = chat.ask("How many?", max_tokens=2)
    assert third.tokens["reused"] > third.tokens["prompt"] // 2
    assert third.tokens["reused"] > third.tokens["visual"]


def test_a_full_conversation_is_an_error_or_forgets_its_oldest_turns(pipeline, clip):
    model = pipeline("llava")
    strict, mild = model.chat(clip), model.chat(clip, overflow="drop_oldest")
    how = {"max_tokens": 30, "min_new_tokens": 30}
    turns = (strict.ask("What do you see in this video?", **how) for _ in range(20))
    with pytest.raises(
        CapacityError, match=r"the conversation has \d+ tokens; .* has 300 positions; begin a"
    ):
        list(turns)
    assert 1 < len(strict.history) < 20
    answers = [mild.ask("What do you see in this video?", **how) for _ in range(12)]
    assert len(mild.history) == 12
    assert any("left out the oldest" in note for note in answers[-1].notes)
    assert all(answer.tokens["prompt"] + 30 <= 300 for answer in answers)
    assert {answer.tokens["visual"] for answer in answers} == {40}
    with pytest.raises(CapacityError, match="the prompt has"):
        mild.ask("Why? " * 300)


def test_conversations_are_saved_and_go_on(pipeline, clip, tmp_path):
    model = pipeline("llava")
    chat = model.chat(clip, frames=3, overflow="drop_oldest", turns="original")
    chat.ask("What?", max_tokens=4)
    chat.ask("And this?", PICTURE, max_tokens=4)
    chat.show(OTHER)
    chat.save(tmp_path / "talk.json")
    raw = json.loads((tmp_path / "talk.json").read_text())
    assert raw["history"][0]["media"][0]["path"] == str(clip)
    assert raw["history"][0]["media"][0]["frames"] == [0, 6, 13]
    again = model.load_chat(tmp_path / "talk.json")
    assert [(one.question, one.answer, one.closed) for one in again.history] == [
        (one.question, one.answer, one.closed) for one in chat.history
    ]
    assert (again.frames, again.overflow, again.turns) == (3, "drop_oldest", "original")
    assert again.ask("Why?", max_tokens=6).text == chat.ask("Why?", max_tokens=6).text
    again.save(tmp_path / "again.json")
    chat.save(tmp_path / "talk.json")
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(
        (tmp_path / "talk.json").read_text()
    )


def test_saved_conversations_that_do_not_fit_are_refused(pipeline, tmp_path):
    model = pipeline("llava")
    path = write(tmp_path / "clip.mp4", frames=9)
    chat = model.chat(path)
    chat.ask("What?", max_tokens=2)
    chat.save(tmp_path / "talk.json")
    raw = json.loads((tmp_path / "talk.json").read_text())
    raw["history"][0]["media"][0]["sha256"] = "0" * 64
    (tmp_path / "talk.json").write_text(json.dumps(raw))
    with pytest.raises(MediaError, match=r"clip\.mp4: its content has changed since it was talked about"):
        model.load_chat(tmp_path / "talk.json")
    for content, message in (
        ("{", "cannot be read"),
        ("[]", "not a saved conversation; expected a JSON object with form 'watchword chat 1'"),
        ('{"form": "watchword chat 1"}', "a damaged conversation"),
    ):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(RequestError, match=message):
            model.load_chat(tmp_path / "bad.json")
    with pytest.raises(RequestError, match=r"gone\.json: cannot be read \(No such file"):
        model.load_chat(tmp_path / "gone.json")


def test_clearing_keeps_the_last_medium(pipeline):
    chat = pipeline("llava").chat(PICTURE)
    first = chat.ask("What?", max_tokens=3)
    chat.ask("Why?", max_tokens=3)
    chat.clear()
    assert chat.history == ()
    assert chat.ask("What?", max_tokens=3).text == first.text


def test_chat_refuses_what_does_not_fit(pipeline):
    model = pipeline("llava")
    with pytest.raises(RequestError, match="overflow='forget'; expected 'error' or 'drop_oldest'"):
        model.chat(overflow="forget")
    with pytest.raises(RequestError, match="turns='new'; expected 'documented' or 'original'"):
        model.chat(turns="new")
    with pytest.raises(RequestError, match="chat: the question is ' ', expected some words"):
        model.chat(PICTURE).ask(" ")
    with pytest.raises(RequestError, match="chat: n=2, but a conversation goes on from one answer"):
        model.chat(PICTURE).ask("What?", n=2, temperature=1.0)


def test_a_conversation_that_cannot_be_saved_leaves_the_file_as_it_was(pipeline, tmp_path, monkeypatch):
    chat = pipeline("llava").chat(PICTURE)
    chat.ask("What?", max_tokens=2)
    saved = tmp_path / "talk.json"
    chat.save(saved)
    before = saved.read_bytes()

    chat.ask("Why?", max_tokens=2)
    with monkeypatch.context() as full:
        full.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
        with pytest.raises(RequestError, match=r"talk\.json: cannot be written \(No space left\)"):
            chat.save(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["talk.json"]
    saved.chmod(0o600)
    (tmp_path / "link.json").symlink_to(saved)
    chat.save(tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert saved.stat().st_mode & 0o777 == 0o600
    assert len(json.loads(saved.read_text())["history"]) == 2
    with pytest.raises(RequestError, match=r"cannot be written \(File name too long\)"):
        chat.save(tmp_path / ("x" * 300))


def test_a_conversation_about_a_name_that_is_no_text_is_saved(pipeline, tmp_path):
    name = os.fsencode(tmp_path) + b"/a\xff.png"
    try:
        file = open(name, "wb")  # noqa: SIM115
    except OSError:
        pytest.skip("file names are text here")
    with file:
        Image.fromarray(PICTURE).save(file, "PNG")
    model = pipeline("llava")
    chat = model.chat(os.fsdecode(name))
    chat.ask("What? 日本", max_tokens=2)
    chat.save(tmp_path / "talk.json")
    assert model.load_chat(tmp_path / "talk.json").history[0].question == "What? 日本"
