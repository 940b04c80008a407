"""T5: buckets of distance, float16 limits, both stacks, answers in company and alone."""

import pytest
import torch

from watchword.config import T5Config
from watchword.errors import ConfigError, RequestError
from watchword.generation.cache import GrowingCache, KVCache
from watchword.models.t5 import T5, initialise, shift_right
from watchword.models.t5_layers import GatedDense, PlainDense, buckets, clamp_half
from watchword.nn.attention import Uncached
from watchword.nn.trace import Trace

SMALL = dict(
    vocab_size=50,
    d_model=24,
    d_kv=10,
    d_ff=36,
    num_layers=2,
    num_heads=3,
    relative_attention_num_buckets=8,
    relative_attention_max_distance=12,
    decoder_start_token_id=0,
)
GATED = dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)


def tiny(*, backend: str = "sdpa", **changes) -> T5:
    model = T5(T5Config(**SMALL | changes), backend=backend).eval()
    initialise(model)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(1, 50, shape)


def logits(model, prompt, answers, mask=None, trace=None):
    states = model.encode(model.embed(prompt), mask)
    hidden = model.hidden(model.embed(answers), states=states, cache=Uncached(memory_mask=mask), trace=trace)
    return model.logits(hidden)


def test_buckets_are_exact_when_near_and_wide_when_far():
    distances = torch.tensor([[[-200, -128, -127, -64, -16, -8, -7, -1, 0, 1, 7, 8, 127, 128, 5000]]])
    both = buckets(distances, 32, 128, bidirectional=True)
    assert both.flatten().tolist() == [15, 15, 15, 14, 10, 8, 7, 1, 0, 17, 23, 24, 31, 31, 31]
    back = buckets(distances, 32, 128, bidirectional=False)
    assert back.flatten().tolist() == [31, 31, 31, 26, 16, 8, 7, 1, 0, 0, 0, 0, 0, 0, 0]


def test_position_bias_depends_on_the_distance_of_key_and_query():
    first = tiny().encoder.block[0].layer[0].SelfAttention
    bias = first.position_bias(torch.arange(6)[None], 6, bidirectional=True)
    assert torch.equal(bias[0, :, 1:, 1:], bias[0, :, :-1, :-1])
    late = first.position_bias(torch.tensor([[4, 5], [0, 1]]), 6, bidirectional=True)  # rows at other places
    assert torch.equal(late[0], bias[0, :, 4:])
    assert torch.equal(late[1], bias[0, :, :2])


def test_half_precision_is_kept_finite():
    x = torch.tensor([1.0, 65504.0, -65504.0], dtype=torch.float16)
    assert torch.equal(clamp_half(x), x)
    full = torch.tensor([1.0, float("inf"), -65504.0], dtype=torch.float16)
    assert clamp_half(full).tolist() == [1.0, 64512.0, -64512.0]  # 64504 to the nearest float16
    wide = torch.tensor([1e9, float("inf")])
    assert clamp_half(wide) is wide


def test_labels_become_decoder_inputs():
    labels = torch.tensor([[5, 6, 7, -100], [8, -100, -100, -100]])
    assert shift_right(labels, start=3, pad=9).tolist() == [[3, 5, 6, 7], [3, 8, 9, 9]]
    assert tiny(pad_token_id=4).shift_right(labels).tolist() == [[0, 5, 6, 7], [0, 8, 4, 4]]
    assert labels[0].tolist() == [5, 6, 7, -100]


@pytest.mark.parametrize("name", ["decoder_start_token_id", "pad_token_id"])
def test_labels_without_their_tokens_are_refused(name):
    with pytest.raises(ConfigError, match=rf"T5Config: {name} is None.*set text_config\.{name}"):
        tiny(**{name: None}).shift_right(torch.tensor([[5]]))


def test_a_decoder_without_states_is_refused():
    model = tiny()
    with pytest.raises(RequestError, match=r"states is None and the cache holds no cross-attention keys"):
        model.hidden(model.embed(ids(1, 2)), states=None, cache=Uncached())


