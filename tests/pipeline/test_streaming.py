import gc
import threading
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

import watchword
from watchword.errors import RequestError, UnknownArgument
from watchword.generation.requests import Ticket
from watchword.pipeline import Options, preparing
from watchword.pipeline.choices import Choices

KINDS = ("llava", "blip", "blip-bare", "blip-opt", "blip-t5")
PICTURE = np.arange(36 * 48 * 3, dtype=np.uint8).reshape(36, 48, 3)
OTHER = PICTURE[::-1].copy()
QUESTION = "What is happening in this video?"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beams", [1, 3])
def test_pieces_joined_are_the_answer(pipeline, kind, beams):
    model = pipeline(kind)
    stream = model.stream(PICTURE, QUESTION, max_tokens=30, beams=beams)
    pieces = list(stream)
    assert "".join(pieces) == stream.answer.text
    assert stream.answer.text == model.ask(PICTURE, QUESTION, max_tokens=30, beams=beams).text


def saying(monkeypatch, model, text):
    """From now on the model answers this, whatever it is asked."""
    ids = model.words.text.encode(text, add_special_tokens=False)
    end = model.words.text.eos_token_id
    plain = preparing.job_of

    def forced(*given, options, **rest):
        job = plain(*given, options=options, **rest)
        only = Choices([tuple(ids)], end, len(job.history))
        return replace(job, options=replace(options, prefix_allowed_tokens_fn=only))

    monkeypatch.setattr(preparing, "job_of", forced)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clean", [False, True])
def test_an_answer_is_complete_once_its_last_piece_was_taken(pipeline, monkeypatch, kind, clean):
    model = pipeline(kind)
    monkeypatch.setattr(model.words.text, "clean_up_tokenization_spaces", clean)
    saying(monkeypatch, model, "the red ball")
    pieces = list(model.stream(PICTURE, QUESTION))
    assert "".join(pieces) == "the red ball"
    for taken in range(len(pieces) + 1):
        done = []
        stream = model.chat(PICTURE).stream("What?")
        monkeypatch.setattr(stream, "_done", done.append)
        shown = [next(stream) for _ in range(taken)]
        all_came = stream.ticket.reason == "done"  # the end token too, behind the last letters
        stream.close()
        complete = taken == len(pieces) and all_came
        assert complete or not clean or taken < len(pieces)  # clean-up holds the last word until the end
        assert stream.answer.samples[0].end == ("eos" if complete else "cancelled")
        assert [answer.text for answer in done] == ["the red ball"] * complete
        assert stream.answer.text.startswith("".join(shown))


def test_pieces_come_as_words_are_complete_and_with_clean_up_at_word_ends(pipeline, monkeypatch):
    model = pipeline("llava")
    saying(monkeypatch, model, "the red ball, isn't it")
    counts = []
    for clean in (False, True):
        monkeypatch.setattr(model.words.text, "clean_up_tokenization_spaces", clean)
        pieces = list(model.stream(PICTURE, QUESTION))
        assert "".join(pieces) == "the red ball, isn't it"
        counts.append(len(pieces))
    assert counts[0] > counts[1] >= 1


