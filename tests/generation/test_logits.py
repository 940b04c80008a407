import math

import pytest
import torch

from watchword.errors import RequestError
from watchword.generation import filters, logits
from watchword.generation.choose import greedy, sample
from watchword.generation.logits import FILTERS, PENALTIES, Seen, process
from watchword.generation.options import GenerationOptions

NO = -math.inf


def seen(
    ids: list[list[int]], new: list[list[int]] | None = None, mask: list[list[int]] | None = None, **more
) -> Seen:
    given = torch.tensor(ids, dtype=torch.long).view(len(ids), -1)
    start = Seen.start(given, None if mask is None else torch.tensor(mask) == 1, **more)
    return start if new is None else start.grown(torch.tensor(new))


def run(scores: list[float], past: Seen, **options) -> list[float]:
    return process(torch.tensor([scores]), past, GenerationOptions(**options))[0].tolist()


def allowed(scores: list[float]) -> list[int]:
    return [i for i, one in enumerate(scores) if one > NO]


def test_process_order_is_the_reference_s():
    assert [step.__name__ for step in PENALTIES + FILTERS] == [
        "bias_sequences",
        "reward_encoder_ids",
        "penalize_repetition",
        "forbid_repeated_ngrams",
        "forbid_encoder_ngrams",
        "forbid_bad_words",
        "forbid_early_end",
        "allow_prefixes",
        "force_first",
        "force_end",
        "remove_invalid",
        "favour_end",
        "suppress",
        "suppress_at_begin",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "typical_p",
        "epsilon_cutoff",
        "eta_cutoff",
    ]


@pytest.mark.parametrize(
    ("options", "own", "right", "swapped"),
    [
        # the end is forbidden before the forced end brings it back: swapped, nothing would be left
        (
            dict(eos_token_ids=(1,), forced_eos_token_ids=(1,), max_new_tokens=1, min_new_tokens=1),
            (),
            [NO, 0.0, NO, NO],
            [NO, NO, NO, NO],
        ),
        # penalties before the caller's own: swapped, the constant would be halved too
        (
            dict(repetition_penalty=2.0),
            (lambda ids, scores: torch.full_like(scores, 3.0),),
            [3.0, 3.0, 3.0, 3.0],
            [1.5, 3.0, 3.0, 3.0],
        ),
        # temperature before top-p: sharpened first, two tokens hold the mass; swapped, all four are needed
        (
            dict(do_sample=True, temperature=0.25, top_p=0.99, top_k=0),
            (),
            [16.0, 12.0, NO, NO],
            [16.0, 12.0, 8.0, 4.0],
        ),
    ],
)
def test_process_order_changes_the_answer(options, own, right, swapped):
    past, scores = seen([[0]]), torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    settings = GenerationOptions(**options)
    found = process(scores, past, settings, own)
    torch.testing.assert_close(found, torch.tensor([right]))
    steps = [lambda s, f=f: f(s, past, settings) for f in PENALTIES]
    steps += [lambda s, f=f: f(past.whole, s) for f in own]
    steps += [lambda s, f=f: f(s, settings) for f in FILTERS] if settings.do_sample else []
    for step in reversed(steps):
        scores = step(scores)
    torch.testing.assert_close(scores, torch.tensor([swapped]))


def test_process_filters_only_when_sampling():
    assert run([3.0, 2.0, 1.0], seen([[0]]), temperature=9.0, top_k=1, top_p=0.1) == [3.0, 2.0, 1.0]


def test_seen_moves_real_ids_to_the_end():
    past = seen([[9, 4, 9, 5], [1, 2, 3, 4]], [[6], [7]], mask=[[0, 1, 0, 1], [1, 1, 1, 1]])
    assert past.ids.tolist() == [[9, 9, 4, 5, 6], [1, 2, 3, 4, 7]]
    assert past.mask.tolist() == [[False, False, True, True, True], [True] * 5]
    assert past.whole.tolist() == [[9, 4, 9, 5, 6], [1, 2, 3, 4, 7]]


def test_repetition_penalty_shrinks_each_id_once():
    found = run([2.0, -2.0, 4.0, 1.0], seen([[0, 1, 1]], [[2]]), repetition_penalty=2.0)
    assert found == [1.0, -4.0, 2.0, 1.0]


def test_repetition_penalty_skips_padding_and_ids_outside_the_vocabulary():
    past = seen([[0, 1, 99]], mask=[[0, 1, 1]])
    assert run([2.0, 2.0, 2.0], past, repetition_penalty=2.0) == [2.0, 1.0, 2.0]


def test_repetition_penalty_sees_nothing_in_an_empty_history():
    assert run([2.0, 2.0], seen([[]]), repetition_penalty=2.0) == [2.0, 2.0]


