import pytest

from watchword.generation.prefix import Chain, longest, written

CLIP, OTHER = b"\x01" * 32, b"\x02" * 32


def test_chain_names_only_full_blocks():
    assert [len(Chain("", range(count), block=4).hashes) for count in (0, 3, 4, 7, 8)] == [0, 0, 1, 1, 2]


def test_chain_grown_in_pieces_equals_the_whole():
    keys = [1, (CLIP, 0), (CLIP, 1), 5, 6, 7, 8, 9, 10]
    chain = Chain("a", keys[:3], block=4)
    chain.grow(keys[3:4])
    chain.grow(keys[4:])
    assert chain.hashes == Chain("a", keys, block=4).hashes


@pytest.mark.parametrize(
    "keys",
    [
        [1, (OTHER, 0), (OTHER, 1), 7],  # another medium of the same size
        [1, (CLIP, 1), (CLIP, 0), 7],  # other frames
        [2, (CLIP, 0), (CLIP, 1), 7],  # other words before
        [1, (CLIP, 0), (CLIP, 1), 8],  # other words behind
        [(CLIP, 0), (CLIP, 1), 1, 7],  # the medium elsewhere
        [1, 0, 1, 7],  # tokens that look like offsets
    ],
)
def test_chain_differs_with_any_key(keys):
    assert Chain("", keys, block=4).hashes != Chain("", [1, (CLIP, 0), (CLIP, 1), 7], block=4).hashes


def test_chain_differs_with_what_came_before_it():
    first, second = (Chain("", [token, 2, 3, 4, 5, 6, 7, 8], block=4) for token in (1, 9))
    assert first.hashes[1] != second.hashes[1]


def test_chain_differs_with_the_scope():
    assert Chain("a", range(4), block=4).hashes != Chain("b", range(4), block=4).hashes


def test_chain_leaves_the_last_position_to_run():
    chain = Chain("", range(8), block=4)
    assert [len(chain.before(length)) for length in (0, 1, 4, 5, 8, 9)] == [0, 0, 0, 1, 1, 2]


def test_keys_are_written_so_that_none_begins_another():
    keys = [0, 1, -1, 2**40, (CLIP, 0), (CLIP, 1), (OTHER, 0), (b"", 0), (b"\x01", 0)]
    forms = [written(key) for key in keys]
    assert not [1 for a in forms for b in forms if a is not b and b.startswith(a)]


def test_longest_stops_at_the_first_gap():
    have = {b"a", b"b", b"d"}
    assert longest([b"a", b"b", b"c", b"d"], have.__contains__) == 2
    assert longest([b"a", b"b"], have.__contains__) == 2
    assert longest([], have.__contains__) == 0
