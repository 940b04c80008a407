"""Linears that turn the product of few rows round give what a linear gives."""

import pytest
import torch
from torch import nn

from watchword.nn import dense
from watchword.nn.dense import FEW, Linear, is_dense


@pytest.fixture
def turning(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The other way round is taken, whatever this machine is; how many rows it was taken for."""
    rows, turned = [], dense.turned
    monkeypatch.setattr(dense, "turns", lambda: True)
    monkeypatch.setattr(dense, "turned", lambda x, weight: rows.append(len(x)) or turned(x, weight))
    return rows


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 5, FEW])
def test_turned_is_the_linear_within_bfloat16(turning: list[int], rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    linear = Linear(160, 96, bias=bias)
    x = torch.randn(1, rows, 160)
    wanted = linear(x)
    assert not turning  # float32 stays as it is
    with torch.no_grad():
        got = linear.bfloat16()(x.bfloat16())
    assert turning == [rows]
    assert got.shape == wanted.shape
    assert got.is_contiguous()
    assert (got.float() - wanted).norm() < 0.01 * wanted.norm()


def test_many_rows_gradients_and_other_types_go_the_ordinary_way(turning: list[int]) -> None:
    linear = Linear(64, 32).bfloat16()
    with torch.no_grad():
        linear(torch.randn(FEW + 1, 64).bfloat16())
    linear(torch.randn(3, 64).bfloat16()).sum().backward()  # the weight learns
    linear.requires_grad_(False)
    linear(torch.randn(3, 64).bfloat16().requires_grad_()).sum().backward()  # what is before it learns
    assert not turning


def test_without_a_gain_it_is_the_linear_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "turns", lambda: False)
    linear, x = Linear(64, 32).bfloat16(), torch.randn(3, 64).bfloat16()
    assert torch.equal(linear(x), nn.functional.linear(x, linear.weight, linear.bias))


def test_the_machine_is_asked_once_and_answers() -> None:
    assert dense.turns() in (True, False)
    assert dense.turns() is dense.turns()


def test_is_dense_takes_no_subclass() -> None:
    class Other(nn.Linear):
        pass

    assert is_dense(nn.Linear(2, 2))
    assert is_dense(Linear(2, 2))
    assert not is_dense(Other(2, 2))