def test_encoder_repetition_penalty_rewards():
    past = seen([[0]], encoder=torch.tensor([[1, 2]]), encoder_mask=torch.tensor([[True, False]]))
    assert run([2.0, 2.0, 2.0], past, encoder_repetition_penalty=2.0) == [2.0, 4.0, 2.0]


@pytest.mark.parametrize(
    ("size", "ids", "mask", "banned"),
    [
        (1, [3, 1], None, [1, 3]),
        (2, [1, 2, 3, 1], None, [2]),
        (3, [1, 2, 3, 1, 2], None, [3]),
        (3, [1, 2], None, []),
        (3, [1], None, []),
        (2, [1, 0, 2, 3, 1], [1, 0, 1, 1, 1], [2]),  # 1 2 is an n-gram once the padding between them is gone
        (2, [1, 2, 1], [0, 1, 1], []),
    ],
)
def test_no_repeat_ngram_forbids_what_would_complete_one(size, ids, mask, banned):
    past = seen([ids], mask=None if mask is None else [mask])
    found = run([0.0] * 5, past, no_repeat_ngram_size=size)
    assert allowed(found) == [i for i in range(5) if i not in banned]


def test_encoder_ngrams_are_compared_with_what_was_written():
    past = seen([[9]], [[1, 2]], encoder=torch.tensor([[1, 2, 3, 2, 4]]))
    assert allowed(run([0.0] * 5, past, encoder_no_repeat_ngram_size=2)) == [0, 1, 2]
    assert allowed(run([0.0] * 5, past, encoder_no_repeat_ngram_size=3)) == [0, 1, 2, 4]


def test_bad_words_forbid_the_last_id_after_the_ones_before():
    words = ((0,), (3, 1), (2, 4), (5,))
    assert allowed(run([0.0] * 6, seen([[7, 3]]), bad_words_ids=words, eos_token_ids=(5,))) == [2, 3, 4, 5]


def test_bad_words_after_padding_do_not_match():
    past = seen([[2, 1]], mask=[[0, 1]])
    assert allowed(run([0.0] * 3, past, bad_words_ids=((2, 1, 1),))) == [0, 1, 2]


def test_sequence_bias_adds_up():
    biases = (((0,), 1.5), ((2, 0), 2.0), ((1, 0), 50.0), ((1,), -1.0))
    assert run([0.0, 0.0, 0.0], seen([[7, 2]]), sequence_bias=biases) == [3.5, -1.0, 0.0]


def test_sequence_bias_refuses_ids_outside_the_vocabulary():
    with pytest.raises(RequestError, match=r"ids \[5\] in .* but the vocabulary has 3; expected"):
        run([0.0, 0.0, 0.0], seen([[7]]), bad_words_ids=((2, 5),))


def test_min_new_tokens_forbids_every_end():
    options = dict(eos_token_ids=(0, 2), min_new_tokens=2)
    assert allowed(run([1.0] * 4, seen([[5]], [[1]]), **options)) == [1, 3]
    assert allowed(run([1.0] * 4, seen([[5]], [[1, 1]]), **options)) == [0, 1, 2, 3]


def test_prefix_function_chooses_what_may_come():
    calls = []

    def allow(row, ids):
        calls.append((row, ids.tolist()))
        return [1, 2] if row == 0 else [0]

    options = GenerationOptions(prefix_allowed_tokens_fn=allow, num_beams=2)
    found = process(torch.zeros(4, 3), seen([[5], [6], [7], [8]]), options)
    assert [allowed(row) for row in found.tolist()] == [[1, 2], [1, 2], [0], [0]]
    assert calls == [(0, [5]), (0, [6]), (1, [7]), (1, [8])]


def test_prefix_function_must_allow_something():
    with pytest.raises(RequestError, match=r"no token for row 0 after \[5\]"):
        run([0.0], seen([[5]]), prefix_allowed_tokens_fn=lambda row, ids: [])


def test_forced_first_id_follows_a_single_one():
    assert run([1.0, 2.0, 3.0], seen([[5]]), forced_bos_token_id=1) == [NO, 0.0, NO]
    assert run([1.0, 2.0], seen([[5]], [[1]]), forced_bos_token_id=1) == [1.0, 2.0]


def test_forced_end_comes_last():
    options = dict(forced_eos_token_ids=(1, 2), max_new_tokens=2)
    assert run([1.0, 2.0, 3.0], seen([[5]], [[4]]), **options) == [NO, 0.0, 0.0]
    assert run([1.0, 2.0, 3.0], seen([[5]]), **options) == [1.0, 2.0, 3.0]


def test_invalid_values_are_removed():
    most = torch.finfo(torch.float32).max
    assert run([math.nan, math.inf, NO], seen([[5]]), remove_invalid_values=True) == [0.0, most, -most]


