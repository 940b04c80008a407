import pytest
import torch

from watchword.nn.merging import kept_count, merge_tokens


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [(None, 136), (1, 136), (1.0, 136), (0.5, 68), (0.25, 34), (0.001, 1), (2, 2), (100, 100), (500, 136)],
)
def test_kept_count_takes_a_share_or_a_number(wanted, expected):
    assert kept_count(136, wanted) == expected


def test_merging_joins_what_is_most_alike_first():
    tokens = torch.tensor([[1.0, 0, 0], [1, 0.01, 0], [0, 1, 0], [0, 0, 1]])
    merged = merge_tokens(tokens, 3)
    torch.testing.assert_close(merged, torch.tensor([[1.0, 0.005, 0], [0, 1, 0], [0, 0, 1]]))


def test_merging_weighs_by_what_was_merged_before():
    tokens = torch.randn(40, 8) * 0.01 + torch.ones(8)
    torch.testing.assert_close(merge_tokens(tokens, 1), tokens.mean(dim=0, keepdim=True))


@pytest.mark.parametrize("count", [1, 2, 7, 20, 39, 40])
def test_merging_leaves_the_number_asked_for(count):
    tokens = torch.randn(40, 8)
    assert merge_tokens(tokens, count).shape == (count, 8)


def test_merging_keeps_order_type_and_all_when_nothing_is_to_go():
    tokens = torch.randn(9, 4).bfloat16()
    assert merge_tokens(tokens, 9).equal(tokens)
    first = torch.eye(4).repeat_interleave(2, dim=0)  # four pairs of equals
    torch.testing.assert_close(merge_tokens(first, 4), torch.eye(4))
