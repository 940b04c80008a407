"""What holds on a card as it does on the host; run with `-m gpu`."""

import importlib.util

import pytest
import torch

import watchword
from watchword.weights.quantize import quantized

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

KINDS = ("llava", "blip", "blip-opt", "blip-t5")
DECODERS = ("llava", "blip", "blip-opt")
WAYS = ({}, {"num_beams": 3}, {"repetition_penalty": 1.3})
PICTURE = torch.arange(30 * 30 * 3).reshape(30, 30, 3).to(torch.uint8)


@pytest.fixture(autouse=True)
def exact_products():
    """float32 products as on the host, not rounded to TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.set_float32_matmul_precision(before)


def texts(model, **way):
    return model.ask(PICTURE, "What is it?", max_tokens=8, **way).texts


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_a_card_answers_as_the_host(checkpoint, kind, way):
    host, card = (watchword.load(checkpoint(kind), device=device) for device in ("cpu", "cuda"))
    assert card.device.type == "cuda"
    assert texts(card, **way) == texts(host, **way)


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("compiled", ["graph", True])
def test_recorded_steps_answer_as_ordinary_ones(checkpoint, kind, compiled):
    plain = watchword.load(checkpoint(kind), device="cuda")
    recorded = watchword.load(checkpoint(kind), device="cuda", compile=compiled)
    for way in (*WAYS, {"temperature": 1.0, "seed": 3, "n": 3}):
        assert texts(recorded, **way) == texts(plain, **way)
    asks = [(PICTURE, "What?"), (PICTURE.flip(0), "What is the colour of it?"), (PICTURE, "Why?")]
    together = [[one.text for one in model.ask_many(asks, max_tokens=8)] for model in (plain, recorded)]
    assert together[0] == together[1]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_half_types_answer(checkpoint, kind, dtype):
    model = watchword.load(checkpoint(kind), device="cuda", dtype=dtype)
    answer = model.ask(PICTURE, "What is it?", max_tokens=4, logprobs=0)
    assert answer.tokens["answer"] >= 1


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("form", ["int8", "int4", "nf4"])
def test_few_bits_multiply_as_the_weights_they_stand_for(checkpoint, kind, form):
    model = watchword.load(checkpoint(kind), device="cuda", quantize=form)
    found = list(quantized(model.model))
    assert found
    for path, linear in found:
        for rows in (1, 7):
            x = torch.randn(rows, linear.in_features, device="cuda")
            bias = 0 if linear.bias is None else linear.bias
            wanted = (x.double() @ linear.dense().double().t() + bias).float()
            torch.testing.assert_close(linear(x), wanted, rtol=1e-4, atol=1e-4, msg=f"{path}, {rows} rows")
    plain = [texts(model, **way) for way in WAYS]
    recorded = watchword.load(checkpoint(kind), device="cuda", quantize=form, compile=True)
    assert [texts(recorded, **way) for way in WAYS] == plain


@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is None, reason="needs flash-attn")
@pytest.mark.parametrize(("length", "slots"), [(64, 64), (16, 80), (1, 80)])
@pytest.mark.parametrize("window", [None, 24])
@pytest.mark.parametrize("groups", [8, 2])
def test_flash_attention_computes_the_definition(length, slots, window, groups):
    from watchword.nn.attention import attention, causal_mask

    q = torch.randn(3, 8, length, 64, device="cuda", dtype=torch.float16)
    k, v = (torch.randn(3, groups, slots, 64, device="cuda", dtype=torch.float16) for _ in range(2))
    calls = [{"causal": True, "window": window}, {"causal": False}]
    kept = torch.arange(slots, device="cuda") >= torch.tensor([0, 8, 3], device="cuda")[:, None]
    if length == slots or length < slots - 8:
        calls.append({"mask": causal_mask(length, slots, q.device) & kept[:, None, None]})
    for settings in calls:
        found, wanted = (
            attention(q, k, v, backend=name, **settings)[0] for name in ("flash_attention_2", "eager")
        )
        rows = (
            kept[:, -length:]
            if "mask" in settings
            else torch.ones(3, length, dtype=torch.bool, device="cuda")
        )
        torch.testing.assert_close(
            found.transpose(1, 2)[rows],
            wanted.transpose(1, 2)[rows],
            rtol=0,
            atol=5e-3,  # of float16 sums
        )


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_over_card_and_host_answers_as_on_the_card(checkpoint, kind):
    pytest.importorskip("accelerate")
    parts = {"": 0, "language_model": "cpu"}
    split, whole = (
        watchword.load(checkpoint(kind), **more) for more in ({"device_map": parts}, {"device": "cuda"})
    )
    assert texts(split) == texts(whole)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two cards")
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_over_two_cards_answers_as_on_one(checkpoint, kind):
    pytest.importorskip("accelerate")
    parts = {"": 0, "language_model": 1}
    split, whole = (
        watchword.load(checkpoint(kind), **more) for more in ({"device_map": parts}, {"device": "cuda"})
    )
    for way in WAYS:
        assert texts(split, **way) == texts(whole, **way)
