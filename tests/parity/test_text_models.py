"""Decoder-only text models against the reference: logits, traces, gradients, dropout, caches."""

import pytest
import torch

from tests.parity.text import (
    CAUSAL,
    CONFIGS,
    MODELS,
    OURS,
    SIZES,
    VOCABULARY,
    Case,
    assert_close,
    assert_gradients_equal,
    causal,
    ids,
    padding,
    pair,
)
from watchword.generation.cache import GrowingCache, KVCache
from watchword.models import language
from watchword.nn.trace import Trace


@pytest.mark.parametrize("pads", ["none", "left", "right", "middle"])
@pytest.mark.parametrize("case", CAUSAL, ids=str)
@torch.no_grad()
def test_causal_logits_equal(case, pads):
    both, prompt, mask = pair(case), ids(3, 13), padding(pads, 3, 13)
    theirs = both.theirs(input_ids=prompt, attention_mask=mask).logits
    assert_close(causal(both.ours, both.ours.embed(prompt), mask), theirs, mask)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (2, 37)])
@pytest.mark.parametrize("kind", ["llama", "mistral", "opt"])
@torch.no_grad()
def test_causal_logits_equal_for_other_shapes(kind, shape):
    both, prompt = pair(Case(kind), backend="eager", reference="eager"), ids(*shape)
    assert_close(causal(both.ours, both.ours.embed(prompt)), both.theirs(input_ids=prompt).logits)


@pytest.mark.parametrize("case", CAUSAL, ids=str)
@torch.no_grad()
def test_causal_traces_equal(case):
    both, prompt, mask = pair(case, reference="eager"), ids(2, 9), padding("left", 2, 9)
    theirs = both.theirs(
        input_ids=prompt, attention_mask=mask, output_hidden_states=True, output_attentions=True
    )
    trace = Trace.asked(True, True)
    causal(both.ours, both.ours.embed(prompt), mask, trace)
    assert len(trace.hidden_states) == len(theirs.hidden_states)
    assert len(trace.attentions) == len(theirs.attentions)
    for ours, expected in zip(trace.hidden_states, theirs.hidden_states, strict=True):
        assert_close(ours, expected, mask)
    for ours, expected in zip(trace.attentions, theirs.attentions, strict=True):
        assert_close(ours.transpose(1, 2), expected.transpose(1, 2), mask)


@pytest.mark.parametrize("case", CAUSAL, ids=str)
def test_causal_gradients_equal(case):
    both, prompt, mask = pair(case), ids(2, 9), padding("left", 2, 9)
    prompt[0, 4] = (both.config.pad_token_id or 0) % VOCABULARY  # its embedding row learns from the head only
    labels = prompt.masked_fill(mask == 0, -100)
    labels[1, 1] = -100  # what the pad before it predicts means nothing
    both.theirs(input_ids=prompt, attention_mask=mask, labels=labels).loss.backward()
    logits = causal(both.ours, both.ours.embed(prompt), mask)
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()).backward()
    assert_gradients_equal(both)


