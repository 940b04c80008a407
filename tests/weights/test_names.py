import pytest
import torch

from watchword.errors import CheckpointError
from watchword.weights.names import SAME, Drop, Join, Rename, assemble, matches, respell, spell

NESTED = (
    Rename("model.tower.{rest}", "tower.{rest}"),
    Rename("model.language_model.{rest}", "language_model.model.{rest}"),
    Rename("lm_head.{rest}", "language_model.lm_head.{rest}"),
)
NUMBERED = (Rename("layer_{n}/{rest}", "layers.{n}.{rest}"), Rename("top", "norm.weight"))
FUSED = (
    Join(("blocks.{n}.q_bias", None, "blocks.{n}.v_bias"), "blocks.{n}.qkv.bias"),
    Rename("blocks.{n}.qkv.weight", "blocks.{n}.qkv.weight"),
)


def test_rename_moves_whole_names_with_their_tails():
    spelling = spell(["model.tower.a.weight", "lm_head.weight"], NESTED)
    assert spelling.sources == {
        "tower.a.weight": ("model.tower.a.weight",),
        "language_model.lm_head.weight": ("lm_head.weight",),
    }
    assert spelling.unknown == ()


def test_rename_fills_numbers_and_takes_no_letters_for_them():
    spelling = spell(["layer_12/attn.weight", "layer_x/attn.weight", "top"], NUMBERED)
    assert set(spelling.sources) == {"layers.12.attn.weight", "norm.weight"}
    assert spelling.unknown == ("layer_x/attn.weight",)


def test_rename_is_anchored_at_both_ends():
    assert spell(["x.lm_head.weight", "lm_head"], NESTED).unknown == ("x.lm_head.weight", "lm_head")


def test_patterns_take_dots_literally():
    assert not matches("aXb", ["a.b"])
    assert matches("a.b", ["x", "a.b"])


def test_name_that_two_rules_match_is_an_error_that_lists_them():
    rules = (Rename("a.{rest}", "x.{rest}"), Rename("{rest}.weight", "y.{rest}"))
    with pytest.raises(CheckpointError, match=r"a\.b\.weight: matches 2 rules \('a\.\{rest\}' .*'\{rest\}"):
        spell(["a.b.weight"], rules)


def test_second_tensor_for_one_place_is_unknown():
    rules = (Rename("a.{rest}", "x.{rest}"), Rename("b.{rest}", "x.{rest}"))
    assert spell(["a.w", "b.w"], rules).unknown == ("b.w",)


def test_drop_tells_why():
    assert spell(["a.inv_freq"], (Drop("{rest}.inv_freq", "computed"),)).dropped == {"a.inv_freq": "computed"}


@pytest.mark.parametrize(
    ("rules", "names"),
    [
        (SAME, ["a", "b.c.0.weight"]),
        (NESTED, ["model.tower.x.0.bias", "model.language_model.layers.0.w", "lm_head.weight"]),
        (NUMBERED, ["layer_0/a", "layer_10/b.c", "top"]),
        (FUSED, ["blocks.0.q_bias", "blocks.0.v_bias", "blocks.9.q_bias", "blocks.9.v_bias"]),
    ],
)
def test_respell_undoes_spell_on_every_name(rules, names):
    stored = {name: torch.randn(2, 3) for name in names}
    spelling = spell(stored, rules)
    assert spelling.unknown == ()
    state = {
        new: assemble([None if part is None else stored[part] for part in parts])
        for new, parts in spelling.sources.items()
    }
    back = respell(state, rules)
    assert set(back) == set(stored)
    for name, tensor in stored.items():
        assert torch.equal(back[name], tensor)


def test_join_puts_zeros_where_the_file_has_nothing():
    joined = assemble([torch.ones(2), None, torch.full((2,), 3.0)])
    assert joined.tolist() == [1, 1, 0, 0, 3, 3]


def test_join_without_its_companion_is_unknown():
    assert spell(["blocks.0.q_bias"], FUSED).unknown == ("blocks.0.q_bias",)


def test_respell_refuses_values_where_the_file_has_no_room():
    with pytest.raises(CheckpointError, match=r"blocks\.0\.qkv\.bias: 2 values are not zero"):
        respell({"blocks.0.qkv.bias": torch.ones(6)}, FUSED)


def test_respell_refuses_names_that_no_rule_makes():
    with pytest.raises(CheckpointError, match=r"odd\.name: made by 0 rules \(none\)"):
        respell({"odd.name": torch.ones(1)}, NESTED)


def test_respell_refuses_names_that_two_rules_make():
    rules = (Rename("a.{rest}", "x.{rest}"), Rename("b.{rest}", "x.{rest}"))
    with pytest.raises(CheckpointError, match=r"x\.w: made by 2 rules"):
        respell({"x.w": torch.ones(1)}, rules)
