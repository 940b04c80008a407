"""T5 against the reference: both stacks, traces, gradients, caches, half types, both kinds of config."""

import pytest
import torch

from tests.parity.text import SEQ2SEQ, Case, assert_close, assert_gradients_equal, ids, padding, pair, seq2seq
from watchword.config import T5Config
from watchword.generation.cache import KVCache
from watchword.models import language
from watchword.nn.trace import Trace

HALF = 1e-2  # of the largest value: mostly equal to the bit, but half-type sums depend on memory alignment


@pytest.mark.parametrize("pads", ["none", "left", "right", "middle"])
@pytest.mark.parametrize("case", SEQ2SEQ, ids=str)
@torch.no_grad()
def test_t5_logits_equal(case, pads):
    both, prompt, answers = pair(case), ids(3, 21), ids(3, 16)
    mask, answer_mask = padding(pads, 3, 21), padding(pads if pads == "right" else "none", 3, 16)
    theirs = both.theirs(
        input_ids=prompt, attention_mask=mask, decoder_input_ids=answers, decoder_attention_mask=answer_mask
    ).logits
    ours = seq2seq(both.ours, both.ours.embed(prompt), answers, mask, answer_mask)
    assert_close(ours, theirs, answer_mask)


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize("case", SEQ2SEQ, ids=str)
@torch.no_grad()
def test_t5_traces_equal(case, backend):
    both, prompt, answers, mask = pair(case, backend=backend), ids(2, 9), ids(2, 5), padding("right", 2, 9)
    theirs = both.theirs(
        input_ids=prompt,
        attention_mask=mask,
        decoder_input_ids=answers,
        output_hidden_states=True,
        output_attentions=True,
    )
    reading, answering = Trace.asked(True, True), Trace.asked(True, True)
    seq2seq(both.ours, both.ours.embed(prompt), answers, mask, traces=(reading, answering))
    for ours, expected in (
        (reading.hidden_states, theirs.encoder_hidden_states),
        (reading.attentions, theirs.encoder_attentions),
        (answering.hidden_states, theirs.decoder_hidden_states),
        (answering.attentions, theirs.decoder_attentions),
        (answering.cross_attentions, theirs.cross_attentions),
    ):
        assert len(ours) == len(expected)
        for one, other in zip(ours, expected, strict=True):
            assert_close(one, other)
    assert_close(reading.hidden_states[-1], theirs.encoder_last_hidden_state)


@pytest.mark.parametrize("case", SEQ2SEQ, ids=str)
def test_t5_gradients_equal(case):
    both, prompt, labels, mask = pair(case), ids(2, 9), ids(2, 6), padding("right", 2, 9)
    labels[1, 4:] = -100
    both.theirs(input_ids=prompt, attention_mask=mask, labels=labels).loss.backward()
    logits = seq2seq(both.ours, both.ours.embed(prompt), both.ours.shift_right(labels), mask)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
    assert_gradients_equal(both)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("case", SEQ2SEQ, ids=str)
def test_t5_dropout_draws_the_same_numbers(case, seed):
    both, prompt, answers = pair(case, backend="eager"), ids(2, 9), ids(2, 6)
    both.theirs.train()
    both.ours.train()
    torch.manual_seed(seed)
    theirs = both.theirs(input_ids=prompt, decoder_input_ids=answers, use_cache=False).logits
    torch.manual_seed(seed)
    assert_close(seq2seq(both.ours, both.ours.embed(prompt), answers), theirs)


@pytest.mark.parametrize("case", SEQ2SEQ, ids=str)
@torch.no_grad()
def test_t5_prefill_and_decode_equal_each_row_alone(case):
    both, lengths, answers = pair(case), torch.tensor([7, 2, 12]), ids(3, 15)
    prompts = [ids(1, int(length)) for length in lengths]
    padded = torch.zeros(3, 12, dtype=torch.long)
    for row, length in enumerate(lengths):
        padded[row, :length] = prompts[row][0]
    cache = KVCache(both.ours.cache_spec, rows=3, capacity=4)
    steps = [both.ours.prefill(both.ours.embed(padded), lengths, cache, answers[:, :2])]
    steps += [both.ours.decode(answers[:, place], cache) for place in range(2, 15)]
    for row, prompt in enumerate(prompts):
        theirs = both.theirs(input_ids=prompt, decoder_input_ids=answers[row : row + 1]).logits[0, 1:]
        assert_close(torch.stack([step[row] for step in steps]), theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", [SEQ2SEQ[0], SEQ2SEQ[2]], ids=str)  # gelu_new rounds elsewhere in half types
@torch.no_grad()
def test_t5_types_flow_as_in_the_reference(case, dtype):
    both, prompt, answers = pair(case, backend="eager"), ids(2, 9), ids(2, 5)
    for model in (both.theirs, both.ours):
        model.to(dtype)
        for name, module in model.named_modules():
            if dtype == torch.float16 and name.rpartition(".")[2] in both.ours.keep_in_fp32:
                module.float()
    theirs = both.theirs(input_ids=prompt, decoder_input_ids=answers, output_hidden_states=True)
    reading, answering = Trace.asked(True, False), Trace.asked(True, False)
    logits = seq2seq(both.ours, both.ours.embed(prompt), answers, traces=(reading, answering))
    pairs = [
        (logits, theirs.logits),
        *zip(reading.hidden_states, theirs.encoder_hidden_states, strict=True),
        *zip(answering.hidden_states, theirs.decoder_hidden_states, strict=True),
    ]
    for ours, expected in pairs:
        assert ours.dtype == expected.dtype
        assert (ours - expected).abs().max() <= HALF * expected.abs().max()
    streams = {state.dtype for state in answering.hidden_states[1:-1]}
    assert streams <= {torch.float32 if dtype == torch.float16 else torch.bfloat16}


@torch.no_grad()
def test_t5_reads_files_of_transformers_5():
    both = pair(Case("t5", dict(tie_word_embeddings=False)))
    said = both.config.to_dict() | dict(tie_word_embeddings=True, scale_decoder_outputs=False)
    ours = language.language_model(T5Config.from_dict(said)).eval()
    ours.load_state_dict(both.theirs.state_dict())
    prompt, answers = ids(1, 9), ids(1, 5)
    theirs = both.theirs(input_ids=prompt, decoder_input_ids=answers).logits
    assert_close(seq2seq(ours, ours.embed(prompt), answers), theirs)
