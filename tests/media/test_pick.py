"""Frame choice, against the documented formula."""

import subprocess
import sys

import numpy as np
import pytest

from watchword.errors import RequestError
from watchword.media import Timeline, at_indices, everything, uniform


def test_uniform_equals_the_documented_formula_cut_to_the_count():
    for total in range(1, 130):
        for count in range(1, total + 1):
            documented = np.arange(0, total, total / count).astype(int)[:count]
            assert uniform(count).choose(Timeline(total)) == tuple(documented)


def test_uniform_cuts_the_index_beyond_the_clip():
    assert len(np.arange(0, 17, 17 / 7)) == 8
    assert uniform(7).choose(Timeline(17)) == (0, 2, 4, 7, 9, 12, 14)


def test_uniform_uses_all_frames_when_the_clip_is_shorter():
    assert uniform(8).choose(Timeline(5)) == (0, 1, 2, 3, 4)
    assert uniform(8).choose(Timeline(0)) == ()


def test_at_indices_keeps_order_and_repeats():
    assert at_indices(np.array([5, 2, 5])).choose(Timeline(10)) == (5, 2, 5)


def test_everything_chooses_all():
    assert everything().choose(Timeline(3)) == (0, 1, 2)


def test_choices_are_values():
    assert uniform(8) == uniform(8)
    assert len({uniform(8), uniform(8), at_indices([1]), at_indices([1])}) == 2


@pytest.mark.parametrize("count", [0, -3, True])
def test_uniform_refuses_what_is_no_count(count):
    with pytest.raises(RequestError, match=f"uniform: {count!r} frames asked for"):
        uniform(count)


def test_at_indices_refuses_none_and_negative_ones():
    with pytest.raises(RequestError, match="no index was given"):
        at_indices([])
    with pytest.raises(RequestError, match="index -2 is negative"):
        at_indices([3, -2])


def test_choosing_loads_neither_torch_nor_decoders():
    code = "import sys, watchword.media as m; m.uniform(8); print({'torch', 'av', 'PIL'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"
