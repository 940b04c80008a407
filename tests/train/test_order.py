import math
from collections import Counter

import numpy as np
import pytest

from watchword.errors import RequestError
from watchword.train.order import held_out, order, shares


def test_shares_go_by_the_root_of_the_size_up_to_the_cap():
    assert shares([100, 400]) == pytest.approx([1 / 3, 2 / 3])
    assert shares([100, 10**8], cap=10_000) == pytest.approx([1 / 11, 10 / 11])
    assert shares([5, 500], [3, 1]) == [0.75, 0.25]


@pytest.mark.parametrize("weights", [[1], [1, -1], [0, 0]])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(RequestError, match=r"weights .* expected one number from 0 up for each of 2"):
        shares([1, 2], weights)


def test_one_data_set_comes_whole_in_every_pass():
    found = order([range(10)], [1.0], [1] * 10, batch=5, steps=6, seed=3)
    assert found.shape == (6, 5)
    assert Counter(found.ravel().tolist()) == dict.fromkeys(range(10), 3)
    assert not np.array_equal(found[:2], found[2:4])


def test_data_sets_are_drawn_by_their_shares_and_within_them_evenly():
    groups = [range(10), range(10, 110)]
    found = order(groups, shares([10, 100]), [1] * 110, batch=10, steps=400, seed=0).ravel()
    small = (found < 10).mean()
    assert small == pytest.approx(math.sqrt(10) / (math.sqrt(10) + 10), abs=0.03)
    counts = Counter(found.tolist())
    assert max(counts[n] for n in range(10)) - min(counts[n] for n in range(10)) <= 1


def test_batches_are_of_like_length_and_in_no_order_of_it():
    lengths = np.random.default_rng(0).integers(1, 100, 320)
    found = order([range(320)], [1.0], lengths.tolist(), batch=10, steps=32, seed=1)
    spread = np.ptp(lengths[found], axis=1)
    assert spread.mean() < 8
    means = lengths[found].mean(axis=1)
    assert abs(np.corrcoef(means, np.arange(32))[0, 1]) < 0.5


def test_the_same_seed_gives_the_same_order_and_another_one_another():
    first, again, other = (order([range(50)], [1.0], [1] * 50, batch=5, steps=10, seed=s) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_what_looks_at_one_clip_is_held_out_together():
    keys = [["a"], ["b"], ["a"], [], [], ["c"]]
    for seed in range(5):
        found = held_out(keys, 2, seed)
        assert len(found) >= 2
        assert ({0, 2} <= found) or not ({0, 2} & found)
    assert held_out(keys, 0, 0) == set()
    assert held_out(keys, 99, 0) == set(range(6))