def test_a_stop_string_ends_the_answer_and_is_never_shown(pipeline, monkeypatch):
    model = pipeline("llava")
    whole = "the red ball, the red book and people"
    saying(monkeypatch, model, whole)
    for begin, length in ((len(whole) // 2, 3), (len(whole) // 3, 7), (2, 1)):
        stop = whole[begin : begin + length]
        stream = model.stream(PICTURE, QUESTION, max_tokens=40, stop=stop)
        pieces = list(stream)
        wanted = whole[: whole.index(stop)].strip()
        assert "".join(pieces) == stream.answer.text == wanted
        assert (stream.answer.samples[0].end, stream.answer.ended) == ("stop", True)
        assert stream.answer.options["stop"] == [stop]
        assert model.ask(PICTURE, QUESTION, max_tokens=40, stop=["never there", stop]).text == wanted


def test_a_stop_string_longer_than_the_answer_changes_nothing(pipeline):
    model = pipeline("llava")
    whole = model.ask(PICTURE, QUESTION, max_tokens=6).text
    stream = model.stream(PICTURE, QUESTION, max_tokens=6, stop=whole + " and more")
    assert "".join(stream) == whole


def test_a_stop_string_in_the_prompt_does_not_count(pipeline):
    model = pipeline("llava")
    plain = model.ask(PICTURE, QUESTION, max_tokens=4)
    assert model.ask(PICTURE, QUESTION, max_tokens=4, stop="video? ASSISTANT:").text == plain.text


def test_closing_a_stream_ends_its_request(pipeline):
    model = pipeline("llava")
    with model.stream(PICTURE, QUESTION, max_tokens=200, min_new_tokens=150) as stream:
        with pytest.raises(RequestError, match="the answer is not complete; take all its pieces first"):
            _ = stream.answer
        first = next(stream)
    assert stream.ticket.reason == "cancelled"
    assert stream.answer.text.startswith(first)
    assert (stream.answer.samples[0].end, stream.answer.ended) == ("cancelled", False)
    unread = model.stream(PICTURE, QUESTION)
    ticket = unread.ticket
    unread.close()
    assert ticket.reason == "cancelled"
    assert (unread.answer.text, unread.answer.samples[0].end, unread.answer.tokens["answer"]) == (
        "",
        "cancelled",
        0,
    )
    assert list(unread) == []
    forgotten = model.stream(PICTURE, QUESTION).ticket
    gc.collect()
    model.engine.step()
    assert forgotten.reason == "cancelled"


def test_closing_the_engine_ends_streams_with_an_error(checkpoint):
    model = watchword.load(checkpoint("llava"))
    stream = model.stream(PICTURE, QUESTION, max_tokens=200, min_new_tokens=150)
    next(stream)
    model.engine.close()
    with pytest.raises(RequestError, match="engine: closed after"):
        list(stream)
    with pytest.raises(RequestError, match="engine: it is closed"):
        model.ask(PICTURE, QUESTION)


def test_logprobs_come_with_every_token(pipeline):
    model = pipeline("llava")
    answer = model.ask(PICTURE, QUESTION, max_tokens=5, min_new_tokens=5, logprobs=3)
    assert len(answer.logprobs) == answer.tokens["answer"] == 5
    for token in answer.logprobs:
        assert token.top[0] == (token.text, token.logprob)
        assert len(token.top) == 3
    assert model.ask(PICTURE, QUESTION, max_tokens=5).logprobs is None


def test_several_answers_are_drawn_each_with_its_own_numbers(pipeline):
    model = pipeline("llava")
    answer = model.ask(PICTURE, QUESTION, max_tokens=8, temperature=5.0, seed=4, n=3, logprobs=0)
    assert len(set(answer.texts)) == 3
    assert answer.text == model.ask(PICTURE, QUESTION, max_tokens=8, temperature=5.0, seed=4).text
    assert [len(sample.logprobs) for sample in answer.samples] == [sample.tokens for sample in answer.samples]
    assert len(model.ask(PICTURE, QUESTION, max_tokens=8, beams=3, n=2).texts) == 2
    with pytest.raises(RequestError, match="stream: n=3, but it gives one answer; use ask"):
        model.stream(PICTURE, QUESTION, temperature=1.0, n=3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", [{}, {"beams": 4}, {"temperature": 9.0, "seed": 1}])
def test_choices_are_the_only_answers(pipeline, kind, how):
    model = pipeline(kind)
    choices = ("the cat", "the red ball", "people", "the")
    answer = model.ask(PICTURE, QUESTION, choices=choices, **how)
    assert answer.text in choices
    assert answer.ended
    if not how:
        assert model.ask(PICTURE, QUESTION, choices=["people"]).text == "people"
    if how.get("seed"):
        texts = {
            model.ask(PICTURE, QUESTION, choices=choices, temperature=9.0, seed=s).text for s in range(9)
        }
        assert len(texts) > 1


def test_choices_need_room_and_words_the_tokenizer_has(pipeline):
    model = pipeline("llava")
    with pytest.raises(RequestError, match="max_new_tokens=1, but the longest of the choices has"):
        model.ask(PICTURE, QUESTION, choices=["the red ball"], max_new_tokens=1)
    with pytest.raises(RequestError, match=r"choices: 'ǽ' becomes '.*' in this tokenizer's words"):
        pipeline("blip-t5").ask(PICTURE, QUESTION, choices=["ǽ"])


def test_options_come_as_an_object_or_by_name_but_not_both(pipeline):
    model = pipeline("llava")
    answer = model.ask(PICTURE, QUESTION, options=Options(max_new_tokens=3))
    assert answer.text == model.ask(PICTURE, QUESTION, max_new_tokens=3).text
    with pytest.raises(RequestError, match="options and temperature are both given"):
        model.ask(PICTURE, QUESTION, options=Options(), temperature=1)
    with pytest.raises(RequestError, match="max_tokens=3 and max_new_tokens=4 are one option; give one"):
        model.ask(PICTURE, QUESTION, max_tokens=3, max_new_tokens=4)
    with pytest.raises(RequestError, match=r"typical_p=0\.5 has no effect at temperature=0"):
        model.ask(PICTURE, QUESTION, temperature=0, typical_p=0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_many_are_answered_as_each_alone(pipeline, clip, kind):
    model = pipeline(kind)
    requests = [
        (PICTURE, QUESTION),
        {"media": clip, "question": "Why?", "beams": 3},
        {"media": OTHER, "question": "How many?", "temperature": 3.0, "seed": 7},
        {"media": clip, "question": QUESTION, "frames": 2, "stop": "a"},
        (OTHER, "How many?"),
    ]
    found = model.ask_many(requests, max_tokens=10)
    for request, answer in zip(requests, found):
        arguments = request if isinstance(request, dict) else {"media": request[0], "question": request[1]}
        model.cache.clear()
        assert answer.text == model.ask(**{"max_tokens": 10, **arguments}).text


def test_one_of_many_fails_alone(pipeline):
    model = pipeline("llava")
    requests = [(PICTURE, QUESTION), (PICTURE, " "), {"media": OTHER, "question": "Why?", "top_p": 7}]
    found = model.ask_many(requests, errors="return", max_tokens=3)
    assert found[0].text == model.ask(PICTURE, QUESTION, max_tokens=3).text
    assert isinstance(found[1], RequestError)
    assert "top_p=7" in str(found[2])
    with pytest.raises(RequestError, match="the question is ' '"):
        model.ask_many(requests, max_tokens=3)
    with pytest.raises(RequestError, match="errors='drop'; expected 'raise' or 'return'"):
        model.ask_many(requests, errors="drop")
    with pytest.raises(RequestError, match=r"ask_many: str; expected \(medium, question\)"):
        model.ask_many(["What?"])
    with pytest.raises(UnknownArgument, match="ask: unknown argument 'colour'"):
        model.ask_many([(PICTURE, QUESTION)], colour=1)
    assert model.ask_many([]) == []


def test_threads_share_a_model(pipeline, clip):
    model = pipeline("llava")
    alone = [model.ask(clip, f"Why {number}?", max_tokens=12).text for number in range(6)]
    found = [""] * 6

    def ask(number):
        found[number] = model.ask(clip, f"Why {number}?", max_tokens=12).text

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == alone


@pytest.mark.parametrize("kind", ["llava", "blip", "blip-t5"])
def test_two_threads_ask_and_stream_about_different_media(checkpoint, kind):
    media = (PICTURE, OTHER, np.stack([PICTURE, OTHER]))
    questions = (QUESTION, "Why?", "How many people?")
    how = {"max_tokens": 9, "temperature": 2.0, "seed": 3}
    model = watchword.load(checkpoint(kind), cache_bytes=0)
    alone = [model.ask(one, question, **how).text for one in media for question in questions]
    shared = watchword.load(checkpoint(kind))
    found = {}

    def ask(order):
        requests = [(one, question) for one in media for question in questions]
        for place in range(len(requests))[::order]:
            stream = shared.stream(*requests[place], **how)
            text = "".join(stream) if place % 2 else shared.ask(*requests[place], **how).text
            stream.close()
            found[order, place] = text

    threads = [threading.Thread(target=ask, args=(order,)) for order in (1, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[1, place] for place in range(9)] == alone
    assert [found[-1, place] for place in range(9)] == alone


def living():
    """Bytes of all tensors, of what Python and numpy have allocated, and requests that are remembered."""
    gc.collect()
    objects = gc.get_objects()
    tensors = sum(one.untyped_storage().nbytes() for one in objects if type(one) is torch.Tensor)
    return tensors, tracemalloc.get_traced_memory()[0], sum(type(one) is Ticket for one in objects)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llava", "blip", "blip-t5"])
def test_memory_is_flat_over_a_thousand_questions(checkpoint, kind):
    model = watchword.load(checkpoint(kind), cache_bytes=200_000)
    draw = np.random.default_rng(0)

    def some(count):
        for number in range(count):
            medium = draw.integers(0, 255, (20, 20, 3) if number % 3 else (3, 20, 20, 3), np.uint8)
            if number % 5 == 0:
                with model.stream(medium, f"Why {number % 7}?", max_tokens=6) as stream:
                    next(stream, None)
            elif number % 7 == 0:
                model.rank(medium, "What?", ["people", "the cat"])
            else:
                model.ask(medium, QUESTION, max_tokens=3, beams=1 + number % 2)

    tracemalloc.start()
    try:
        some(300)
        before = living()
        some(1000)
        after = living()
    finally:
        tracemalloc.stop()
    assert model.cache.stats().bytes <= 200_000
    assert after[0] <= before[0] + 100_000  # what is kept is within its budget, fuller or less full
    assert after[1] <= before[1] + 300_000
    assert after[2] == before[2] == 0


def test_answers_keep_no_gradients(pipeline):
    model = pipeline("llava")
    assert torch.is_grad_enabled()
    model.ask(PICTURE, QUESTION, max_tokens=2)
    assert all(parameter.grad is None for parameter in model.model.parameters())
