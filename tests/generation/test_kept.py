import threading

import pytest
import torch
from torch import nn

from watchword.errors import RequestError
from watchword.generation.kept import Kept, imprint, nbytes


def value(bytes_: int) -> torch.Tensor:
    return torch.zeros(bytes_, dtype=torch.uint8)


def test_kept_gives_back_the_very_value():
    kept, one = Kept(100), value(10)
    assert kept.put(("features", 1), one)
    assert kept.get(("features", 1)) is one
    assert kept.get(("features", 2)) is None
    stats = kept.stats()
    assert (stats.budget, stats.bytes, stats.entries, stats.evicted) == (100, 10, 1, 0)
    assert (stats.hits, stats.misses) == ({"features": 1}, {"features": 1})


def test_kept_lets_go_of_what_was_not_used_for_longest():
    kept = Kept(30)
    for name in "abc":
        kept.put((name,), value(10))
    kept.get(("a",))
    assert kept.renew(("b",))
    kept.put(("d",), value(10))
    assert [name for name in "abcd" if (name,) in kept] == ["a", "b", "d"]
    assert kept.stats().evicted == 1
    assert not kept.renew(("c",))


def test_kept_refuses_what_never_fits_and_keeps_the_rest():
    kept = Kept(30)
    kept.put(("a",), value(20))
    assert not kept.put(("b",), value(31))
    assert kept.stats().entries == 1


def test_kept_counts_a_replaced_value_once():
    kept = Kept(30)
    kept.put(("a",), value(20))
    kept.put(("a",), value(25))
    assert (kept.stats().bytes, kept.stats().entries, kept.stats().evicted) == (25, 1, 0)


def test_kept_without_budget_keeps_nothing():
    kept = Kept(0)
    assert not kept.put(("a",), value(0))
    assert kept.get(("a",)) is None
    with pytest.raises(RequestError, match="a budget of -1 bytes; expected 0, which keeps nothing, or more"):
        Kept(-1)


def test_kept_clears():
    kept = Kept(30)
    kept.put(("a",), value(20))
    kept.clear()
    assert (kept.stats().bytes, kept.stats().entries) == (0, 0)


def test_bytes_are_those_of_whole_storages_each_counted_once():
    wide = torch.zeros(100, dtype=torch.float32)
    assert nbytes(wide[:1]) == 400
    assert nbytes((wide, [wide[3:]], {"x": torch.zeros(2, dtype=torch.bfloat16)})) == 404
    with pytest.raises(RequestError, match="a value of type str; expected tensors"):
        nbytes("text")


def test_kept_is_safe_between_threads():
    kept, failures = Kept(1000), []

    def work(seed: int) -> None:
        try:
            for step in range(300):
                name = ("a", (seed * step) % 37)
                kept.put(name, value(step % 90))
                kept.get(name)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    names = [("a", number) for number in range(37)]
    assert kept.stats().bytes == sum(nbytes(kept.get(name)) for name in names if name in kept) <= 1000


def test_imprint_changes_with_the_weights_and_with_nothing_else():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
    first = imprint(model)
    model(torch.zeros(1, 2))
    assert imprint(model) == first
    with torch.no_grad():
        model[0].weight[0, 0] += 1
    second = imprint(model)
    assert second != first
    model.load_state_dict({name: one.clone() for name, one in model.state_dict().items()})
    third = imprint(model)
    assert third != second
    model[0].weight = nn.Parameter(model[0].weight.clone())
    fourth = imprint(model)
    assert fourth != third
    model.append(nn.Linear(2, 2))
    assert imprint(model) != fourth