@pytest.mark.parametrize(
    "case",
    [
        Case("llama"),
        Case("mistral"),
        Case("opt"),
        Case("opt", dict(layerdrop=0.5)),
        Case("opt", dict(word_embed_proj_dim=20, do_layer_norm_before=False)),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_causal_dropout_draws_the_same_numbers(case, seed):
    both, prompt = pair(case, backend="eager", reference="eager"), ids(2, 9)
    both.theirs.train()
    both.ours.train()
    torch.manual_seed(seed)
    theirs = both.theirs(input_ids=prompt, output_attentions=True, output_hidden_states=True, use_cache=False)
    torch.manual_seed(seed)
    trace = Trace.asked(True, True)
    assert_close(causal(both.ours, both.ours.embed(prompt), trace=trace), theirs.logits)
    for ours, expected in zip(trace.hidden_states, theirs.hidden_states, strict=True):
        assert_close(ours, expected)
    for ours, expected in zip(trace.attentions, theirs.attentions, strict=True):  # none for layers left out
        assert_close(ours, expected)


@pytest.mark.parametrize("case", CAUSAL, ids=str)
@torch.no_grad()
def test_causal_prefill_and_decode_equal_each_row_alone(case):
    both, lengths = pair(case), torch.tensor([7, 3, 5])
    rows = [ids(1, int(length) + 6) for length in lengths]
    cache = KVCache(both.ours.cache_spec, rows=3, capacity=8)  # grows on the way
    prompt = torch.zeros(3, 7, dtype=torch.long)
    for row, length in enumerate(lengths):
        prompt[row, :length] = rows[row][0, :length]
    steps = [both.ours.prefill(both.ours.embed(prompt), lengths, cache)]
    for step in range(6):
        new = torch.stack([rows[row][0, length + step] for row, length in enumerate(lengths)])
        steps.append(both.ours.decode(new, cache))
    for row, length in enumerate(lengths):
        theirs = stepwise(both.theirs, rows[row], int(length))
        assert_close(torch.stack([step[row] for step in steps]), theirs)


def stepwise(model, row: torch.Tensor, prompt: int) -> torch.Tensor:
    """The reference's own cached run of one row: prompt first, then token by token."""
    out = model(input_ids=row[:, :prompt], use_cache=True)
    found = [out.logits[0, -1]]
    for place in range(prompt, row.shape[1]):
        out = model(input_ids=row[:, place : place + 1], past_key_values=out.past_key_values, use_cache=True)
        found.append(out.logits[0, -1])
    return torch.stack(found)


@pytest.mark.parametrize("case", [Case("llama"), Case("mistral"), Case("opt")], ids=str)
@torch.no_grad()
def test_causal_continues_a_growing_cache_like_the_reference(case):
    both, prompt, mask = pair(case), ids(2, 12), padding("left", 2, 12)
    past = both.theirs(input_ids=prompt[:, :7], attention_mask=mask[:, :7], use_cache=True).past_key_values
    theirs = both.theirs(input_ids=prompt[:, 7:], attention_mask=mask, past_key_values=past).logits
    store, seen, ours = GrowingCache(both.ours.cache_spec.layers), mask.bool(), both.ours
    for start, end in ((0, 7), (7, 12)):
        embeds, mask = ours.embed(prompt[:, start:end]), seen[:, :end]
        positions = ours.forward_positions(mask, start, end - start, prompt.device)
        hidden = ours.hidden(embeds, positions=positions, cache=store.facing(mask))
    assert_close(ours.logits(hidden), theirs)


@pytest.mark.parametrize(
    "case",
    [
        Case("llama", dict(hidden_size=128, initializer_range=0.05, attention_bias=True)),
        Case("opt", dict(hidden_size=96, ffn_dim=128, word_embed_proj_dim=64, init_std=0.1)),
        Case("opt", dict(hidden_size=96, tie_word_embeddings=False)),
        Case(
            "t5",
            dict(
                d_model=96,
                d_kv=24,
                d_ff=160,
                initializer_factor=0.5,
                tie_word_embeddings=False,
                feed_forward_proj="gated-gelu",
                relative_attention_num_buckets=128,
            ),
        ),
        Case("t5", dict(d_model=96, d_kv=24, d_ff=160, relative_attention_num_buckets=128)),
    ],
    ids=str,
)
@torch.no_grad()
def test_fresh_values_are_spread_as_in_the_reference(case):
    config = CONFIGS[case.kind](**(dict(vocab_size=500) | SIZES[case.kind] | case.changes))
    theirs = MODELS[case.kind](config)
    ours = language.language_model(OURS[case.kind].from_dict(config.to_dict()))
    for parameter in ours.parameters():
        parameter.fill_(7.0)
    language.initialise(ours)
    for (name, one), other in zip(
        sorted(ours.named_parameters()), [p for _, p in sorted(theirs.named_parameters())], strict=True
    ):
        if other.std() == 0:  # norms and biases
            assert torch.equal(one, other), name
        else:
            assert float(one.std() / other.std()) == pytest.approx(1, abs=0.15), name
            assert abs(one.mean()) < 5 * one.std() / one.numel() ** 0.5, name
    table = ours.get_input_embeddings()
    if table.padding_idx is not None:
        assert not table.weight[table.padding_idx].any()
