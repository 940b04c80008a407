import weakref
from pathlib import Path

import pytest
import torch

from tests import folders
from tests.weights.mapped import lying_in
from watchword import pipeline
from watchword.config import family_from_dict
from watchword.errors import ConfigError
from watchword.models import build
from watchword.nn.quantized import Int8Linear
from watchword.weights import quantize

ERRORS = {"int8": 0.01, "int4": 0.11, "nf4": 0.12}  # of matrices of a few hundred values


def test_plan_follows_the_policy(tmp_path):
    config = pipeline.opening.read_config(folders.instructblip(tmp_path, text="opt"))
    model = build.build(family_from_dict(config, "config.json"))
    found = quantize.plan(model, quantize.Recipe("int8"))
    assert found["vision_model.encoder.layers.0.self_attn.qkv"] == "int8"
    assert found["language_model.model.decoder.layers.1.fc2"] == "int8"
    starts = ("qformer.", "language_projection")
    assert not any(path.startswith(starts) for path in found)
    assert "language_model.lm_head" not in found  # OPT ties it to the embedding


def test_plan_refuses_unknown_formats():
    with pytest.raises(ConfigError, match=r"quantize 'int3': unknown format; expected one of int8"):
        quantize.Recipe("int3")


@pytest.mark.parametrize("text", ["llama", "opt", "t5"])
@pytest.mark.parametrize("form", ["int8", "int4", "nf4"])
def test_load_quantizes_while_reading(tmp_path, text, form):
    folder = folders.instructblip(tmp_path, text=text)
    model = pipeline.load(folder, quantize=form, device="cpu").model
    dense = pipeline.load(folder, device="cpu").model
    found = dict(quantize.quantized(model))
    assert set(found) == set(quantize.plan(dense, quantize.Recipe(form)))
    for path, linear in found.items():
        right = dense.get_submodule(path)
        assert (linear.dense() - right.weight).norm() < ERRORS[linear.form] * right.weight.norm()
        assert (linear.bias is None) == (right.bias is None)
    said = str(model.quantization)
    assert f"linears {form}" in said
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


def test_plan_skips_what_is_asked():
    model = torch.nn.ModuleDict(
        {"language_model": torch.nn.ModuleDict({n: torch.nn.Linear(64, 2) for n in "ab"})}
    )
    found = quantize.plan(model, quantize.Recipe("int8", skip=("b",)))
    assert list(found) == ["language_model.a"]
    with pytest.raises(ConfigError, match="nothing to skip: no linear of ModuleDict is so called"):
        quantize.plan(model, quantize.Recipe("int8", skip=("nothing",)))


def test_recipe_has_groups_for_int4_alone():
    with pytest.raises(ConfigError, match="quantize 'int8': group size 32; only int4"):
        quantize.Recipe("int8", group=32)
    model = torch.nn.ModuleDict({"language_model": torch.nn.ModuleDict({"a": torch.nn.Linear(40, 2)})})
    with pytest.raises(ConfigError, match=r"language_model\.a: group size 64 does not divide its 40 inputs"):
        quantize.plan(model, quantize.Recipe("int4", group=64))


def test_dense_weights_do_not_pile_up_while_loading(tmp_path, monkeypatch):
    alive, most = [], []
    plain = quantize.Recipe.linear

    def counted(self, form, weight, path):
        alive.append(weakref.ref(weight))
        most.append(sum(one() is not None for one in alive))
        return plain(self, form, weight, path)

    monkeypatch.setattr(quantize.Recipe, "linear", counted)
    pipeline.load(folders.video_llava(tmp_path), quantize="int8", device="cpu")
    assert len(most) > 40
    assert max(most) <= 2


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of what is mapped")
def test_tables_read_by_the_row_stay_in_their_file(tmp_path):
    folder = folders.video_llava(tmp_path)
    model = pipeline.load(folder, quantize="int8", device="cpu").model
    lies_in_file = lying_in(folder / "model.safetensors")
    assert lies_in_file(model.language_model.get_input_embeddings().weight)
    assert not lies_in_file(model.language_model.model.norm.weight)


def test_load_quantizes_on_one_device_only(tmp_path):
    folder = folders.video_llava(tmp_path)
    with pytest.raises(ConfigError, match="quantize 'int8' on several devices: not implemented"):
        pipeline.load(
            folder,
            quantize="int8",
            device_map={"": "cpu", "language_model": "disk"},
            offload_folder=tmp_path / "off",
        )


def test_int8_linears_are_found_by_type(tmp_path):
    model = pipeline.load(folders.video_llava(tmp_path), quantize="int8", device="cpu").model
    assert all(isinstance(one, Int8Linear) for _, one in quantize.quantized(model))
