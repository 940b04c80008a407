import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import watchword
from tests import folders
from tests.weights.mapped import lying_in
from watchword import pipeline
from watchword.config import family_from_dict
from watchword.errors import CapacityError, ConfigError, RequestError
from watchword.generation.cache import KVCache
from watchword.models import build, mapped
from watchword.nn.memory import Memory
from watchword.nn.quantized import Int8Linear
from watchword.pipeline.quantizing import quantize as folder_of_few_bits
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


@pytest.mark.parametrize("form", ["int8", "int4", "nf4"])
def test_t5_in_float16_stays_finite_in_few_bits(tmp_path, form):
    folder = folders.instructblip(tmp_path, text="t5")
    state = load_file(folder / "model.safetensors")
    for name in state:
        state[name] *= 3000 if ".wo." in name else 20 if ".wi" in name else 1  # beyond what float16 holds
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    ids = torch.arange(2, 12)[None]

    def scores(kind):
        text = pipeline.load(folder, device="cpu", dtype=kind, quantize=form).model.language_model
        cache = KVCache(text.cache_spec, 1, 4, kind, "cpu")
        with torch.no_grad():
            start = torch.zeros(1, 1, dtype=torch.long)
            return text.prefill(text.embed(ids), torch.tensor([10]), cache, start).float()

    wide = scores(torch.float32)
    assert (scores(torch.float16) - wide).norm() < 0.03 * wide.norm()


def test_plan_of_bitsandbytes_leaves_what_it_leaves(tmp_path):
    model = build.build(
        family_from_dict(
            pipeline.opening.read_config(folders.instructblip(tmp_path, text="t5")), "config.json"
        )
    )
    found = quantize.plan(model, quantize.Recipe("nf4"))
    assert found["language_projection"] == "nf4"
    assert not any(path.endswith(".wo") for path in found)
    assert any(path.endswith(".wo") for path in quantize.plan(model, quantize.Recipe("int8")))


def test_a_tied_head_may_be_skipped_and_parts_of_names(tmp_path):
    folder = folders.instructblip(tmp_path, text="opt")
    model = build.build(family_from_dict(pipeline.opening.read_config(folder), "config.json"))
    assert quantize.plan(model, quantize.Recipe("int8", skip=("lm_head",)))
    found = quantize.plan(model, quantize.Recipe("int8", skip=("layers.0",)))
    assert not any(".layers.0." in path for path in found)
    assert any(".layers.1." in path for path in found)


def test_nothing_to_quantize_is_refused(tmp_path):
    folder = folders.instructblip(tmp_path)
    with pytest.raises(ConfigError, match="quantize 'int8': no linear of InstructBlipVisionModel is left"):
        watchword.InstructBlipVisionModel.from_pretrained(folder, quantize="int8")


def test_quantized_weights_take_one_card_whatever_the_dense_ones_would(tmp_path, monkeypatch):
    config = pipeline.opening.read_config(folders.video_llava(tmp_path))
    model = build.build(family_from_dict(config, "config.json"))
    monkeypatch.setattr(mapped, "best_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(mapped, "_fits", lambda model, dtype: False)
    assert mapped.homes(model, "auto", dtype=torch.float32, whole=True).parts == {"": torch.device("cuda")}


def test_operators_of_a_format_are_counted(tmp_path):
    model = pipeline.load(folders.video_llava(tmp_path), quantize="int4", device="cpu").model
    used = {(one.form, one.operator) for _, one in quantize.quantized(model)}
    said = model.quantization.operators
    assert set(said) == {form for form, _ in used}
    assert all(operator in said[form] for form, operator in used)
    assert "(" in said["int4"]  # widths of 24 cannot be packed, those of 32 can


def test_a_quantized_model_is_not_resized(tmp_path):
    folder = folders.video_llava(tmp_path)
    model = watchword.VideoLlavaForConditionalGeneration.from_pretrained(folder, quantize="int8")
    before = model.get_input_embeddings().num_embeddings
    with pytest.raises(RequestError, match=r"the model is quantized \(int8\); expected a dense one"):
        model.resize_token_embeddings(700)
    assert model.get_input_embeddings().num_embeddings == before


@pytest.mark.parametrize("door", ["load", "quantize", "from_pretrained"])
def test_too_little_memory_for_what_is_copied_is_told_first(tmp_path, monkeypatch, door):
    folder = tmp_path / "dense"
    folder.mkdir()
    folders.video_llava(folder, dtype=torch.bfloat16)
    monkeypatch.setattr("watchword.weights.packed.memory", lambda device: Memory(10**4, "this test's limit"))
    open_it = {
        "load": lambda: pipeline.load(folder, dtype="float32", device="cpu"),
        "quantize": lambda: folder_of_few_bits(folder, tmp_path / "small", quantize.Recipe("int8")),
        "from_pretrained": lambda: watchword.VideoLlavaForConditionalGeneration.from_pretrained(folder),
    }[door]
    with pytest.raises(CapacityError, match=r"needs about .*, and this test's limit is 0\.0 MiB"):
        open_it()
    pipeline.load(folder, device="cpu")  # mapped: takes nothing
    assert not (tmp_path / "small").exists()