@pytest.mark.parametrize("changes", [{}, GATED], ids=["plain", "gated"])
@torch.no_grad()
def test_backends_agree(changes):
    fused, prompt, answers = tiny(**changes), ids(2, 7), ids(2, 5)
    written = T5(fused.config, backend="eager").eval()
    written.load_state_dict(fused.state_dict())
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, 4:] = False
    for seen in (None, mask):
        expected = logits(written, prompt, answers, seen)
        torch.testing.assert_close(logits(fused, prompt, answers, seen), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("changes", [{}, GATED], ids=["plain", "gated"])
@torch.no_grad()
def test_a_row_answers_in_company_as_alone(changes):
    model, prompt, answers, lengths = tiny(**changes), ids(3, 9), ids(3, 8), torch.tensor([9, 2, 5])
    cache = KVCache(model.cache_spec, rows=3, capacity=4)
    steps = [model.prefill(model.embed(prompt), lengths, cache, answers[:, :1])]
    steps += [model.decode(answers[:, place], cache) for place in range(1, 8)]
    assert cache.lengths.tolist() == [8, 8, 8]
    for row, length in enumerate(lengths.tolist()):
        alone = logits(model, prompt[row : row + 1, :length], answers[row : row + 1])
        torch.testing.assert_close(torch.stack([step[row] for step in steps]), alone[0], rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_growing_cache_continues_a_plain_pass():
    model, prompt, answers = tiny(), ids(2, 7), ids(2, 6)
    store, states = GrowingCache(model.cache_spec.layers), model.encode(model.embed(prompt))
    model.hidden(model.embed(answers[:, :4]), states=states, cache=store.facing())
    hidden = model.hidden(model.embed(answers[:, 4:]), states=None, cache=store.facing())
    torch.testing.assert_close(model.logits(hidden), logits(model, prompt, answers)[:, 4:], rtol=0, atol=1e-4)


@torch.no_grad()
def test_masked_places_change_nothing():
    model, prompt, answers = tiny(), ids(1, 7), ids(1, 4)
    mask = torch.tensor([[True, True, False, True, False, True, True]])
    other = torch.where(mask, prompt, 49 - prompt)
    torch.testing.assert_close(
        logits(model, prompt, answers, mask), logits(model, other, answers, mask), rtol=0, atol=1e-5
    )


def test_gradient_checkpointing_changes_no_gradient():
    model, prompt, answers = tiny(**GATED).train(), ids(2, 6), ids(2, 4)
    found = []
    for on in (False, True):
        model.encoder.gradient_checkpointing = model.decoder.gradient_checkpointing = on
        model.zero_grad()
        torch.manual_seed(3)  # dropout draws again in the second pass
        trace = Trace.asked(True, True)
        logits(model, prompt, answers, trace=trace).square().mean().backward()
        found.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
        assert [len(trace.hidden_states), len(trace.attentions), len(trace.cross_attentions)] == [3, 2, 2]
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-5)


def test_both_stacks_share_the_embedding():
    model = tiny()
    table = torch.nn.Embedding(60, 24)
    model.set_input_embeddings(table)
    assert model.encoder.embed_tokens is model.decoder.embed_tokens is model.get_input_embeddings() is table
    assert model.lm_head.weight is table.weight
    shared = {"encoder.embed_tokens.weight": "shared.weight", "decoder.embed_tokens.weight": "shared.weight"}
    assert model.tied == shared | {"lm_head.weight": "shared.weight"}
    assert tiny(**GATED).tied == shared


@pytest.mark.parametrize(
    ("said", "tied", "scaled"),
    [
        ({}, True, True),
        (dict(tie_word_embeddings=True), True, True),
        (dict(tie_word_embeddings=False), False, False),
        (
            dict(tie_word_embeddings=True, scale_decoder_outputs=False),
            False,
            False,
        ),  # transformers 5, never tied
        (dict(tie_word_embeddings=True, scale_decoder_outputs=True), True, True),
    ],
)
def test_the_head_is_tied_and_scaled_as_the_config_means(said, tied, scaled):
    model = tiny(**said)
    assert (model.lm_head.weight is model.shared.weight) == tied
    states = torch.randn(1, 1, 24)
    torch.testing.assert_close(model.logits(states), model.lm_head(states) * (24**-0.5 if scaled else 1))


@pytest.mark.parametrize(("proj", "kind"), [("relu", PlainDense), ("gated-silu", GatedDense)])
def test_the_feed_forward_is_gated_as_the_config_says(proj, kind):
    model = tiny(feed_forward_proj=proj)
    blocks = [*model.encoder.block, *model.decoder.block]
    assert {type(block.layer[-1].DenseReluDense) for block in blocks} == {kind}


@torch.no_grad()
def test_down_projections_stay_float32_in_a_float16_model():
    model = tiny().half()
    kept = [module for name, module in model.named_modules() if name.rpartition(".")[2] in model.keep_in_fp32]
    assert len(kept) == 4
    for module in kept:
        module.float()
    trace = Trace.asked(True, False)
    assert logits(model, ids(1, 5), ids(1, 3), trace=trace).dtype == torch.float16
    assert [state.dtype for state in trace.hidden_states] == [torch.float16, torch.float32, torch.float16]


def test_a_model_without_head_gives_states():
    model = T5(T5Config(**SMALL), head=False)
    assert not [name for name in model.state_dict() if "lm_head" in name]
    states = model.encode(model.embed(ids(1, 5)))
    assert model.hidden(model.embed(ids(1, 3)), states=states, cache=Uncached()).shape == (1, 3, 24)


@pytest.mark.parametrize("changes", [{}, GATED], ids=["plain", "gated"])
def test_fresh_values_reach_every_parameter(changes):
    model = T5(T5Config(**SMALL | changes | dict(initializer_factor=0.5)))
    for parameter in model.parameters():
        parameter.data.fill_(7.0)
    initialise(model)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            assert torch.equal(parameter, torch.full((24,), 0.5)), name
        else:
            assert abs(parameter.mean()) < 0.2, name
            assert 0 < parameter.std() < 0.7, name


@torch.no_grad()
def test_extending_by_known_tokens_equals_decoding_them():
    model, prompt, answers = tiny(), ids(2, 6), ids(2, 3)
    known, decoded = (KVCache(model.cache_spec, rows=2, capacity=4) for _ in range(2))
    for cache in (known, decoded):
        model.prefill(model.embed(prompt), torch.tensor([6, 4]), cache, torch.zeros(2, 1, dtype=torch.long))
    scores = model.extend(answers, torch.tensor([3, 2]), known)
    for place in range(3):
        step = model.decode(answers[:, place], decoded)
        for row in range(2 if place < 2 else 1):
            torch.testing.assert_close(scores[row, place], step[row], rtol=0, atol=1e-5)
    assert known.lengths.tolist() == [4, 3]
