import itertools
import math

import pytest
import torch

from tests.generation.toy import Toy
from watchword.errors import RequestError
from watchword.generation import GenerationOptions, generate, steps
from watchword.generation.cache import KVCache
from watchword.generation.engine import Decoder, Prompt, _search

ROWS = ([3, 5, 2], [7, 1, 4, 9, 6], [8])
OPTIONS = {
    "greedy": dict(),
    "greedy-penalties": dict(repetition_penalty=1.9, no_repeat_ngram_size=2, encoder_repetition_penalty=1.3),
    "greedy-ends": dict(eos_token_ids=(2, 5), pad_token_id=0, min_new_tokens=2),
    "greedy-encoder-ngrams": dict(encoder_no_repeat_ngram_size=1, max_new_tokens=4),
    "beams": dict(num_beams=3, eos_token_ids=(2,), pad_token_id=1),
    "beams-penalties": dict(num_beams=3, repetition_penalty=1.5, no_repeat_ngram_size=2, length_penalty=0.5),
    "beams-biased": dict(
        num_beams=2, sequence_bias=(((6, 3), 5.0), ((9, 6), 4.0)), bad_words_ids=((4,), (6, 2))
    ),
}


def alone(sequence: list[int], options: GenerationOptions) -> list[int]:
    """Up to and with the first end: what follows is filling."""
    ends = [i for i, one in enumerate(sequence) if one in options.eos_token_ids]
    return sequence[: ends[0] + 1] if ends else sequence


def test_toy_fits_the_protocol():
    assert isinstance(Toy(), Decoder)


@pytest.mark.parametrize("name", OPTIONS)
def test_generate_answers_a_batch_as_its_rows_alone(name):
    toy, options = Toy(), GenerationOptions(**dict(max_new_tokens=9) | OPTIONS[name])
    together = generate(toy, toy.prompt(*ROWS), options).sequences.tolist()
    singly = [generate(toy, toy.prompt(row), options).sequences[0].tolist() for row in ROWS]
    assert [alone(row, options) for row in together] == [alone(row, options) for row in singly]


@pytest.mark.parametrize("seed", range(4))
def test_generate_with_one_beam_equals_greedy(seed):
    toy = Toy(seed=seed)
    prompt = toy.prompt([3, 5], [7, 4])
    options = GenerationOptions(max_new_tokens=8, eos_token_ids=(2, 5), early_stopping=True)
    greedy = generate(toy, prompt, options).sequences.tolist()
    beam = _search(toy, prompt, options, (), ()).sequences.tolist()
    assert [alone(row, options) for row in beam] == [alone(row, options) for row in greedy]


def test_generate_with_cache_equals_running_everything_again():
    toy, ids = Toy(), [3, 5, 2]
    found = generate(toy, toy.prompt(ids), GenerationOptions(max_new_tokens=8)).sequences[0].tolist()
    for token in found:
        cache = KVCache(toy.cache_spec, 1, len(ids))
        scores = toy.prefill(toy.table[ids][None], torch.tensor([len(ids)]), cache, None)
        assert scores.argmax() == token
        ids = [*ids, token]


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 3.0])
def test_generate_with_enough_beams_finds_the_best_of_all_sequences(length_penalty):
    toy, end, most = Toy(vocabulary=5), 4, 3
    options = GenerationOptions(
        max_new_tokens=most,
        num_beams=25,
        early_stopping="never",
        eos_token_ids=(end,),
        length_penalty=length_penalty,
    )
    found = generate(toy, toy.prompt([1, 2]), options)
    best, answer = -math.inf, None
    for length in range(1, most + 1):
        for ids in itertools.product(range(5), repeat=length):
            if end in ids[:-1] or (length < most and ids[-1] != end):
                continue
            score = total(toy, [1, 2], ids) / length**length_penalty
            if score > best:
                best, answer = score, ids
    assert tuple(alone(found.sequences[0].tolist(), options)) == answer
    assert found.sequences_scores.item() == pytest.approx(best, abs=1e-5)


def total(toy: Toy, ids: list[int], new: tuple[int, ...]) -> float:
    cache = KVCache(toy.cache_spec, 1, 8)
    scores, total = toy.prefill(toy.table[ids][None], torch.tensor([len(ids)]), cache, None), 0.0
    for token in new:
        total += scores.log_softmax(dim=-1)[0, token].item()
        scores = toy.decode(torch.tensor([token]), cache)
    return total


