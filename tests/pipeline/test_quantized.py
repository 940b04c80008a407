"""The laws of the engine hold on quantized models too."""

import pytest

import watchword
from watchword.errors import CapacityError
from watchword.nn.memory import Memory

FORMS = ("int8", "int4", "nf4")
QUESTIONS = ("What?", "What happens in the clip?", "Where is it, and why?")


@pytest.fixture(scope="module")
def quantized(checkpoint):
    made = {}

    def make(kind, form):
        if (kind, form) not in made:
            made[kind, form] = watchword.load(checkpoint(kind), quantize=form, device="cpu")
        return made[kind, form]

    return make


@pytest.mark.parametrize("kind", ["llava", "blip-opt", "blip-t5"])
@pytest.mark.parametrize("form", FORMS)
def test_quantized_batch_answers_as_its_members_alone(quantized, clip, kind, form):
    model = quantized(kind, form)
    alone = [model.ask(clip, question, max_tokens=5).text for question in QUESTIONS]
    together = model.ask_many([(clip, question) for question in QUESTIONS], max_tokens=5)
    assert [answer.text for answer in together] == alone


@pytest.mark.parametrize("form", FORMS)
def test_quantized_model_repeats_itself_warm(quantized, clip, form):
    model = quantized("llava", form)
    first = model.ask(clip, QUESTIONS[0], max_tokens=5, logprobs=1)
    again = model.ask(clip, QUESTIONS[0], max_tokens=5, logprobs=1)
    last = model.ask(clip, QUESTIONS[0], max_tokens=5, logprobs=1)
    assert first.text == again.text
    assert again.logprobs == last.logprobs


@pytest.mark.parametrize("form", FORMS)
def test_quantized_model_searches_with_beams_and_talks(quantized, clip, form):
    model = quantized("llava", form)
    one = model.ask(clip, QUESTIONS[1], max_tokens=4, num_beams=3)
    assert one.text == model.ask(clip, QUESTIONS[1], max_tokens=4, num_beams=3).text
    chat = model.chat()
    assert isinstance(chat.ask(QUESTIONS[0], media=clip, max_tokens=3).text, str)
    assert isinstance(chat.ask(QUESTIONS[1], max_tokens=3).text, str)


def test_load_report_says_what_is_used(quantized):
    said = str(quantized("llava", "int8").model.quantization)
    assert said.startswith("quantized: 51 linears int8, 2 linears dense; int8 by ")


def test_too_little_memory_is_told_before_reading(checkpoint, monkeypatch):
    monkeypatch.setattr("watchword.weights.packed.memory", lambda device: Memory(10**4, "this test's limit"))
    read = []
    monkeypatch.setattr("watchword.pipeline.opening.load_weights", lambda *a, **k: read.append(1))
    with pytest.raises(CapacityError, match=r"needs about .*, and this test's limit is 0\.0 MiB"):
        watchword.load(checkpoint("llava"), quantize="int8", device="cpu")
    assert not read
