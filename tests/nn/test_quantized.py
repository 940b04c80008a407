import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from watchword.nn import kernels, quantized
from watchword.nn.quantized import (
    Int8Linear,
    fed,
    gated,
    int8_weights,
    largest,
    multiplied,
    quantize_rows,
    together,
)


def relative(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got.double() - wanted.double()).norm() / wanted.double().norm())


def int8(
    inner: int = 96, outer: int = 80, *, bias: bool = True, seed: int = 0
) -> tuple[Int8Linear, nn.Linear]:
    torch.manual_seed(seed)
    dense = nn.Linear(inner, outer, bias=bias)
    linear = Int8Linear(inner, outer, bias=False)
    linear.load(int8_weights(dense.weight.detach()))
    linear.bias = copy.deepcopy(dense.bias)
    return linear.requires_grad_(False), dense.requires_grad_(False)


@pytest.fixture(params=list(kernels.INT8_PRODUCTS))
def product(request, monkeypatch):
    """Each product in turn, if this machine has it."""
    if request.param != "dense" and not kernels._int8_is_right(request.param):
        pytest.skip(f"no {request.param} here")
    monkeypatch.setattr(quantized, "int8_product", lambda device, pack: request.param)
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_int8_product_is_that_of_its_dense_definition(product, dtype):
    linear, _ = int8()
    linear = linear.to(dtype)
    x = torch.randn(2, 9, 96).to(dtype)
    rows = quantize_rows(x.flatten(0, 1))
    exact = (rows.codes.double() - 128) * rows.scales.double()
    wanted = exact @ linear.dense().double().t() + linear.bias.double()
    out = linear(x)
    assert (out.dtype, out.shape) == (dtype, (2, 9, 80))
    bound = {torch.float32: 1e-5, torch.bfloat16: 0.006, torch.float16: 0.001}[dtype]
    assert relative(out.flatten(0, 1), wanted) < bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_product_is_within_its_stated_error(product, dtype):
    linear, dense = int8(512, 256)
    x = torch.randn(40, 512)
    assert relative(linear.to(dtype)(x.to(dtype)), dense(x)) < 0.015


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 5, 33, 300])
def test_weights_that_stay_as_stored_give_the_same_bits(dtype, rows):
    linear, _ = int8(1024, 80)
    plain = copy.deepcopy(linear).to(dtype)
    plain.pack = False
    x = torch.randn(rows, 1024).to(dtype)
    assert torch.equal(plain(x), linear.to(dtype)(x))
    assert plain.packed is plain.weight
    assert torch.equal(copy.deepcopy(plain)(x), plain(x))


def test_weights_that_stay_as_stored_are_summed_exactly():
    """Of weights that all lean one way oneDNN rounds the unsigned sum to float32 before it takes 128 off."""
    linear, _ = int8(1024, 80, bias=False)
    linear.weight[0], linear.weight[1] = 127, -127
    plain = copy.deepcopy(linear)
    plain.pack = False
    rows = quantize_rows(torch.randn(33, 1024))
    exact = ((rows.codes.long() - 128) @ plain.weight.long().t()).float() * plain.scale
    assert torch.equal(plain.product(rows), exact)
    assert torch.allclose(linear.product(rows), exact, rtol=1e-6, atol=1e-3)


def test_int8_rows_do_not_depend_on_their_neighbours():
    linear, _ = int8()
    x = torch.randn(300, 96, dtype=torch.bfloat16)  # more than a piece
    x[7] *= 1000
    linear = linear.bfloat16()
    whole = linear(x)
    assert torch.equal(whole, torch.cat([linear(row) for row in x.split(1)]))
    assert torch.equal(whole, torch.cat([linear(rows) for rows in x.split(5)]))


def test_int8_rows_of_zeros_and_of_no_numbers():
    linear, _ = int8()
    x = torch.zeros(3, 96)
    x[1, 4], x[2, 4] = torch.inf, torch.nan
    out = linear(x)
    assert torch.equal(out[0], linear.bias)
    assert not out[1:].isfinite().any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16])
def test_largest_is_the_largest_magnitude_and_hides_no_nan(dtype):
    x = torch.randn(5, 33).to(dtype)
    x[1, 3], x[2, 4], x[3] = -torch.inf, torch.nan, -0.0
    found = largest(x)
    assert torch.equal(found.isnan()[:, 0], torch.tensor([False, False, True, False, False]))
    assert torch.equal(found.nan_to_num(7), x.abs().amax(dim=-1, keepdim=True).nan_to_num(7))


def test_quantize_rows_stays_within_half_a_step():
    x = torch.randn(50, 64, dtype=torch.bfloat16) * torch.logspace(-8, 8, 50, dtype=torch.bfloat16)[:, None]
    rows = quantize_rows(x)
    back = (rows.codes.float() - 128) * rows.scales.float()
    assert ((back - x.float()).abs() <= 0.501 * rows.scales.float()).all()
    assert rows.codes.min() >= 1  # 0 would be -128, for which there is no opposite


def test_together_is_each_alone():
    first, _ = int8(seed=1)
    second, _ = int8(96, 48, seed=2, bias=False)
    for rows in (3, 600):
        x = torch.randn(rows, 96, dtype=torch.bfloat16)
        both = together(x, first.bfloat16(), second.bfloat16())
        assert torch.equal(both[0], first(x))
        assert torch.equal(both[1], second(x))


