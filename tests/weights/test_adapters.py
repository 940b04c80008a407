"""Adapter folders: what is written comes back, and what does not fit is refused with the model as it was."""

import json
import logging
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from watchword.errors import CheckpointError, ConfigError, RequestError
from watchword.nn import lora
from watchword.weights import adapters, peft
from watchword.weights.adapters import Family, load_adapter, save_adapter
from watchword.weights.names import SAME, Rename

NESTED = (Rename("model.tower.{rest}", "tower.{rest}"), Rename("model.text.{rest}", "text.model.{rest}"))
FILE, PICKLE = adapters.FILES
FAMILY = Family({"nested": NESTED, "published": SAME}, ("ToyForGeneration", "toys.modeling_toy"))


class Toy(nn.Module):
    """A tower and a text model, called otherwise by the reference."""

    def __init__(self):
        super().__init__()
        self.tower = nn.ModuleDict({"q": nn.Linear(4, 4)})
        layers = nn.ModuleList(nn.ModuleDict({"q": nn.Linear(4, 6), "up": nn.Linear(4, 8)}) for _ in range(2))
        self.text = nn.ModuleDict({"model": nn.ModuleDict({"layers": layers})})


def learned(targets=("q",), name="default", **given):
    model = Toy()
    lora.add_adapter(model, targets, 3, name=name, **given)
    for one in adapters.values_of(model, name).values():
        one.normal_()
    return model


@pytest.fixture
def folder(tmp_path):
    """An adapter for the two q of the text model."""
    save_adapter(learned(r"text\..*\.q", alpha=5), tmp_path, FAMILY, base="toys/toy")
    return tmp_path


def changed(folder, **fields):
    path = folder / peft.FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def rewritten(folder, change):
    path = folder / FILE
    state = load_file(path)
    change(state)
    save_file(state, path)


@pytest.mark.parametrize("targets", [("q",), ("q", "up"), ("text.model.layers.1.up",)])
def test_a_saved_adapter_comes_back(tmp_path, targets):
    model = learned(targets, name="mine", dropout=0.25, rslora=True)
    written = save_adapter(model, tmp_path, FAMILY, name="mine")
    assert sorted(tmp_path.iterdir()) == sorted(written)
    other = Toy()
    load_adapter(other, tmp_path, FAMILY, name="yours")
    before, after = adapters.values_of(model, "mine"), adapters.values_of(other, "yours")
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    one = next(iter(lora.adapted(other).values())).adapters["yours"]
    assert (one.dropout, one.rslora, one.alpha) == (0.25, True, 6)
    assert lora.active(other) == "yours"
    assert not any(parameter.requires_grad for parameter in other.parameters())


def test_the_file_calls_modules_as_the_reference_does(folder):
    state = load_file(folder / FILE)
    assert sorted(state) == [
        f"base_model.model.model.text.layers.{layer}.q.lora_{part}.weight"
        for layer in (0, 1)
        for part in "AB"
    ]
    config = json.loads((folder / peft.FILE).read_text())
    assert config["target_modules"] == ["model.text.layers.0.q", "model.text.layers.1.q"]
    assert (config["r"], config["lora_alpha"]) == (3, 5)
    assert config["base_model_name_or_path"] == "toys/toy"


def test_ranks_of_their_own_are_written_as_patterns(tmp_path):
    own = "text.model.layers.1.q"
    save_adapter(learned(["q"], ranks={own: 2}, alphas={own: 1.5}), tmp_path, FAMILY)
    config = json.loads((tmp_path / peft.FILE).read_text())
    assert config["target_modules"] == ["q"]
    assert config["rank_pattern"] == {"model.text.layers.1.q": 2}
    assert config["alpha_pattern"] == {"model.text.layers.1.q": 1.5}
    model = Toy()
    load_adapter(model, tmp_path, FAMILY)
    assert lora.adapted(model)[own].adapters["default"].scale == 0.75


