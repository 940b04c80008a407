"""The laws of the engine hold on quantized models too."""

import pytest
import torch

import watchword
from watchword.errors import CapacityError
from watchword.generation.cache import KVCache
from watchword.nn.memory import Memory
from watchword.pipeline.opening import EMBEDDED

FORMS = ("int8", "int4", "nf4")
QUESTIONS = ("What?", "What happens in the clip?", "Where is it, and why?")

STATED = {
    "video-llava": {"int8": 0.03, "int4": 0.2, "nf4": 0.2, "fp4": 0.2},
    "instructblip": {"int8": 0.035, "int4": 0.25, "nf4": 0.25, "fp4": 0.3},
}
"""Relative error of the embedded models' logits against float32, as docs/quantization.md says. The two
InstructBLIPs have the same weights."""


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


def logits(pipeline, seed: int = 0) -> torch.Tensor:
    """Scores of rows of random words."""
    ids = torch.randint(6, 240, (4, 24), generator=torch.Generator().manual_seed(seed))
    text = pipeline.model.language_model
    cache = KVCache(text.cache_spec, 4, capacity=24)
    with torch.no_grad():
        return text.extend(ids, torch.full((4,), 24), cache)


@pytest.mark.parametrize("name", STATED)
@pytest.mark.parametrize("form", ["int8", "int4", "nf4", "fp4"])
def test_embedded_models_stay_within_the_stated_error(name, form):
    folder = EMBEDDED.parent / name
    exact, small = (watchword.load(folder, quantize=one, device="cpu") for one in (None, form))
    expected, got = (torch.cat([logits(one, seed) for seed in range(6)]) for one in (exact, small))
    assert (got - expected).norm() < STATED[name][form] * expected.norm()


@pytest.mark.parametrize("form", ["int8", "int4", "nf4", "fp4"])
def test_slow_products_answer_as_fast_ones(monkeypatch, form):
    """What machines without fast products do."""
    fast = logits(watchword.load(quantize=form, device="cpu"))
    monkeypatch.setattr("watchword.nn.quantized.int8_product", lambda device, pack: "dense")
    monkeypatch.setattr("watchword.nn.nibbles.packing", lambda: None)
    slow = watchword.load(quantize=form, device="cpu")
    assert set(slow.model.quantization.operators.values()) == {"dense"}
    assert (logits(slow) - fast).norm() < 0.02 * fast.norm()
