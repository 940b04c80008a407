"""CLIP's and EVA's towers against the reference: every state, every size, gradients, dropout."""

import pytest
import torch
import transformers as ref

from tests.parity.tiny import agree, shaken
from watchword.config import CLIPVisionConfig, InstructBlipVisionConfig
from watchword.models import clip, eva
from watchword.nn.trace import Trace

# hidden, heads, layers, intermediate, image, patch; odd widths so that a swapped axis cannot fit
SHAPES = [(18, 3, 2, 25, 28, 14), (20, 4, 3, 24, 21, 7), (15, 5, 1, 31, 30, 6), (8, 1, 4, 9, 12, 12)]


def fields(shape, **others):
    hidden, heads, layers, inner, image, patch = shape
    return {
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "intermediate_size": inner,
        "image_size": image,
        "patch_size": patch,
        "initializer_range": 0.02,
        **others,
    }


def towers(kind, shape, backend="eager", **others):
    """The reference's tower and ours, with the same shaken weights."""
    known = fields(shape, **others)
    if kind == "clip":
        theirs = ref.CLIPVisionModel(ref.CLIPVisionConfig(**known, attn_implementation="eager"))
        ours = clip.ClipVision(CLIPVisionConfig(**known), backend=backend)
    else:
        theirs = ref.InstructBlipVisionModel(
            ref.InstructBlipVisionConfig(**known, attn_implementation="eager")
        )
        ours = eva.EvaVision(InstructBlipVisionConfig(**known), backend=backend)
    shaken(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours.eval(), theirs


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_clip_hidden_states_and_attentions_agree(shape, backend):
    ours, theirs = towers("clip", shape, backend)
    pixels, layers = torch.randn(3, 3, shape[4], shape[4]), shape[2]
    with torch.no_grad():
        expected = theirs(pixels, output_hidden_states=True, output_attentions=True)
        trace = Trace.asked(True, True)
        ours.features(pixels, -1, trace=trace)
        for index in range(-layers - 1, layers + 1):
            agree(ours.features(pixels, index), expected.hidden_states[index])
    for a, b in zip(trace.hidden_states, expected.hidden_states, strict=True):
        agree(a, b)
    for a, b in zip(trace.attentions, expected.attentions, strict=True):
        agree(a, b)


def test_clip_lists_of_layers_agree():
    ours, theirs = towers("clip", SHAPES[1], hidden_act="gelu", layer_norm_eps=1e-3)
    pixels = torch.randn(2, 3, 21, 21)
    with torch.no_grad():
        states = theirs(pixels, output_hidden_states=True).hidden_states
        for layers in ([1, -1], [-2, 0, 3], [2], (-4, -4)):
            agree(ours.features(pixels, layers), torch.cat([states[i] for i in layers], dim=-1))


def test_clip_with_another_number_of_channels_agrees():
    ours, theirs = towers("clip", SHAPES[0], num_channels=5)
    pixels = torch.randn(1, 5, 28, 28)
    with torch.no_grad():
        agree(ours.features(pixels, -2), theirs(pixels, output_hidden_states=True).hidden_states[-2])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("backend", "bias"), [("eager", True), ("sdpa", False)])
def test_eva_every_output_agrees(shape, backend, bias):
    ours, theirs = towers("eva", shape, backend, qkv_bias=bias)
    pixels = torch.randn(2, 3, shape[4], shape[4])
    trace = Trace.asked(True, True)
    with torch.no_grad():
        expected = theirs(pixels, output_hidden_states=True, output_attentions=True)
        last, pooled = ours.features(pixels, trace=trace)
        agree(ours.features(pixels)[0], expected.last_hidden_state)  # the same through the chosen backend
    agree(last, expected.last_hidden_state)
    agree(pooled, expected.pooler_output)
    for a, b in zip(trace.hidden_states, expected.hidden_states, strict=True):
        agree(a, b)
    for a, b in zip(trace.attentions, expected.attentions, strict=True):
        agree(a, b)


@pytest.mark.parametrize(
    "size", [(28, 28), (30, 30), (42, 56), (14, 14), (14, 70), (15, 55), (98, 33), (56, 14)], ids=str
)
def test_eva_interpolated_places_agree(size):
    ours, theirs = towers("eva", SHAPES[0])
    pixels = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = theirs(pixels, interpolate_pos_encoding=True)
        last, pooled = ours.features(pixels, interpolate=True)
    agree(last, expected.last_hidden_state)
    agree(pooled, expected.pooler_output)