def test_decay_favours_the_end_from_token_to_token():
    options = dict(eos_token_ids=(0, 1), exponential_decay_length_penalty=(1, 3.0))
    assert run([-2.0, 1.0, 5.0], seen([[5]], [[4]]), **options) == [-2.0, 1.0, 5.0]
    assert run([-2.0, 1.0, 5.0], seen([[5]], [[4, 4]]), **options) == [2.0, 3.0, 5.0]
    assert run([-2.0, 1.0, 5.0], seen([[5]], [[4, 4, 4]]), **options) == [14.0, 9.0, 5.0]
    assert run([NO, 1.0, 5.0], seen([[5]], [[4, 4]]), **options) == [NO, 3.0, 5.0]


def test_suppressed_ids_never_come():
    assert allowed(run([0.0] * 4, seen([[5]], [[4]]), suppress_tokens=(1, 3))) == [0, 2]


def test_suppressed_first_ids_wait_for_the_first_free_choice():
    options = dict(begin_suppress_tokens=(1,))
    assert allowed(run([0.0] * 3, seen([[5, 5]]), **options)) == [0, 2]
    assert allowed(run([0.0] * 3, seen([[5, 5]], [[2]]), **options)) == [0, 1, 2]
    forced = dict(forced_bos_token_id=2, **options)
    assert allowed(run([0.0] * 3, seen([[5]]), **forced)) == [2]
    assert allowed(run([0.0] * 3, seen([[5]], [[2]]), **forced)) == [0, 2]


def filtered(scores: list[float], **options) -> list[int]:
    return allowed(run(scores, seen([[0]]), do_sample=True, **{"top_k": 0, **options}))


def logs(*probabilities: float) -> list[float]:
    return [math.log(p) for p in probabilities]


def test_temperature_divides():
    assert run([4.0, 2.0], seen([[0]]), do_sample=True, temperature=2.0) == [2.0, 1.0]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (dict(top_k=2), [0, 2, 3]),  # 2 and 3 are equal
        (dict(top_k=9), [0, 1, 2, 3]),
        (dict(top_p=0.5), [0]),
        (dict(top_p=0.75), [0, 2, 3]),
        (dict(top_p=0.0), [0]),
        (dict(min_p=0.3), [0, 2, 3]),
        (dict(min_p=0.5), [0]),
        (dict(epsilon_cutoff=0.15), [0, 2, 3]),
        (dict(epsilon_cutoff=0.9), [0]),
        (dict(num_beams=2, epsilon_cutoff=0.9), [0, 2, 3]),
        (dict(num_beams=2, top_p=0.1, eos_token_ids=(1, 2)), [0, 2, 3]),
        (dict(num_beams=2, top_k=1), [0, 2, 3]),
        (dict(num_beams=2, min_p=1.0, eos_token_ids=(1, 2)), [0, 2, 3]),
    ],
)
def test_filters_keep_the_likely(options, kept):
    assert filtered(logs(0.5, 0.1, 0.2, 0.2), **options) == kept


def test_typical_keeps_what_is_as_surprising_as_expected():
    # expected surprise 1.16: 0.25 (1.39) is nearest, then 0.5 (0.69), then 0.15 (1.90), then 0.1
    scores = logs(0.5, 0.25, 0.15, 0.1)
    assert filtered(scores, typical_p=0.2) == [1]
    assert filtered(scores, typical_p=0.6) == [0, 1]
    assert filtered(scores, typical_p=0.8) == [0, 1, 2]


def test_eta_bound_falls_with_the_entropy():
    flat, sharp = logs(0.25, 0.25, 0.25, 0.25), logs(0.97, 0.01, 0.01, 0.01)
    assert filtered(flat, eta_cutoff=0.3) == [0, 1, 2, 3]
    assert filtered(sharp, eta_cutoff=0.3) == [0]
    assert filtered([*sharp, NO], eta_cutoff=0.3) == [0]


def test_renormalize_comes_last():
    found = run([1.0, 2.0, 3.0], seen([[0]]), do_sample=True, top_k=2, renormalize_logits=True)
    assert found[0] == NO
    assert sum(math.exp(one) for one in found) == pytest.approx(1)


def test_greedy_takes_the_first_of_equals():
    assert greedy(torch.tensor([[1.0, 3.0, 3.0]])).tolist() == [1]


def test_sample_draws_as_multinomial_from_the_global_generator():
    scores = torch.randn(6, 9)
    torch.manual_seed(4)
    drawn = sample(scores)
    torch.manual_seed(4)
    assert drawn.tolist() == torch.multinomial(scores.softmax(dim=-1), 1)[:, 0].tolist()


def test_names_of_filters_and_penalties_are_options():
    assert all(hasattr(GenerationOptions(), step.__name__) for step in filters.FILTERS)
    assert len(set(logits.PENALTIES)) == len(logits.PENALTIES)
