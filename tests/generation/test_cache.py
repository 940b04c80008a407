import pytest
import torch

from watchword.errors import RequestError
from watchword.generation.cache import GrowingCache, KVCache, headroom
from watchword.nn.attention import CacheSpec, Uncached, attention
from watchword.shapes import Tensor

HEADS, GROUPS, WIDTH = 4, 2, 8
SPEC = CacheSpec(layers=2, heads=GROUPS, head_dim=WIDTH)


def qkv(rows: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.randn(rows, HEADS, length, WIDTH),
        torch.randn(rows, GROUPS, length, WIDTH),
        torch.randn(rows, GROUPS, length, WIDTH),
    )


def together(parts: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(torch.cat(side, dim=2) for side in zip(*parts))


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("pieces", [[5], [1, 1, 1, 1, 1], [3, 1, 2], [4, 3]])
def test_cache_in_pieces_equals_one_pass(pieces, window):
    steps = [qkv(2, length) for length in pieces]
    whole, _ = Uncached().attend(*together(steps), window=window)
    cache, outs = KVCache(SPEC, 2, 4), []
    for q, k, v in steps:
        outs.append(cache.layer(1).attend(q, k, v, window=window)[0])
        cache.advance(q.shape[2])
    torch.testing.assert_close(torch.cat(outs, dim=2), whole)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("want_weights", [False, True])
@pytest.mark.parametrize("waste", [0, 10**9])
def test_cache_row_of_a_batch_equals_the_row_alone(window, want_weights, waste, monkeypatch):
    monkeypatch.setattr("watchword.generation.rows.WASTE", waste)
    lengths = [2, 5, 3]
    first, second, third = qkv(3, 5), qkv(3, 1), qkv(3, 2)
    cache, outs = KVCache(SPEC, 3, 5), []
    for part, counts in ((first, torch.tensor(lengths)), (second, 1), (third, 2)):
        outs.append(cache.layer(0).attend(*part, window=window, want_weights=want_weights))
        cache.advance(counts)
    assert cache.lengths.tolist() == [5, 8, 6]
    for row, length in enumerate(lengths):
        alone = KVCache(SPEC, 1, 5)
        for part, (out, weights), count in zip((first, second, third), outs, (length, 1, 2)):
            q, k, v = (side[row : row + 1, :, :count] for side in part)
            expected, scores = alone.layer(0).attend(q, k, v, window=window, want_weights=want_weights)
            alone.advance(count)
            torch.testing.assert_close(out[row : row + 1, :, :count], expected)
            if want_weights:
                got = weights[row : row + 1, :, :count]
                torch.testing.assert_close(got[..., : scores.shape[-1]], scores)
                assert got[..., scores.shape[-1] :].abs().sum() == 0


def test_cache_span_gives_the_places_of_each_row():
    cache = KVCache(SPEC, 2, 4)
    places, keys = cache.span(4, torch.device("cpu"))
    assert places.tolist() == [[0, 1, 2, 3]]
    assert keys == 4
    cache.advance(torch.tensor([2, 4]))
    places, keys = cache.span(2, torch.device("cpu"))
    assert places.tolist() == [[2, 3], [4, 5]]
    assert keys == 6


def test_cache_takes_no_mask_when_rows_are_equally_long():
    cache = KVCache(SPEC, 2, 4)
    cache.advance(torch.tensor([3, 3]))
    assert cache.mask(1, None, torch.device("cpu")) is None
    assert cache.mask(1, 4, torch.device("cpu")) is None
    assert cache.mask(1, 3, torch.device("cpu")).tolist() == [[[[False, True, True, True]]]]
    cache.advance(torch.tensor([1, 0]))
    assert cache.mask(1, None, torch.device("cpu")).tolist() == [[[[True] * 5]], [[[True] * 4 + [False]]]]


def test_cache_without_mask_equals_masked_path():
    parts = [qkv(2, 4), qkv(2, 1)]
    plain, masked = KVCache(SPEC, 2, 8), KVCache(SPEC, 2, 8)
    masked._even = False
    for q, k, v in parts:
        one = plain.layer(0).attend(q, k, v)[0]
        assert masked.mask(q.shape[2], None, q.device) is not None
        other = masked.layer(0).attend(q, k, v)[0]
        torch.testing.assert_close(one, other)
        plain.advance(q.shape[2])
        masked.advance(q.shape[2])


def test_cache_grows_in_steps_and_keeps_what_it_has():
    cache = KVCache(SPEC, 1, 2)
    parts = [qkv(1, 2), qkv(1, 1)]
    for q, k, v in parts:
        out, _ = cache.layer(0).attend(q, k, v)
        cache.advance(q.shape[2])
    assert cache.capacity == 2 + headroom(2)
    assert cache.layer(0).own[0].shape[2] == 2 + headroom(2)
    q, k, v = together(parts)
    torch.testing.assert_close(out, attention(q, k, v, causal=True)[0][:, :, -1:])


def test_cache_bias_reaches_every_key_it_faces():
    cache = KVCache(SPEC, 1, 4)
    q, k, v = qkv(1, 3)
    bias = torch.randn(1, HEADS, 3, 3)
    out, _ = cache.layer(0).attend(q, k, v, bias=bias, scale=1.0)
    torch.testing.assert_close(out, attention(q, k, v, bias=bias, causal=True, scale=1.0)[0])


@pytest.mark.parametrize("within_forks", [False, True])
def test_cache_forked_and_reordered_rows_equal_rows_that_ran_alone(within_forks):
    prompt, step, last = qkv(2, 3), qkv(4, 1), qkv(4, 1)
    cache = KVCache(SPEC, 2, 3)
    cache.layer(0).attend(*prompt)
    cache.advance(torch.tensor([3, 2]))
    cache.fork(2)
    assert cache.lengths.tolist() == [3, 3, 2, 2]
    cache.layer(0).attend(*step)
    cache.advance(1)
    order = torch.tensor([1, 1, 3, 2])
    cache.reorder(order, within_forks=within_forks)
    out, _ = cache.layer(0).attend(*last)
    for row, came in enumerate(order.tolist()):
        length = [3, 2][came // 2]
        q, k, v = together(
            [
                tuple(side[came // 2 : came // 2 + 1, :, :length] for side in prompt),
                tuple(side[came : came + 1] for side in step),
                tuple(side[row : row + 1] for side in last),
            ]
        )
        torch.testing.assert_close(out[row : row + 1], attention(q, k, v, causal=True)[0][:, :, -1:])


def test_cache_reordered_freely_exchanges_lengths():
    cache = KVCache(SPEC, 2, 3)
    cache.advance(torch.tensor([3, 2]))
    cache.reorder(torch.tensor([1, 0]))
    assert cache.lengths.tolist() == [2, 3]


def test_cache_drop_closes_up():
    first, second = qkv(3, 4), qkv(1, 1)
    cache = KVCache(SPEC, 3, 4)
    cache.layer(0).attend(*first)
    cache.advance(torch.tensor([4, 2, 3]))
    cache.drop([0, 2])
    assert (cache.rows, cache.longest) == (1, 2)
    out, _ = cache.layer(0).attend(*second)
    q, k, v = together([tuple(side[1:2, :, :2] for side in first), second])
    torch.testing.assert_close(out, attention(q, k, v, causal=True)[0][:, :, -1:])
    cache.drop([0])
    assert cache.rows == 0


def test_cache_cross_computes_keys_once_and_hides_padding():
    q, k, v = qkv(2, 5)
    cache, calls = KVCache(SPEC, 2, 4), []
    cache.memory_lengths = torch.tensor([5, 3])

    def keys():
        calls.append(1)
        return k, v

    cache.layer(0).cross(q[:, :, :1], keys)
    out, weights = cache.layer(0).cross(q[:, :, :2], keys, want_weights=True)
    assert calls == [1]
    assert weights[1, ..., 3:].abs().sum() == 0
    torch.testing.assert_close(out[1:], attention(q[1:, :, :2], k[1:, :, :3], v[1:, :, :3])[0])
    cache.fork(2)
    assert cache.memory_lengths.tolist() == [5, 5, 3, 3]
    again, _ = cache.layer(0).cross(q[:, :, :2].repeat_interleave(2, dim=0), keys)
    torch.testing.assert_close(again, out.repeat_interleave(2, dim=0))


def test_cache_cross_takes_no_mask_when_all_states_count():
    cache = KVCache(SPEC, 2, 4)
    assert cache.memory_mask(5, torch.device("cpu")) is None
    cache.memory_lengths = torch.tensor([5, 5])
    assert cache.memory_mask(5, torch.device("cpu")) is None


def test_cache_of_another_type_answers_in_the_type_of_the_queries():
    cache = KVCache(SPEC, 1, 4, dtype=torch.bfloat16)
    q, k, v = qkv(1, 3)
    out, _ = cache.layer(0).attend(q, k, v)
    assert cache.layer(0).own[0].dtype == torch.bfloat16
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, attention(q, k, v, causal=True)[0], atol=0.05, rtol=0.05)


@pytest.mark.parametrize("window", [None, 2])
def test_growing_cache_equals_one_pass(window):
    parts = [qkv(2, 3), qkv(2, 1), qkv(2, 2)]
    mask = torch.tensor([[True] * 6, [False, False] + [True] * 4])
    whole, _ = Uncached(mask).attend(*together(parts), window=window)
    cache, outs = GrowingCache(2), []
    for q, k, v in parts:
        end = cache.get_seq_length() + q.shape[2]
        facing = cache.facing(mask[:, :end])
        assert facing.span(q.shape[2], q.device)[1] == end
        for index in (0, 1):
            out, _ = facing.layer(index).attend(q, k, v, window=window)
        outs.append(out)
    torch.testing.assert_close(torch.cat(outs, dim=2)[0], whole[0])
    torch.testing.assert_close(torch.cat(outs, dim=2)[1, :, 2:], whole[1, :, 2:])
    assert len(cache) == 2
    assert [tuple(pair[0].shape) for pair in cache] == [(2, GROUPS, 6, WIDTH)] * 2
    torch.testing.assert_close(cache[1][0], together(parts)[1])


def test_growing_cache_keeps_cross_keys_and_survives_its_legacy_form():
    q, k, v = qkv(2, 3)
    cache, calls = GrowingCache(1), []
    facing = cache.facing(memory_mask=torch.tensor([[True, True, True], [True, False, False]]))
    facing.layer(0).attend(q, k, v)
    first, _ = facing.layer(0).cross(q, lambda: calls.append(1) or (k, v))
    assert [len(layer) for layer in cache.to_legacy_cache()] == [4]
    again = GrowingCache.from_legacy_cache(cache.to_legacy_cache())
    assert again.get_seq_length() == 3
    second, _ = again.facing(None, facing.view.memory_mask).layer(0).cross(q, lambda: calls.append(1))
    assert calls == [1]
    torch.testing.assert_close(first, second)
    again.reorder_cache(torch.tensor([1, 1]))
    torch.testing.assert_close(again[0][3], v[[1, 1]])


def test_growing_cache_is_empty_at_first():
    cache = GrowingCache(2)
    assert cache.get_seq_length() == 0
    assert list(cache) == [(), ()]


def test_growing_cache_refuses_layers_of_another_form():
    with pytest.raises(RequestError, match="a layer with 3 tensors; each must have 2"):
        GrowingCache.from_legacy_cache([(torch.zeros(1),) * 3])


def filled(lengths: list[int], capacity: int = 4, memory: list[int] | None = None) -> KVCache:
    """A cache whose rows are as long as that, and what they hold."""
    cache = KVCache(SPEC, len(lengths), capacity)
    if memory is not None:
        cache.memory_lengths = torch.tensor(memory)
    for index in range(SPEC.layers):
        q, k, v = qkv(len(lengths), max(lengths))
        cache.layer(index).attend(q, k, v)
        if memory is not None:
            cache.layer(index).cross(q, lambda: qkv(len(memory), max(memory))[1:])
    cache.advance(torch.tensor(lengths))
    return cache


def held(cache: KVCache, row: int) -> list[Tensor]:
    """All that a row holds."""
    length = int(cache.lengths[row])
    sides = [side[row, :, :length] for index in range(SPEC.layers) for side in cache.layer(index).own]
    if cache.memory_lengths is not None:
        states = int(cache.memory_lengths[row])
        sides += [side[row, :, :states] for index in range(SPEC.layers) for side in cache.layer(index).memory]
    return [side.clone() for side in sides]


@pytest.mark.parametrize("memory", [None, [[2, 3], [5], [1, 1]]])
def test_cache_rows_join_and_leave_and_hold_what_they_held(memory):
    rows, expected = KVCache(SPEC, 0, 0), []
    for place, lengths in enumerate(([3, 2], [9], [4, 1])):
        new = filled(lengths, memory=memory and memory[place])
        expected += [held(new, row) for row in range(new.rows)]
        rows.append_rows(new)
    assert rows.lengths.tolist() == [3, 2, 9, 4, 1]
    torch.testing.assert_close([held(rows, row) for row in range(5)], expected)
    assert rows.remove([0, 2]) == [3, 1, 4]
    assert rows.lengths.tolist() == [4, 2, 1]
    torch.testing.assert_close([held(rows, row) for row in range(3)], [expected[old] for old in (3, 1, 4)])
    q, k, v = qkv(3, 1)
    alone = [rows.picked([row]) for row in range(3)]
    out, _ = rows.layer(0).attend(q, k, v)
    for row, cache in enumerate(alone):
        torch.testing.assert_close(held(cache, 0), expected[(3, 1, 4)[row]])
        one, _ = cache.layer(0).attend(*(side[row : row + 1] for side in (q, k, v)))
        torch.testing.assert_close(out[row : row + 1], one)
        if memory:
            cross = [
                each.layer(1).cross(q[at], lambda: ())[0] for each, at in ((rows, slice(3)), (cache, [row]))
            ]
            torch.testing.assert_close(cross[0][row : row + 1], cross[1])
    assert rows.remove(range(3)) == []
    assert (rows.rows, rows.longest, rows.nbytes) == (0, 0, 0)


def test_cache_that_lost_its_longest_row_gives_storage_back():
    rows = KVCache(SPEC, 0, 0)
    rows.append_rows(filled([2000]))
    rows.append_rows(filled([3]))
    before, expected = rows.nbytes, held(rows, 1)
    rows.remove([0])
    assert rows.nbytes < before / 4
    torch.testing.assert_close(held(rows, 0), expected)


def test_cache_row_that_went_wrong_leaves_nothing_for_the_next():
    rows = KVCache(SPEC, 0, 0)
    rows.append_rows(filled([3, 3, 3]))
    sick = torch.tensor([True, False, False])[:, None, None, None]
    for index in range(SPEC.layers):
        q, k, v = qkv(3, 5)
        rows.layer(index).attend(q, k.masked_fill(~sick, torch.nan), v.masked_fill(~sick, torch.inf))
    rows.advance(5)
    rows.remove([1, 2])
    rows.append_rows(filled([2]))
    out, _ = rows.layer(0).attend(*qkv(2, 1))
    assert out.isfinite().all()


def test_cache_exchange_moves_only_what_differs():
    rows = KVCache(SPEC, 0, 0)
    rows.append_rows(filled([5]))
    group = filled([4])
    group.fork(2)
    rows.append_rows(group)
    for index in range(SPEC.layers):
        rows.layer(index).attend(*qkv(3, 1))
    rows.advance(1)
    first, second, third = (held(rows, row) for row in range(3))
    rows.exchange([1, 2], [2, 1], 4)
    torch.testing.assert_close([held(rows, row) for row in range(3)], [first, third, second])


def test_cache_filled_from_blocks_holds_what_was_read():
    source = filled([3, 8])
    blocks = [source.read(1, 0, 4), source.read(1, 4, 8)]
    assert blocks[0].shape == (SPEC.layers, 2, GROUPS, 4, WIDTH)
    copy = KVCache(SPEC, 1, 2)
    copy.fill(blocks)
    assert copy.lengths.tolist() == [8]
    torch.testing.assert_close(held(copy, 0), held(source, 1))
    copy.layer(0).own[0].zero_()
    assert blocks[0].abs().sum() > 0


def test_cache_given_up_leaves_copies_and_no_storage():
    cache = filled([7])
    wanted = [cache.read(0, start, end) for start, end in ((0, 3), (3, 6))]
    found = cache.give_up([(0, 3), (3, 6)])
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    assert cache.nbytes == 0
    cache.remove([0])
    assert cache.rows == 0


@pytest.mark.parametrize("rows", [1, 2])
def test_cache_bias_reaches_rows_that_attend_one_by_one(rows, monkeypatch):
    bias, (q, k, v) = torch.randn(rows, HEADS, 1, 10), qkv(2, 1)
    outs = []
    for waste in (0, 10**9):
        monkeypatch.setattr("watchword.generation.rows.WASTE", waste)
        torch.manual_seed(0)
        cache = filled([9, 2], capacity=12)
        assert (cache.apart(1) == [10, 3]) == (waste == 0)
        outs.append(cache.layer(0).attend(q, k, v, bias=bias, scale=1.0)[0])
    torch.testing.assert_close(*outs)


def test_cache_rows_attend_together_unless_one_is_much_longer():
    cache = filled([9, 2])
    assert cache.apart(1) is None
    cache.advance(torch.tensor([10**6, 0]))
    assert cache.apart(1) == [10**6 + 10, 3]
    assert cache.apart(2) is None
    cache.advance(torch.tensor([0, 10**6 + 7]))
    assert cache.apart(1) is None


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("waste", [0, 10**9])
@pytest.mark.parametrize("copying", [0, 10**9])
def test_cache_read_in_place_answers_as_its_filled_part(window, waste, copying, monkeypatch):
    monkeypatch.setattr("watchword.generation.rows.WASTE", waste)
    monkeypatch.setattr("watchword.generation.kv_layer.COPYING", copying)
    monkeypatch.setattr("watchword.nn.attention.pays", lambda *sides, causal: True)
    parts = [tuple(side.bfloat16() for side in qkv(3, length)) for length in (6, 1, 1, 2)]
    counts = (torch.tensor([6, 2, 4]), 1, 1, 2)
    caches = [KVCache(SPEC, 3, 20, dtype=torch.bfloat16) for _ in range(2)]
    for part, count in zip(parts, counts):
        plain, blocked = (
            cache.layer(0).attend(*part, window=window, backend=backend)[0]
            for cache, backend in zip(caches, ("sdpa", "blocked"))
        )
        torch.testing.assert_close(blocked, plain, atol=0.03, rtol=0.03)
        for cache in caches:
            cache.advance(count)
    assert caches[1].lengths.tolist() == [10, 6, 8]