@pytest.mark.parametrize("shape", SHAPES[1:3], ids=str)
def test_eva_interpolated_places_of_finer_grids_agree(shape):
    ours, theirs = towers("eva", shape)
    for size in (
        (5 * shape[5], 2 * shape[5]),
        (shape[4] - shape[5], shape[4] + shape[5]),
        (3 * shape[5], 9 * shape[5]),
    ):
        pixels = torch.randn(1, 3, *size)
        with torch.no_grad():
            agree(
                ours.features(pixels, interpolate=True)[0], theirs(pixels, interpolate_pos_encoding=True)[0]
            )


def test_eva_in_half_precision_agrees():
    """Softmax stays in bfloat16, and places are stretched in it: identical operations, identical bits."""
    ours, theirs = towers("eva", SHAPES[1])
    ours, theirs = ours.to(torch.bfloat16), theirs.to(torch.bfloat16)
    pixels = torch.randn(2, 3, 28, 35)
    with torch.no_grad():
        expected = theirs(pixels, interpolate_pos_encoding=True).last_hidden_state
        last, _ = ours.features(pixels, interpolate=True)
    assert last.dtype == torch.bfloat16
    assert torch.equal(last, expected)


def test_clip_in_half_precision_agrees():
    ours, theirs = towers("clip", SHAPES[1])
    ours, theirs = ours.to(torch.bfloat16), theirs.to(torch.bfloat16)
    pixels = torch.randn(2, 3, 21, 21)
    with torch.no_grad():
        assert torch.equal(ours.features(pixels, -1), theirs(pixels).last_hidden_state)


@pytest.mark.parametrize("kind", ["clip", "eva"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_training_agrees(kind, dropout, checkpointed):
    """The same seed drops the same attention weights; outputs and all gradients agree."""
    ours, theirs = towers(kind, SHAPES[1], attention_dropout=dropout)
    ours.train(), theirs.train()
    encoder = ours.vision_model.encoder if kind == "clip" else ours.encoder
    encoder.gradient_checkpointing = checkpointed
    size = (21, 21) if kind == "clip" else (14, 35)
    pixels, direction = torch.randn(2, 3, *size), torch.randn(20)
    torch.manual_seed(7)
    trace = Trace.asked(True, True)
    if kind == "clip":
        a = ours.features(pixels, -1, trace=trace)
    else:
        a, _ = ours.features(pixels, interpolate=True, trace=trace)
    torch.manual_seed(7)
    expected = theirs(pixels, interpolate_pos_encoding=kind == "eva", output_attentions=True)
    b = expected.last_hidden_state
    agree(a, b)
    for x, y in zip(trace.attentions, expected.attentions, strict=True):
        agree(x, y)
    (a.square() @ direction).mean().backward()
    (b.square() @ direction).mean().backward()
    others = dict(theirs.named_parameters())
    for name, p in ours.named_parameters():
        assert (p.grad is None) == (others[name].grad is None), name
        if (
            p.grad is not None and others[name].grad.abs().max() > 1e-5
        ):  # the keys' bias has none but rounding
            agree(p.grad, others[name].grad)


@pytest.mark.parametrize("kind", ["clip", "eva"])
def test_initial_values_are_spread_as_the_reference_spreads_them(kind):
    shape = (60, 3, 2, 70, 56, 7)
    known = {"initializer_range": 0.05} | ({"initializer_factor": 1.7} if kind == "clip" else {})
    ours, _ = towers(kind, shape, **known)
    theirs = {"clip": ref.CLIPVisionModel, "eva": ref.InstructBlipVisionModel}[kind]
    theirs = theirs(
        {"clip": ref.CLIPVisionConfig, "eva": ref.InstructBlipVisionConfig}[kind](**fields(shape) | known)
    )
    {"clip": clip, "eva": eva}[kind].initialise(ours)
    own = dict(ours.named_parameters())
    for name, p in theirs.named_parameters():
        if p.std() == 0:
            assert torch.equal(own[name], p), name
        else:
            few = p.numel() < 100
            assert own[name].std().item() == pytest.approx(p.std().item(), rel=0.5 if few else 0.12), name
            assert abs(own[name].mean()) < (0.5 if few else 0.1) * p.std(), name
