import logging

import pytest
import torch
from torch import nn

from watchword.errors import CheckpointError
from watchword.weights import files
from watchword.weights.load import load_weights
from watchword.weights.names import Join, Rename


class Toy(nn.Module):
    """An embedding, a head that may be tied to it, a norm with a buffer."""

    def __init__(self, *, tied: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.wo = nn.Linear(4, 4, bias=bias)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 6, bias=False)
        if tied:
            self.head.weight = self.embed.weight


def meta(**options) -> Toy:
    with torch.device("meta"):
        return Toy(**options)


def saved(folder, state) -> files.WeightFiles:
    files.save(state, folder, max_shard_size=60)
    return files.open_weights(folder)


def test_load_fills_parameters_and_buffers(tmp_path):
    source = Toy()
    source.norm.running_mean.fill_(3)
    model = meta()
    report = load_weights(model, saved(tmp_path, source.state_dict()))
    assert not any(t.is_meta for t in model.state_dict().values())
    assert all(torch.equal(model.state_dict()[k], v) for k, v in source.state_dict().items())
    assert model.embed.weight.requires_grad
    assert (report.layout, report.tensors) == ("canonical", 9)


def test_load_tells_progress(tmp_path):
    seen = []
    source = saved(tmp_path, Toy().state_dict())
    load_weights(meta(), source, progress=lambda done, total: seen.append((done, total)))
    total = sum(t.numel() for t in Toy().state_dict().values())
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)
    assert len(seen) == 9


def test_load_casts_floats_only_and_keeps_named_parts_in_fp32(tmp_path):
    source = saved(tmp_path, Toy().state_dict())
    model = meta()
    load_weights(model, source, dtype=torch.float16, keep_in_fp32=("wo",))
    assert model.embed.weight.dtype == torch.float16
    assert model.wo.weight.dtype == model.wo.bias.dtype == torch.float32
    assert model.norm.num_batches_tracked.dtype == torch.int64
    load_weights(model, source, dtype=torch.bfloat16, keep_in_fp32=("wo",))  # float16 only
    assert model.wo.weight.dtype == torch.bfloat16


def test_load_keeps_stored_types_without_dtype_but_lifts_named_parts_from_fp16(tmp_path):
    state = {k: v.half() if v.is_floating_point() else v for k, v in Toy().state_dict().items()}
    state["embed.weight"] = state["embed.weight"].bfloat16()
    model = meta()
    load_weights(model, saved(tmp_path, state), keep_in_fp32=("wo",))
    types = [model.embed.weight.dtype, model.head.weight.dtype, model.wo.weight.dtype]
    assert types == [torch.bfloat16, torch.float16, torch.float32]


def test_load_names_missing_weights(tmp_path):
    state = Toy().state_dict()
    del state["head.weight"], state["norm.running_var"]
    with pytest.raises(CheckpointError, match=r"do not fit Toy; 2 missing: norm\.running_var, head\.wei"):
        load_weights(meta(), saved(tmp_path, state))


def test_load_names_extra_weights(tmp_path):
    with pytest.raises(CheckpointError, match=r"do not fit Toy; 1 extra: adapter\.weight; expected"):
        load_weights(meta(), saved(tmp_path, Toy().state_dict() | {"adapter.weight": torch.ones(2)}))


def test_load_names_wrong_shapes_with_both(tmp_path):
    state = Toy().state_dict() | {"head.weight": torch.ones(7, 4)}
    with pytest.raises(CheckpointError, match=r"1 of an.*: head\.weight is \(7, 4\) in the files and \(6"):
        load_weights(meta(), saved(tmp_path, state))


def test_load_names_wrong_kinds(tmp_path):
    state = Toy().state_dict() | {"head.weight": torch.ones(6, 4, dtype=torch.uint8)}
    with pytest.raises(CheckpointError, match=r"head\.weight is stored as torch\.uint8 and the model has"):
        load_weights(meta(), saved(tmp_path, state))


def test_load_tells_all_kinds_at_once_and_ten_of_each(tmp_path):
    state = Toy().state_dict() | {f"x.{i:02d}": torch.ones(1) for i in range(12)}
    del state["wo.bias"]
    with pytest.raises(CheckpointError, match=r"1 missing: wo\.bias; 12 extra: x\.00, .* x\.09 …; expected"):
        load_weights(meta(), saved(tmp_path, state))


def test_load_leaves_the_module_alone_when_it_fails(tmp_path):
    model = Toy()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = Toy().state_dict()
    del state["head.weight"]
    with pytest.raises(CheckpointError, match="missing"):
        load_weights(model, saved(tmp_path, state))
    assert all(torch.equal(model.state_dict()[k], v) for k, v in before.items())


