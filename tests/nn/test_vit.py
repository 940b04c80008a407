import pytest
import torch
from torch import nn

from watchword.nn import layers
from watchword.nn.layers import quick_gelu
from watchword.nn.trace import Trace
from watchword.nn.vit import FRAMES, VitEncoder


class Mix(nn.Module):
    """Attention's place: every row gets the mean of its picture."""

    def forward(self, x, trace):
        return x.mean(dim=1, keepdim=True).expand_as(x)


def test_tower_gives_a_picture_the_same_among_many():
    encoder = VitEncoder(3, Mix, width=8, inner=16, act="quick_gelu", eps=1e-5)
    x = torch.randn(2 * FRAMES + 1, 5, 8)
    learning = encoder(x, [0, 2], None)
    trace = Trace.asked(True, None)
    with torch.no_grad():
        in_parts = encoder(x, [0, 2], None)
        traced = encoder(x, [0, 2], trace)
    torch.testing.assert_close(in_parts, [state.detach() for state in learning])
    torch.testing.assert_close(in_parts, traced)
    assert [len(state) for state in trace.hidden_states] == [len(x)] * 3  # the third layer did not run


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quick_gelu_in_pieces_is_bit_for_bit_the_one_that_learns(dtype, monkeypatch):
    monkeypatch.setattr(layers, "FEW", 0)
    x = torch.randn(3, 100, 64).to(dtype).requires_grad_()  # widths below a vector differ in the last bit
    learning = quick_gelu(x)
    assert learning.requires_grad
    assert torch.equal(quick_gelu(x.detach()), learning)
    assert torch.equal(quick_gelu(x.detach().transpose(0, 1)).transpose(0, 1), learning)