def test_together_takes_dense_linears_one_by_one():
    first, dense = int8()
    x = torch.randn(3, 96)
    assert torch.equal(together(x, first, dense)[1], dense(x))


@pytest.mark.parametrize("rows", [1, 5, 600])
def test_gated_is_near_its_parts(rows):
    gate, up, down = (
        int8(a, b, bias=False, seed=a)[0].bfloat16() for a, b in ((96, 160), (96, 160), (160, 96))
    )
    x = torch.randn(rows, 96, dtype=torch.bfloat16)
    plain = down(F.silu(gate(x)) * up(x))
    assert relative(gated(x, gate, up, down, F.silu), plain) < 0.01
    biased = copy.deepcopy(up)
    biased.bias = nn.Parameter(torch.ones(160, dtype=torch.bfloat16))
    assert torch.equal(gated(x, gate, biased, down, F.silu), down(F.silu(gate(x)) * biased(x)))


def test_int8_state_survives_packing_moving_and_copying(product):
    linear, _ = int8()
    weights = linear.weight.clone()
    x = torch.randn(2, 96)
    out = linear(x)
    assert torch.equal(linear.state_dict()["weight"], weights)
    assert torch.equal(copy.deepcopy(linear)(x), out)
    moved = linear.to(torch.bfloat16)
    assert (moved.scale.dtype, moved.bias.dtype) == (torch.float32, torch.bfloat16)
    assert torch.equal(moved.plain(), weights)


def test_gradients_pass_through_quantized_linears():
    linear, _ = int8()
    x = torch.randn(4, 96, requires_grad=True)
    linear(x).sum().backward()
    assert torch.allclose(x.grad, linear.dense().sum(0).expand(4, -1), atol=1e-5)
    (left,) = torch.autograd.grad(together(x, linear, linear)[1].sum(), x)
    assert torch.allclose(left, x.grad)


def test_weights_stay_as_stored_only_where_a_product_takes_them(monkeypatch):
    if not kernels._int8_is_right("onednn"):
        pytest.skip("no onednn here")

    def absent(*arguments):
        raise RuntimeError("no such operator")

    products = dict(kernels.INT8_PRODUCTS)
    assert kernels.int8_product.__wrapped__("cpu", False) == "int_mm"
    products["int_mm"] = kernels.Int8Product(torch.Tensor.contiguous, lambda weight: weight, absent)
    monkeypatch.setattr(kernels, "INT8_PRODUCTS", products)
    assert kernels.int8_product.__wrapped__("cpu", False) == "onednn"


def test_a_wrong_operator_is_not_taken(monkeypatch):
    wrong = kernels.Int8Product(
        torch.Tensor.contiguous, lambda w: w, lambda *args: kernels._dense(*args) * 1.05
    )

    def missing(*args):
        raise RuntimeError("no such operator")

    absent = kernels.Int8Product(missing, missing, missing)
    right = kernels.INT8_PRODUCTS["dense"]
    monkeypatch.setattr(kernels, "INT8_PRODUCTS", {"onednn": wrong, "int_mm": absent, "dense": right})
    assert kernels.int8_product.__wrapped__("cpu") == "dense"
    assert kernels.int8_product.__wrapped__("cpu", False) == "dense"
    assert kernels.int8_product("cuda") == "dense"


def test_gated_dense_rows_in_pieces_are_those_of_one_pass(monkeypatch):
    monkeypatch.setattr("watchword.nn.quantized.PIECE", 8)
    gate, up, down = (nn.Linear(a, b, bias=False).bfloat16() for a, b in ((32, 64), (32, 64), (64, 32)))
    x = torch.randn(2, 13, 32).bfloat16()
    learning = gated(x, gate, up, down, F.silu)
    monkeypatch.setattr("watchword.nn.layers.FEW", 0)
    with torch.no_grad():
        torch.testing.assert_close(gated(x, gate, up, down, F.silu), learning, atol=0.005, rtol=0.02)
    assert learning.requires_grad


@pytest.mark.parametrize("shape", [(2, 3, 8), (1, 700, 64), (3, 200, 64)])  # few, and many rows in pieces
def test_multiplied_in_pieces_is_what_it_is_in_one_pass(shape):
    torch.manual_seed(0)
    opened, padded = torch.randn(shape).bfloat16(), torch.randn(*shape[:-1], shape[-1] + 5).bfloat16()
    raised = padded[..., : shape[-1]]  # as the packed product leaves it: rows lie further apart
    expected = F.silu(opened) * raised
    assert torch.equal(multiplied(F.silu, opened, raised), expected)


@pytest.mark.parametrize("rows", [1, 5, 600])
def test_fed_is_its_parts_bit_for_bit(rows):
    first, second = (int8(a, b, seed=a)[0].bfloat16() for a, b in ((96, 160), (160, 96)))
    x = torch.randn(2, rows, 96, dtype=torch.bfloat16)
    assert torch.equal(fed(x, first, F.gelu, second), second(F.gelu(first(x))))
    dense = nn.Linear(160, 64, dtype=torch.bfloat16)
    assert torch.equal(fed(x, first, F.gelu, dense), dense(F.gelu(first(x))))


def test_fed_lets_gradients_pass():
    first, second = int8(96, 160, seed=1)[0], int8(160, 96, seed=2)[0]
    x = torch.randn(4, 96, requires_grad=True)
    fed(x, first, F.relu, second).sum().backward()
    other = x.detach().clone().requires_grad_()
    second(F.relu(first(other))).sum().backward()
    assert torch.equal(x.grad, other.grad)
