"""The published interface of flash-attn, kept by a stand-in that notes calls and computes by definition."""

import sys
from types import ModuleType

import pytest
import torch

from watchword.errors import ConfigError, MissingExtra, RequestError
from watchword.nn.attention import attention, causal_mask
from watchword.nn.flash import check_flash

HALF = torch.bfloat16


@pytest.fixture
def package(monkeypatch):
    """A flash_attn whose functions note how they were called."""
    calls = []

    def flash_attn_func(
        q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1)
    ):  # B L h d
        calls.append(("plain", q.shape, k.shape, causal, window_size, dropout_p))
        assert all(side.dtype in (torch.float16, HALF) and side.shape[0] == len(q) for side in (q, k, v))
        window = window_size[0] + 1 if window_size[0] >= 0 else None
        sides = (side.transpose(1, 2) for side in (q, k, v))
        return attention(*sides, causal=causal, window=window, scale=softmax_scale)[0].transpose(1, 2)

    def flash_attn_varlen_func(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k,
        dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1),
    ):  # fmt: skip
        calls.append(
            ("packed", cu_seqlens_q.tolist(), cu_seqlens_k.tolist(), max_seqlen_q, max_seqlen_k, causal)
        )
        assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
        assert (len(q), len(k)) == (cu_seqlens_q[-1], cu_seqlens_k[-1])
        outs = [q[:0]]
        for row in range(len(cu_seqlens_q) - 1):
            asking = slice(cu_seqlens_q[row], cu_seqlens_q[row + 1])
            facing = slice(cu_seqlens_k[row], cu_seqlens_k[row + 1])
            if facing.start == facing.stop:
                outs.append(torch.zeros_like(q[asking]))
                continue
            one = (q[asking][None], k[facing][None], v[facing][None])
            outs.append(flash_attn_func(*one, softmax_scale=softmax_scale, causal=causal)[0])
            calls.pop()
        return torch.cat(outs)

    fake = ModuleType("flash_attn")
    fake.flash_attn_func, fake.flash_attn_varlen_func = flash_attn_func, flash_attn_varlen_func
    monkeypatch.setitem(sys.modules, "flash_attn", fake)
    return calls


def sides(rows=2, heads=4, groups=4, length=5, slots=5, width=8):
    return [
        torch.randn(rows, count, size, width, dtype=HALF)
        for count, size in ((heads, length), (groups, slots), (groups, slots))
    ]


def both(qkv, kept=None, **settings):
    """By the package and by definition; only `kept` queries (B L) are compared."""
    found = attention(*qkv, backend="flash_attention_2", **settings)[0]
    wanted = attention(*qkv, backend="eager", **settings)[0]
    assert found.shape == wanted.shape
    if kept is not None:
        found, wanted = found.transpose(1, 2)[kept], wanted.transpose(1, 2)[kept]
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.02)  # bfloat16, summed in another order


@pytest.mark.parametrize(("length", "slots"), [(5, 5), (3, 7), (1, 7)])
@pytest.mark.parametrize(("causal", "window"), [(True, None), (True, 3), (False, None)])
def test_calls_without_a_mask_go_to_the_package_with_grouped_heads_as_they_are(
    package, length, slots, causal, window
):
    both(sides(groups=2, length=length, slots=slots), causal=causal, window=window, scale=0.3)
    near = (2, 0) if window else (-1, -1)
    assert package == [("plain", (2, length, 4, 8), (2, slots, 2, 8), causal, near, 0.0)]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_rows_are_packed(package, side):
    lengths = torch.tensor([5, 2, 4])
    kept = torch.arange(5) < lengths[:, None]
    kept = kept.flip(1) if side == "left" else kept
    mask = causal_mask(5, 5, torch.device("cpu")) & kept[:, None, None]
    both(sides(rows=3, groups=1), kept, mask=mask)
    assert package == [("packed", [0, 5, 7, 11], [0, 5, 7, 11], 5, 5, True)]


def test_new_positions_of_padded_rows_face_their_own_keys(package):
    keys = torch.tensor([[True] * 6, [False, False, True, True, True, True]])
    mask = causal_mask(2, 6, torch.device("cpu")) & keys[:, None, None]
    both(sides(length=2, slots=6), mask=mask)
    assert package == [("packed", [0, 2, 4], [0, 6, 10], 2, 6, True)]


def test_one_mask_for_all_queries_is_packed_without_a_triangle(package):
    keys = torch.tensor([[True, True, False, False], [True, True, True, False]])
    both(sides(length=3, slots=4), mask=keys[:, None, None])
    assert package == [("packed", [0, 3, 6], [0, 2, 5], 3, 3, False)]


def test_padding_queries_get_zeros(package):
    kept = torch.tensor([[True, True, True], [False, False, True]])
    mask = causal_mask(3, 3, torch.device("cpu")) & kept[:, None, None]
    out, _ = attention(*sides(length=3, slots=3), mask=mask, backend="flash_attention_2")
    assert not out[1, :, :2].any()
    assert out[1, :, 2].any()


@pytest.mark.parametrize("what", ["bias", "window", "heads", "rows of unequal length"])
def test_calls_that_the_package_can_not_answer_are_answered_by_torch(package, what):
    qkv = sides(groups=2, length=3, slots=6)
    if what == "bias":
        settings = {"bias": torch.randn(1, 4, 3, 6, dtype=HALF), "causal": True}
    elif what == "window":
        settings = {"mask": causal_mask(3, 6, torch.device("cpu"), 2)[None, None]}
    elif what == "heads":
        settings = {"mask": torch.rand(2, 4, 3, 6) > 0.3}
    else:
        place = torch.tensor([3, 1])[:, None] + torch.arange(3)
        settings = {"mask": (torch.arange(6) <= place[..., None])[:, None]}
    both(qkv, **settings)
    assert package == []


def test_weights_come_from_the_definition(package):
    _, weights = attention(*sides(), causal=True, backend="flash_attention_2", want_weights=True)
    assert weights.shape == (2, 4, 5, 5)
    assert package == []


def test_float32_is_refused(package, monkeypatch):
    q = torch.zeros(1, 2, 3, 8)
    with pytest.raises(
        RequestError, match=r"'flash_attention_2': got torch\.float32, .* dtype=torch.bfloat16"
    ):
        attention(q, q, q, causal=True, backend="flash_attention_2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(
        ConfigError, match=r"'flash_attention_2' with dtype torch\.float32: FlashAttention comp"
    ):
        check_flash(torch.float32)
    check_flash(torch.float16)


def test_no_gpu_and_no_package_are_told(package, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingExtra, match="'flash_attention_2': needs an NVIDIA GPU, found none"):
        check_flash(HALF)
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    with pytest.raises(MissingExtra, match="flash-attn is not installed; pip install flash-attn"):
        attention(*sides(), causal=True, backend="flash_attention_2")
