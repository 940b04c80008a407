"""A frozen linear and its difference in one step: the same numbers and gradients as written out."""

import pytest
import torch
from torch import nn

from watchword.nn.lora import LoraLinear, add_adapter
from watchword.nn.lowrank import fits


class One(nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.q = nn.Linear(5, 7, bias=bias)


def adapted(bias, **settings):
    model = One(bias).double()
    add_adapter(model, ["q"], 3, alpha=5.0, **settings)
    model.double()
    nn.init.normal_(model.q.adapters["default"].B)
    return model.q


def written_out(linear: LoraLinear, x):
    lora = linear.adapters["default"]
    return linear.base(x) + (x @ lora.A.T @ lora.B.T) * lora.scale


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("below", [True, False], ids=["something learns below", "nothing learns below"])
def test_one_step_gives_the_outputs_and_gradients_of_the_sum(bias, below):
    linear = adapted(bias)
    lora = linear.adapters["default"]
    x = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=below)
    assert fits(x, linear.base, lora.A)
    learns = (lora.A, lora.B, x) if below else (lora.A, lora.B)
    weights = torch.randn(2, 4, 7, dtype=torch.float64)
    out, expected = linear(x), written_out(linear, x)
    torch.testing.assert_close(out, expected)
    for ours, theirs in zip(
        torch.autograd.grad((out * weights).sum(), learns),
        torch.autograd.grad((expected * weights).sum(), learns),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_only_what_learns_beside_a_frozen_linear_of_its_type_fits():
    linear = adapted(True)
    down = linear.adapters["default"].A
    x = torch.randn(2, 5, dtype=torch.float64)
    with torch.no_grad():
        assert not fits(x, linear.base, down)
    assert not fits(x.float(), linear.base, down)
    assert not fits(x, nn.Identity(), down)
    linear.base.bias.requires_grad_(True)
    assert not fits(x, linear.base, down)


def test_dropout_is_on_the_input_of_the_difference_alone():
    torch.manual_seed(0)
    linear = adapted(False, dropout=0.5).train()
    x = torch.ones(1, 5, dtype=torch.float64)
    assert len({tuple(linear(x)[0].tolist()) for _ in range(8)}) > 1
    torch.testing.assert_close(linear.eval()(x), written_out(linear, x))