def test_generate_runs_the_prompt_once_for_all_beams_and_samples():
    toy = Toy()
    beams = GenerationOptions(max_new_tokens=3, num_beams=4, num_return_sequences=2)
    generate(toy, toy.prompt([3], [5]), beams)
    samples = GenerationOptions(max_new_tokens=3, do_sample=True, num_return_sequences=5)
    generate(toy, toy.prompt([3]), samples)
    assert toy.prefilled == 2 + 1


def test_generate_keeps_nothing_between_calls():
    toy = Toy()
    options = GenerationOptions(max_new_tokens=6, num_beams=2, repetition_penalty=1.4)
    first = generate(toy, toy.prompt([3, 5]), options).sequences
    generate(toy, toy.prompt([7], [8]), options)
    assert generate(toy, toy.prompt([3, 5]), options).sequences.tolist() == first.tolist()


def test_generate_leaves_gradients_alone():
    toy = Toy()
    toy.table.requires_grad_()
    stream = steps(toy, toy.prompt([3, 5]), GenerationOptions(max_new_tokens=2))
    step = next(stream)
    assert not step.logits.requires_grad
    assert torch.is_grad_enabled()


def test_generate_fills_rows_after_their_end():
    toy, options = Toy(), GenerationOptions(max_new_tokens=9, eos_token_ids=(2, 5), pad_token_id=10)
    rows = generate(toy, toy.prompt(*ROWS), options).sequences.tolist()
    lengths = [len(alone(row, options)) for row in rows]
    assert min(lengths) < max(lengths)
    assert all(set(row[length:]) <= {10} for row, length in zip(rows, lengths))
    without = GenerationOptions(max_new_tokens=9, eos_token_ids=(2, 5), pad_token_id=-1)
    filled = generate(toy, toy.prompt(*ROWS), without).sequences.tolist()
    assert all(set(row[length:]) <= {2} for row, length in zip(filled, lengths))


@pytest.mark.parametrize(("pad", "fill"), [(0, 2), (None, 2), (9, 9)])
def test_generate_fills_short_beams_with_the_end_when_the_pad_id_is_zero(pad, fill):
    toy = Toy(seed=1)
    options = GenerationOptions(
        max_new_tokens=9,
        num_beams=4,
        num_return_sequences=4,
        eos_token_ids=(2, 5),
        pad_token_id=pad,
        length_penalty=0.0,
    )
    rows = generate(toy, toy.prompt([3, 5]), options).sequences.tolist()
    rest = {one for row in rows for one in row[len(alone(row, options)) :]}
    assert rest == {fill}


def test_generate_samples_as_often_as_the_scores_say():
    toy, copies = Toy(vocabulary=5), 4000
    options = GenerationOptions(
        max_new_tokens=1, do_sample=True, num_return_sequences=copies, top_k=0, output_scores=True
    )
    found = generate(toy, toy.prompt([3]), options)
    share = found.sequences[:, 0].bincount(minlength=5) / copies
    torch.testing.assert_close(share, found.scores[0][0].softmax(dim=-1), atol=0.03, rtol=0)


def test_generate_same_seed_same_samples():
    toy, options = Toy(), GenerationOptions(max_new_tokens=8, do_sample=True, temperature=2.0)
    torch.manual_seed(5)
    first = generate(toy, toy.prompt(*ROWS), options).sequences.tolist()
    other = generate(toy, toy.prompt(*ROWS), options).sequences.tolist()
    torch.manual_seed(5)
    assert generate(toy, toy.prompt(*ROWS), options).sequences.tolist() == first
    assert other != first


def test_steps_yield_what_generate_collects():
    toy, options = Toy(), GenerationOptions(max_new_tokens=6, eos_token_ids=(2, 5), pad_token_id=0)
    seen = []
    whole = generate(toy, toy.prompt(*ROWS), options, on_token=seen.append)
    streamed = list(steps(toy, toy.prompt(*ROWS), options))
    assert [step.ids.tolist() for step in streamed] == whole.sequences.T.tolist()
    assert [step.ids.tolist() for step in seen] == whole.sequences.T.tolist()
    assert [step.finished.all().item() for step in streamed][:-1] == [False] * (len(streamed) - 1)