def test_older_adapters_call_modules_as_the_published_files_do(folder):
    def older(state):
        for name in list(state):
            state[name.replace("model.text.layers", "text.model.layers")] = state.pop(name)

    rewritten(folder, older)
    changed(folder, target_modules=r"text\..*\.q")
    model = Toy()
    load_adapter(model, folder, FAMILY)
    assert list(lora.adapted(model)) == ["text.model.layers.0.q", "text.model.layers.1.q"]


def test_an_adapter_may_be_trained_further(folder):
    model = Toy()
    load_adapter(model, folder, FAMILY, learns=True)
    learning = {name.rpartition(".")[2] for name, one in model.named_parameters() if one.requires_grad}
    assert learning == {"A", "B"}


def test_loading_says_what_an_adapter_was_trained_on(folder, caplog):
    with caplog.at_level(logging.INFO):
        load_adapter(Toy(), folder, FAMILY)
    assert "adapter 'default' for 2 linears; trained on: toys/toy" in caplog.text


@pytest.mark.parametrize(
    ("fields", "fits"),
    [
        ({"target_modules": ["q"], "layers_to_transform": [1]}, ["model.text.layers.1.q"]),
        ({"target_modules": ["q"], "layers_to_transform": 0, "layers_pattern": "layers"},
         ["model.text.layers.0.q"]),
        ({"target_modules": ["q"], "layers_to_transform": [0], "layers_pattern": ["blocks"]}, []),
        ({"target_modules": "all-linear", "exclude_modules": ["up"]},
         ["model.text.layers.0.q", "model.tower.q"]),
        ({"target_modules": r".*\.q", "exclude_modules": ".*tower.*"}, ["model.text.layers.0.q"]),
    ],
)  # fmt: skip
def test_the_config_means_the_modules_that_peft_means(folder, fields, fits):
    changed(folder, **fields)
    config = peft.read(folder)
    for name in ("model.text.layers.0.q", "model.text.layers.0.up", "model.tower.q", "lm_head"):
        assert config.means(name) == (name in fits), name
    if fits == ["model.text.layers.1.q"]:
        assert config.means(fits[0])


def test_the_first_pattern_that_fits_a_name_or_its_end_counts(folder):
    changed(folder, rank_pattern={"layers.1.q": 7, "q": 2}, alpha_pattern={r".*\.0\.q": 4})
    config = peft.read(folder)
    assert [config.rank_of(f"text.layers.{n}.q") for n in (0, 1)] == [2, 7]
    assert [config.alpha_of(f"text.layers.{n}.q") for n in (0, 1)] == [4, 5]
    assert config.rank_of("text.layers.1.up") == 3


