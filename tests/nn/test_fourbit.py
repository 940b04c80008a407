import copy

import pytest
import torch
from torch import nn

from tests.nn.test_quantized import relative
from watchword.errors import ConfigError
from watchword.nn import blockwise, nibbles
from watchword.nn.blockwise import BlockLinear, block_weights
from watchword.nn.fourbit import Int4Linear, group_of, int4_weights, unpaired

STATED = {"int4": 0.10, "nf4": 0.10, "fp4": 0.13}
"""Of products with normal weights against float32, as the docstrings say."""


def linear(form: str, inner: int = 128, outer: int = 72, *, group: int = 64, bias: bool = True):
    torch.manual_seed(0)
    weight = torch.randn(outer, inner)
    if form == "int4":
        made = Int4Linear(inner, outer, group=group, bias=bias)
        made.load(int4_weights(weight, group))
    else:
        made = BlockLinear(inner, outer, form=form, bias=bias)
        made.load(block_weights(weight, form))
    if bias:
        made.bias = nn.Parameter(torch.randn(outer), requires_grad=False)
    return made, weight


@pytest.fixture(params=["int4pack", "dense"])
def operator(request, monkeypatch):
    """Packed and unpacked every time."""
    if request.param == "dense":
        monkeypatch.setattr(nibbles, "packing", lambda: None)
    elif nibbles.packing() is None:
        pytest.skip("this machine does not pack")
    return request.param


@pytest.mark.parametrize("form", list(STATED))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 5, 300])
def test_four_bit_product_is_that_of_its_dense_definition(operator, form, dtype, rows):
    made, weight = linear(form)
    assert made.operator == operator
    x = torch.randn(1, rows, 128)
    wanted = x.double() @ made.dense().double().t() + made.bias.double()
    out = made.to(dtype)(x.to(dtype))
    assert (out.dtype, out.shape) == (dtype, (1, rows, 72))
    assert relative(out, wanted) < (0.006 if form == "int4" else 0.01)
    exact = x @ weight.t() + made.bias.float()
    assert relative(out, exact) < STATED[form]


@pytest.mark.parametrize("form", list(STATED))
@pytest.mark.parametrize("inner", [24, 96, 352])  # no fast product; groups of 32; blocks that straddle rows
def test_four_bits_of_any_width(form, inner):
    group = group_of(inner, None, "here")
    made, _ = linear(form, inner, 40, group=group, bias=False)
    x = torch.randn(3, inner)
    assert relative(made(x), x @ made.dense().t()) < 0.01
    assert made.operator == ("dense" if inner == 24 or nibbles.packing() is None else "int4pack")


@pytest.mark.parametrize("form", ["int4", "nf4"])
def test_four_bit_state_survives_packing_moving_and_copying(operator, form):
    made, _ = linear(form)
    state = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    x = torch.randn(2, 128)
    out = made(x)
    assert made.state_dict().keys() == state.keys()
    assert all(torch.equal(made.state_dict()[name], state[name]) for name in state)
    assert torch.equal(copy.deepcopy(made)(x), out)
    half = made.to(torch.bfloat16)
    assert (half.bias.dtype, half.state_dict()["weight"].dtype) == (torch.bfloat16, torch.uint8)
    assert all(torch.equal(half.state_dict()[name], state[name]) for name in made.stored)


@pytest.mark.parametrize("form", ["nf4", "fp4"])
def test_product_of_bitsandbytes_gets_what_it_needs(monkeypatch, form):
    """A stand-in that reads codes as the library does; the real one was tried by hand on a CPU."""

    class Library:
        class functional:
            QuantState = dict

        @staticmethod
        def matmul_4bit(x, weight, quant_state):
            bytes_ = weight.t().flatten()
            codes = torch.stack((bytes_ >> 4, bytes_ & 15), dim=1).flatten().int()
            scale = quant_state["absmax"].repeat_interleave(quant_state["blocksize"])
            return x @ (quant_state["code"][codes] * scale).view(quant_state["shape"]).t().to(
                quant_state["dtype"]
            )

    made, _ = linear(form)
    x = torch.randn(2, 128)
    wanted = x @ made.dense().t() + made.bias
    monkeypatch.setattr(blockwise, "bitsandbytes", lambda: Library)
    monkeypatch.setattr(BlockLinear, "operator", "bitsandbytes")
    assert torch.allclose(made(x), wanted, atol=1e-4)


def test_few_and_many_rows_give_the_same():
    if nibbles.packing() is None:
        pytest.skip("this machine does not pack")
    for form in ("int4", "nf4"):
        made, _ = linear(form, 192, 600)
        made.settle()
        x = torch.randn(7, 192)
        many = nibbles.many_rows(x, made.planes, nibbles.packing())
        assert relative(nibbles.few_rows(x, made.planes), many) < 0.006


def test_few_rows_do_not_depend_on_their_neighbours(monkeypatch):
    monkeypatch.setattr(nibbles, "crossing", lambda inner, planes: 32)  # found by timing, and by machine
    made, _ = linear("int4")
    x = torch.randn(9, 128, dtype=torch.bfloat16)
    made = made.to(torch.bfloat16)
    assert torch.equal(made(x), torch.cat([made(row) for row in x.split(1)]))