def test_generate_stops_where_a_criterion_says():
    toy, calls = Toy(), []

    def third_row_after_two(ids, scores):
        calls.append((tuple(ids.shape), scores))
        return torch.tensor([False, False, ids.shape[1] >= 5 + 2])

    options = GenerationOptions(max_new_tokens=4, eos_token_ids=(99,), pad_token_id=0)
    rows = generate(toy, toy.prompt(*ROWS), options, stop=[third_row_after_two]).sequences.tolist()
    assert rows[2][2:] == [0, 0]
    assert rows[0][2:] != [0, 0]
    assert calls[0] == ((3, 6), None)
    rows = generate(toy, toy.prompt(*ROWS), options, stop=[lambda ids, scores: ids.shape[1] == 7]).sequences
    assert rows.shape == (3, 2)


def test_generate_gives_criteria_the_scores_when_they_are_kept():
    toy, lengths = Toy(), []
    options = GenerationOptions(max_new_tokens=3, output_scores=True)
    generate(toy, toy.prompt([3]), options, stop=[lambda ids, scores: lengths.append(len(scores)) or False])
    assert lengths == [1, 2, 3]


def test_generate_stops_beams_where_a_criterion_says():
    toy = Toy()
    options = GenerationOptions(max_new_tokens=9, num_beams=3)
    stop = [lambda ids, scores: ids.shape[1] == 2 + 4]
    found = generate(toy, toy.prompt([3, 5], [7, 4]), options, stop=stop)
    assert found.sequences.shape == (2, 4)


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize(("seconds", "length"), [(0.0, 1), (60.0, 9)])
def test_generate_stops_after_max_time(seconds, beams, length):
    toy = Toy()
    options = GenerationOptions(max_new_tokens=9, max_time=seconds, num_beams=beams)
    assert generate(toy, toy.prompt([3]), options).sequences.shape == (1, length)


def test_generate_applies_own_processors_to_the_ids_as_given():
    toy, shapes = Toy(), []

    def only_three(ids, scores):
        shapes.append((tuple(ids.shape), ids[2, 0].item()))
        return torch.full_like(scores, -math.inf).index_fill(1, torch.tensor([3]), 0.0)

    options = GenerationOptions(max_new_tokens=2)
    rows = generate(toy, toy.prompt(*ROWS), options, processors=[only_three]).sequences
    assert rows.tolist() == [[3, 3]] * 3
    assert shapes == [((3, 5), 0), ((3, 6), 0)]


def test_generate_beams_report_where_they_came_from():
    toy = Toy()
    options = GenerationOptions(
        max_new_tokens=5, num_beams=3, num_return_sequences=2, output_scores=True, output_logits=True
    )
    found = generate(toy, toy.prompt([3, 5], [7, 4]), options)
    for row, score in enumerate(found.sequences_scores):
        origin, ids = found.beam_indices[row].tolist(), found.sequences[row].tolist()
        sums = sum(found.scores[at][origin[at], ids[at]].item() for at in range(5))
        assert score.item() == pytest.approx(sums / 5, abs=1e-5)
        assert all(row // 2 == one // 3 for one in origin)
    torch.testing.assert_close(found.logits[2].log_softmax(dim=-1), found.scores[2])


def test_generate_cache_holds_all_but_the_last_token():
    toy = Toy()
    cache = generate(toy, toy.prompt([3, 5], [7]), GenerationOptions(max_new_tokens=4)).cache
    assert cache.lengths.tolist() == [2 + 3, 1 + 3]


def test_generate_refuses_to_stream_beams():
    toy = Toy()
    with pytest.raises(RequestError, match="num_beams=2 can not be streamed"):
        generate(toy, toy.prompt([3]), GenerationOptions(num_beams=2), on_token=print)


def test_generate_refuses_empty_rows():
    toy = Toy()
    prompt = Prompt(torch.zeros(2, 3, 8), torch.tensor([3, 0]))
    with pytest.raises(RequestError, match=r"rows of \[3, 0\] positions"):
        generate(toy, prompt, GenerationOptions(max_new_tokens=2))


def test_generate_needs_ids_for_penalties_on_the_prompt():
    toy = Toy()
    prompt = Prompt(torch.zeros(1, 3, 8), torch.tensor([3]))
    with pytest.raises(RequestError, match=r"encoder_repetition_penalty=1.5 needs the prompt's ids"):
        generate(toy, prompt, GenerationOptions(max_new_tokens=2, encoder_repetition_penalty=1.5))
