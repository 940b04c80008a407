import pytest
import torch
from torch import nn

from watchword.errors import CheckpointError
from watchword.train.masters import Masters, rate_at


def test_rate_climbs_straight_and_falls_as_a_cosine():
    rates = [rate_at(step, 100, 2.0, 10) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * n for n in range(1, 11)])
    assert rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.0, abs=1e-3)
    assert rate_at(0, 10, 1.0, 0) == 1.0


def parameters(dtype):
    torch.manual_seed(0)
    return {"a": nn.Parameter(torch.randn(4, 3).to(dtype)), "b": nn.Parameter(torch.randn(3).to(dtype))}


def push(masters, value):
    for one in masters.weights.values():
        one.grad = torch.full_like(one, value)
    masters.gather()


def test_small_steps_reach_weights_in_half_precision_through_their_masters():
    plain = parameters(torch.bfloat16)
    masters = Masters(plain, decay=0.0)
    before = {name: one.detach().clone() for name, one in plain.items()}
    steps = 200
    for _ in range(steps):
        push(masters, 1.0)
        masters.step(
            1e-4
        )  # AdamW's steps are as large as the rate: a hundredth of what bfloat16 resolves at 1
    for name, one in plain.items():
        assert torch.equal(one, masters.masters[name].to(torch.bfloat16))
        moved = before[name].float() - masters.masters[name].detach()
        assert torch.allclose(moved, torch.full_like(moved, steps * 1e-4), rtol=1e-2)


def test_gradients_of_half_precision_add_up_in_float32():
    masters = Masters({"a": nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))}, decay=0.0)
    for value in (1.0, 1 / 512, 1 / 512):  # each of the small ones is lost on a bfloat16 of 1
        push(masters, value)
    assert masters.masters["a"].grad.item() == 1 + 2 / 512
    assert masters.half


def test_float32_is_its_own_master_and_steps_as_adamw():
    ours, theirs = parameters(torch.float32), parameters(torch.float32)
    masters = Masters(ours, decay=0.1)
    other = torch.optim.AdamW(
        [{"params": [theirs["a"]], "weight_decay": 0.1}, {"params": [theirs["b"]], "weight_decay": 0.0}],
        lr=0.01,
    )
    for value in (0.5, -0.2, 0.1):
        push(masters, value)
        masters.step(0.01)
        for one in theirs.values():
            one.grad = torch.full_like(one, value)
        other.step()
    assert not masters.half
    for name, one in ours.items():
        assert torch.allclose(one, theirs[name], atol=1e-7)


def test_clipping_scales_to_the_norm_and_tells_what_it_was():
    masters = Masters({"a": nn.Parameter(torch.zeros(4))}, decay=0.0)
    push(masters, 3.0)
    assert masters.clip(None) == 6.0
    assert masters.clip(1.5) == 6.0
    assert masters.masters["a"].grad.norm().item() == pytest.approx(1.5, rel=1e-4)


def test_a_part_may_learn_at_a_share_of_the_rate():
    ones = {"tower.a": nn.Parameter(torch.zeros(2)), "text.a": nn.Parameter(torch.zeros(2))}
    masters = Masters(ones, decay=0.0, slower=(("tower.",), 0.25))
    push(masters, 1.0)
    masters.step(0.1)
    assert ones["tower.a"].detach() / ones["text.a"].detach() == pytest.approx(
        torch.full((2,), 0.25), rel=1e-4
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_state_taken_up_goes_on_exactly(dtype):
    first, second = Masters(parameters(dtype), decay=0.1), Masters(parameters(dtype), decay=0.1)
    for value in (0.3, 0.7):
        push(first, value)
        first.step(0.01)
    second.load({name: one.clone() for name, one in first.state().items()}, "here")
    for masters in (first, second):
        push(masters, -0.4)
        masters.step(0.01)
    for name in first.weights:
        assert torch.equal(first.masters[name], second.masters[name])
        assert torch.equal(first.weights[name], second.weights[name])


def test_a_state_of_other_parameters_is_refused():
    first = Masters(parameters(torch.float32), decay=0.0)
    other = Masters({"c": nn.Parameter(torch.zeros(1))}, decay=0.0)
    with pytest.raises(CheckpointError, match=r"runs/1: holds other parameters .*3 differ: a, b, c"):
        other.load(first.state(), "runs/1")
