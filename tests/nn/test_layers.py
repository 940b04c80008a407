import pytest
import torch

from watchword.nn import layers
from watchword.nn.layers import PIECE, RMSNorm, in_pieces
from watchword.nn.rope import Rotary, apply_rope

LENGTHS = [1, 5, PIECE, PIECE + 3]
TYPES = [torch.float32, torch.bfloat16]


@pytest.fixture
def _much(monkeypatch):
    """Little counts as much."""
    monkeypatch.setattr(layers, "FEW", 0)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.usefixtures("_much")
def test_rms_norm_in_pieces_is_bit_for_bit_the_one_that_learns(dtype, length):
    norm = RMSNorm(24, 1e-5)
    torch.nn.init.normal_(norm.weight)
    norm, x = norm.to(dtype), 3 * torch.randn(2, length, 24).to(dtype)
    learning, before = norm(x), x.clone()
    with torch.no_grad():
        assert torch.equal(norm(x), learning)
        assert torch.equal(norm(x.transpose(0, 1)).transpose(0, 1), learning)
    assert torch.equal(x, before)
    assert learning.requires_grad


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.usefixtures("_much")
def test_rope_in_pieces_is_bit_for_bit_the_one_that_learns(dtype, length, rows):
    x = torch.randn(2, length, 3, 8).to(dtype).transpose(1, 2).requires_grad_()
    places = torch.arange(length)[None] + torch.arange(rows)[:, None]
    cos, sin = Rotary(8, 10000.0, None, 4096)(places, dtype)
    learning = apply_rope(x, cos, sin)
    with torch.no_grad():
        assert torch.equal(apply_rope(x, cos, sin), learning)
    assert learning.requires_grad


@pytest.mark.usefixtures("_much")
def test_pieces_are_for_tensors_of_one_type_that_learn_nothing():
    half, whole = torch.zeros(2, dtype=torch.bfloat16), torch.zeros(2, requires_grad=True)
    assert in_pieces(half, half)
    assert not in_pieces(half, whole)
    assert not in_pieces(whole)
    with torch.no_grad():
        assert in_pieces(whole)
