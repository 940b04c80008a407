import pytest
import torch

from watchword.errors import RequestError
from watchword.nn import blocked
from watchword.nn.attention import Uncached, attention, causal_mask, in_blocks
from watchword.shapes import Tensor

LOOSE = dict(atol=0.03, rtol=0.03)
"""bfloat16 has 8 bits: scores, weights and sums are rounded to 1/256 of what they are."""


def qkv(rows: int, heads: int, groups: int, length: int, keys: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    shapes = (rows, heads, length, 8), (rows, groups, keys, 8), (rows, groups, keys, 8)
    return tuple(torch.randn(shape).to(dtype) for shape in shapes)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks so small that a small case has several of rows, of heads and of queries."""
    monkeypatch.setattr(blocked, "QUERIES", 3)
    monkeypatch.setattr(blocked, "SCORES", 30)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize(("length", "keys"), [(1, 9), (7, 7), (4, 9), (13, 13)])
@pytest.mark.parametrize(
    "extra", [{}, {"causal": True}, {"causal": True, "window": 3}, {"mask": 1}, {"bias": 1, "causal": True}]
)
@pytest.mark.usefixtures("small_blocks")
def test_blocked_attention_equals_the_definition(dtype, groups, length, keys, extra):
    q, k, v = qkv(3, 4, groups, length, keys, dtype)
    if "mask" in extra:
        extra = {"mask": torch.rand(3, 1, length, keys) < 0.6}
        extra["mask"][..., 0] = True
    if "bias" in extra:
        extra = extra | {"bias": torch.randn(1, 4, length, keys).to(dtype)}
    expected, _ = attention(q, k, v, backend="eager", scale=0.4, **extra)
    found = blocked.blocked(q, k, v, scale=0.4, **extra)
    torch.testing.assert_close(found, expected, **({} if dtype == torch.float32 else LOOSE))


@pytest.mark.usefixtures("small_blocks")
def test_blocked_attention_gives_a_row_what_it_has_alone():
    q, k, v = qkv(4, 4, 2, 6, 6, torch.float32)
    whole = blocked.blocked(q, k, v, causal=True, scale=1.0)
    for row in range(4):
        one = (side[row : row + 1] for side in (q, k, v))
        torch.testing.assert_close(blocked.blocked(*one, causal=True, scale=1.0), whole[row : row + 1])


@pytest.mark.parametrize("queries", [2, 16])
@pytest.mark.parametrize("cost", [1, 7, 40])
def test_blocks_cover_everything_once(queries, cost, monkeypatch):
    monkeypatch.setattr(blocked, "SCORES", 50)
    seen = torch.zeros(3, 6, 11)
    for where in blocked.blocks(3, 6, cost, 11, queries):
        seen[where] += 1
        assert seen[where].numel() * cost <= 50 or seen[where].shape[:2] == (1, 1)
    assert seen.min() == seen.max() == 1


def test_blocked_backend_is_the_fused_one_where_blocks_do_not_pay():
    q, k, v = qkv(1, 4, 4, 5, 5, torch.float32)
    assert not in_blocks("blocked", q, k, v, causal=True)
    out, _ = attention(q, k, v, causal=True, backend="blocked")
    assert torch.equal(out, attention(q, k, v, causal=True, backend="sdpa")[0])
    half = [side.bfloat16().requires_grad_() for side in (q, k, v)]
    assert not in_blocks(
        "blocked", *half, causal=True
    )  # what is trained goes through the kernel that has a backward pass
    assert not in_blocks("sdpa", *half, causal=True)


@pytest.mark.parametrize("tiles", [False, True])
def test_blocks_pay_for_pictures_alone_where_the_fused_kernel_has_tiles(tiles, monkeypatch):
    monkeypatch.setattr(blocked, "has_tiles", lambda: tiles)
    monkeypatch.setattr(blocked, "has_products", lambda: True)
    prompt, step = (qkv(1, 4, 4, length, 70, torch.bfloat16) for length in (70, 1))
    assert in_blocks("blocked", *prompt, causal=False)
    assert in_blocks("blocked", *prompt, causal=True) is not tiles
    assert in_blocks("blocked", *step, causal=False) is not tiles


@pytest.mark.parametrize("backend", ["eager", "sdpa", "blocked"])
@pytest.mark.parametrize("window", [1, 4, 20])
def test_attention_window_equals_its_mask(backend, window):
    q, k, v = qkv(2, 4, 2, 5, 9, torch.float32)
    expected, _ = attention(
        q, k, v, mask=causal_mask(5, 9, q.device, window), backend="eager", want_weights=True
    )
    out, _ = attention(q, k, v, causal=True, window=window, backend=backend)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(Uncached().attend(q, k, v, window=window, backend=backend)[0], expected)


def test_attention_refuses_an_unknown_backend():
    with pytest.raises(RequestError, match="backend 'magic': unknown; use one of eager, sdpa"):
        attention(*qkv(1, 1, 1, 1, 1, torch.float32), backend="magic")