def test_gradients_pass_through_four_bits():
    made, _ = linear("nf4", bias=False)
    x = torch.randn(4, 128, requires_grad=True)
    made(x).sum().backward()
    assert torch.allclose(x.grad, made.dense().sum(0).expand(4, -1), atol=1e-4)


def test_block_weights_are_the_nearest_of_the_book():
    weight = torch.randn(8, 96)  # blocks straddle rows
    state = block_weights(weight, "nf4")
    blocks = weight.flatten().unflatten(0, (-1, 64))
    assert torch.equal(state["absmax"], blocks.abs().amax(1))
    book = torch.tensor(blockwise.CODES["nf4"])
    nearest = (blocks[..., None] / state["absmax"][:, None, None] - book).abs().argmin(-1).flatten()
    bytes_ = state["weight"].flatten()
    assert torch.equal(bytes_ >> 4, nearest[0::2].to(torch.uint8))  # the first in the high half
    assert torch.equal(bytes_ & 15, nearest[1::2].to(torch.uint8))


def test_double_quantization_moves_scales_by_less_than_a_percent():
    weight = torch.randn(64, 512)
    once, twice = (block_weights(weight, "nf4", double=double) for double in (False, True))
    assert torch.equal(once["weight"], twice["weight"])
    moved = (once["absmax"] - twice["absmax"]).abs() / once["absmax"]
    assert 0 < moved.max() < 0.02
    book = blockwise.dynamic_map()
    assert (len(book), len(book.unique())) == (256, 256)
    assert (book.min(), book.max()) == (pytest.approx(-0.99297, abs=1e-5), 1)


def test_two_codes_are_the_book():
    for form, book in blockwise.CODES.items():
        step, highs, lows = blockwise.two_codes(form)
        assert max(int(highs.max()), int(lows.max())) < 16
        sums = ((highs.float() - 8) * 16 + lows.float() - 8) * step
        assert (sums - torch.tensor(book)).abs().max() < 0.005


def test_int4_groups_of_zeros_stay_zero():
    weight = torch.zeros(16, 64)
    weight[1] = torch.linspace(-1, 1, 64)
    made = Int4Linear(64, 16, group=32, bias=False)
    made.load(int4_weights(weight, 32))
    assert made.dense()[0].abs().max() < 1e-20
    assert (made.dense()[1] - weight[1]).abs().max() < 0.08


def test_group_of_names_what_divides():
    assert [group_of(width, None, "x") for width in (4096, 352, 24)] == [64, 32, 8]
    assert group_of(4096, 128, "x") == 128
    with pytest.raises(
        ConfigError, match=r"down_proj: group size 64 does not divide its 352 inputs; .* do: 32"
    ):
        group_of(352, 64, "down_proj")
    with pytest.raises(ConfigError, match="does not divide its 9 inputs; those that do: none of ours"):
        group_of(9, None, "x")


@pytest.mark.parametrize("layout", [*nibbles.LAYOUTS, None])
@pytest.mark.parametrize("outer", [64, 600])
def test_pairs_are_packed_as_codes_are(layout, outer):
    """Every layout is the inverse of unpacking, and this machine's is that of torch's operator."""
    pairs = torch.randint(0, 256, (outer, 48), dtype=torch.uint8)
    scale = torch.rand(outer, 3).bfloat16()
    made = nibbles.pack_pairs(pairs, scale, layout or machine())
    assert torch.equal(nibbles.unpack_codes(made, layout or machine(), outer), unpaired(pairs))
    if layout is None:
        own = nibbles.pack(unpaired(pairs), scale)
        assert torch.equal(made.packed, own.packed)
        assert torch.equal(made.scales, own.scales)
        assert made.group == own.group == 32


def machine() -> nibbles.Layout:
    return nibbles.packing() or pytest.skip("this machine does not pack")


def test_products_that_are_wrong_are_not_used(monkeypatch):
    if nibbles.packing() is None:
        pytest.skip("this machine does not pack")
    for name in ("few_rows", "many_rows"):
        right = getattr(nibbles, name)
        with monkeypatch.context() as patch:
            patch.setattr(nibbles, name, lambda *given, right=right: right(*given) * 1.2)
            assert nibbles.packing.__wrapped__() is None


def test_unpacking_begins_where_it_is_clearly_faster(monkeypatch):
    if nibbles.packing() is None:
        pytest.skip("this machine does not pack")
    paces = iter([(1.0, 0.9), (1.0, 0.86), (1.0, 0.8)])
    monkeypatch.setattr(nibbles, "paces", lambda *ways, **how: next(paces))
    assert nibbles.crossing.__wrapped__(128, 1) == nibbles.ROWS[2]
    monkeypatch.setattr(nibbles, "paces", lambda *ways, **how: (9.0, 1.0))
    assert nibbles.is_slow.__wrapped__()
    assert nibbles.crossing.__wrapped__(128, 1) == 1
    monkeypatch.setattr(nibbles, "paces", lambda *ways, **how: (0.9, 1.0))
    assert nibbles.wide_type.__wrapped__() == torch.bfloat16
    monkeypatch.setattr(nibbles, "paces", lambda *ways, **how: (0.5, 1.0))
    assert nibbles.wide_type.__wrapped__() == torch.float32