def test_load_drops_what_is_declared_and_reports_why(tmp_path):
    state = Toy().state_dict() | {"a.inv_freq": torch.ones(2)}
    report = load_weights(meta(), saved(tmp_path, state), drop={"{rest}.inv_freq": "computed"})
    assert report.dropped == {"a.inv_freq": "computed"}
    assert "left in the files: 1 (computed)" in str(report)


LAYOUTS = {
    "plain": (Rename("{rest}", "{rest}"),),
    "nested": (
        *(Rename(f"model.{part}.{{rest}}", f"{part}.{{rest}}") for part in ("embed", "norm", "wo")),
        Rename("lm_head.{rest}", "head.{rest}"),
    ),
}


def nested(state):
    return {("lm_head.weight" if k == "head.weight" else f"model.{k}"): v for k, v in state.items()}


def test_load_detects_the_layout_and_logs_it(tmp_path, caplog):
    state = Toy().state_dict()
    model = meta()
    with caplog.at_level(logging.INFO, "watchword.weights"):
        report = load_weights(model, saved(tmp_path, nested(state)), layouts=LAYOUTS)
    assert report.layout == "nested"
    assert "spelling nested" in caplog.text
    assert torch.equal(model.head.weight, state["head.weight"])


def test_load_refuses_names_of_no_layout(tmp_path):
    state = {f"other.{name}": value for name, value in Toy().state_dict().items()}
    with pytest.raises(CheckpointError, match=r"none of its 9 tensors has a name of this model; found other"):
        load_weights(meta(), saved(tmp_path, state))


def test_load_reports_extra_names_as_the_file_spells_them(tmp_path):
    state = nested(Toy().state_dict()) | {"model.adapter.weight": torch.ones(1), "lm_head.b": torch.ones(6)}
    with pytest.raises(CheckpointError, match=r"2 extra: lm_head\.b, model\.adapter\.weight;"):
        load_weights(meta(), saved(tmp_path, state), layouts=LAYOUTS)


def test_load_joins_parts_from_different_shards(tmp_path):
    state = Toy().state_dict()
    weight = state.pop("wo.weight")
    state = {"wo.top": weight[:2], **state, "wo.bottom": weight[2:]}
    rules = (
        Join(("wo.top", "wo.bottom"), "wo.weight"),
        Rename("wo.bias", "wo.bias"),
        *(Rename(f"{part}.{{rest}}", f"{part}.{{rest}}") for part in ("embed", "norm", "head")),
    )
    model = meta()
    load_weights(model, saved(tmp_path, state), layouts={"split": rules})
    assert torch.equal(model.wo.weight, weight)


def test_load_shares_tied_weights_that_the_files_leave_out(tmp_path):
    model = meta(tied=True)
    report = load_weights(model, saved(tmp_path, Toy(tied=True).state_dict()))
    assert model.head.weight is model.embed.weight
    assert report.tied == ("head.weight",)


def test_load_shares_tied_weights_that_the_files_repeat(tmp_path):
    state = {k: v.clone() for k, v in Toy(tied=True).state_dict().items()}
    model = meta(tied=True)
    load_weights(model, saved(tmp_path, state))
    assert model.head.weight is model.embed.weight


def test_load_prefers_values_in_the_files_to_a_tie_and_says_so(tmp_path, caplog):
    state = Toy().state_dict()
    model = meta(tied=True)
    report = load_weights(model, saved(tmp_path, state))
    assert torch.equal(model.head.weight, state["head.weight"])
    assert torch.equal(model.embed.weight, state["embed.weight"])
    assert report.untied == ("head.weight",)
    assert "the config ties head.weight" in caplog.text


@pytest.mark.parametrize("stored", [True, False])
def test_load_ties_on_request_only_when_the_files_leave_it_out(tmp_path, stored):
    state = Toy().state_dict()
    head = state["head.weight"]
    if not stored:
        del state["head.weight"]
    model = meta()
    load_weights(model, saved(tmp_path, state), tied={"head.weight": "embed.weight"})
    assert (model.head.weight is model.embed.weight) == (not stored)
    assert not stored or torch.equal(model.head.weight, head)


def test_load_refuses_two_values_for_one_submodule(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = nn.Embedding(3, 2)
            self.alias = self.shared

    with torch.device("meta"):
        model = Twice()
    state = {"shared.weight": torch.ones(3, 2), "alias.weight": torch.zeros(3, 2)}
    with pytest.raises(CheckpointError, match=r"alias\.weight: the files hold other values .* for shared"):
        load_weights(model, saved(tmp_path, state))