@pytest.mark.parametrize(
    ("damage", "kind", "message"),
    [
        (lambda f: (f / peft.FILE).unlink(), CheckpointError,
         "no adapter_config.json; found adapter_model.safetensors; expected an adapter"),
        (lambda f: (f / peft.FILE).write_text("{"), CheckpointError, "config.json: not JSON (Expecting"),
        (lambda f: (f / peft.FILE).write_text("[]"), CheckpointError, "holds a list; expected a JSON object"),
        (lambda f: changed(f, peft_type="LOHA"), ConfigError, "peft_type 'LOHA' is not implemented; only"),
        (lambda f: changed(f, use_dora=True), ConfigError, "use_dora True is not implemented; merge"),
        (lambda f: changed(f, bias="all"), ConfigError, "bias 'all' is not implemented"),
        (lambda f: changed(f, modules_to_save=["norm"]), ConfigError, "modules_to_save ['norm'] is not"),
        (lambda f: changed(f, some_new_option=3), ConfigError, "some_new_option 3 is not implemented"),
        (lambda f: changed(f, init_lora_weights="pissa"), ConfigError, "'pissa' changes the base model too"),
        (lambda f: changed(f, r="8"), CheckpointError, "damaged (ValueError: r is '8'); expected r"),
        (lambda f: changed(f, target_modules="("), CheckpointError, "missing ), unterminated subpattern"),
        (lambda f: changed(f, target_modules=None), CheckpointError, "names of modules are None"),
        (lambda f: (f / FILE).unlink(), CheckpointError,
         "no weights; expected adapter_model.safetensors or adapter_model.bin"),
        (lambda f: (f / FILE).write_bytes(b"\x99" * 50), CheckpointError, "damaged or cut off (50 bytes"),
        (lambda f: (f / adapters.BESIDE).touch(), CheckpointError, "non_lora_trainables.bin holds more"),
        (lambda f: rewritten(f, lambda s: s.pop(min(s))), CheckpointError,
         "0.q.lora_B.weight; expected pairs of base_model.model"),
        (lambda f: rewritten(f, lambda s: s.update({"base_model.model.x.lora_embedding_A": torch.ones(1)})),
         CheckpointError, "base_model.model.x.lora_embedding_A; expected pairs"),
        (lambda f: rewritten(f, lambda s: s.clear()), CheckpointError, "no tensors; expected pairs"),
        (lambda f: rewritten(f, lambda s: renamed(s, "0.q", "0.gate")), CheckpointError,
         "1 of 2 modules are no linears of ToyForGeneration: model.text.layers.0.gate; its config says that "
         "it was made for ToyForGeneration; load it with"),
        (lambda f: rewritten(f, lambda s: renamed(s, "layers.0", "layers.7")), CheckpointError,
         "1 of 2 modules are no linears of ToyForGeneration: model.text.layers.7.q"),
        (lambda f: changed(f, target_modules=["q"]), CheckpointError,
         "1 modules are missing: model.tower.q; 0 are not among its target_modules: none"),
        (lambda f: changed(f, target_modules=["model.text.layers.0.q"]), CheckpointError,
         "0 modules are missing: none; 1 are not among its target_modules: model.text.layers.1.q"),
        (lambda f: changed(f, r=4), CheckpointError,
         "4 tensors do not fit the model and adapter_config.json: model.text.layers.0.q.lora_A is (3, 4) and "
         "should be (4, 4)"),
        (lambda f: rewritten(f, lambda s: s[max(s)].fill_(float("nan"))), CheckpointError,
         "model.text.layers.1.q holds values that are no finite numbers"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_the_model_stays_as_it_was(folder, damage, kind, message):
    damage(folder)
    model = Toy()
    before = list(model.state_dict())
    with pytest.raises(kind, match=re.escape(message)):
        load_adapter(model, folder, FAMILY)
    assert list(model.state_dict()) == before


def renamed(state, old, new):
    for name in [name for name in state if old in name]:
        state[name.replace(old, new)] = state.pop(name)


def test_other_shapes_of_the_same_names_are_another_model(folder):
    model = Toy()
    model.text["model"]["layers"][0]["q"] = nn.Linear(5, 6)
    with pytest.raises(CheckpointError, match=re.escape("layers.0.q.lora_A is (3, 4) and should be (3, 5)")):
        load_adapter(model, folder, FAMILY)


def test_a_pickled_adapter_with_code_in_it_stays_closed(folder):
    (folder / FILE).unlink()
    torch.save({"a": print}, folder / PICKLE)
    with pytest.raises(CheckpointError, match="holds something other than tensors"):
        load_adapter(Toy(), folder, FAMILY)


def test_unknown_adapters_are_not_saved(tmp_path):
    with pytest.raises(RequestError, match="adapter 'other': unknown; this model has base, default"):
        save_adapter(learned(), tmp_path / "new", FAMILY, name="other")
    with pytest.raises(RequestError, match="adapter 'base': has nothing to save"):
        save_adapter(learned(), tmp_path / "new", FAMILY, name="base")
    assert not (tmp_path / "new").exists()


def test_a_save_that_fails_leaves_the_old_adapter(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(folder), "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        save_adapter(learned(), folder, FAMILY)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=re.escape(f"{tmp_path / 'none'}: no such folder")):
        load_adapter(Toy(), tmp_path / "none", FAMILY)
