"""A merged folder answers as the model with its adapter, and is complete or not there."""

import json
import re

import pytest
import torch

import watchword
from tests import folders
from tests.pipeline.test_adapters import EYES, KINDS, QUESTION, SETTINGS, TEXT, save
from watchword.errors import CheckpointError, ConfigError, RequestError
from watchword.models import layouts
from watchword.nn import lora
from watchword.pipeline.merging import merge
from watchword.weights import adapters, files
from watchword.weights.adapters import Family
from watchword.weights.quantize import Recipe


@pytest.fixture(scope="module")
def adapter(checkpoint, tmp_path_factory):
    """One adapter of a kind of model, of its text model and of what looks."""
    made = {}

    def make(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(f"{kind}-adapter")
            save(watchword.load(checkpoint(kind)).model, f"{TEXT[kind]}|{EYES[kind]}", made[kind], seed=3)
        return made[kind]

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_folder_answers_as_the_adapter_applied(checkpoint, adapter, clip, tmp_path, kind):
    out = merge(checkpoint(kind), adapter(kind), tmp_path / "merged")
    found = watchword.load(out).ask(clip, QUESTION, **SETTINGS)
    wanted = watchword.load(checkpoint(kind), adapter=adapter(kind)).ask(clip, QUESTION, **SETTINGS)
    plain = watchword.load(checkpoint(kind)).ask(clip, QUESTION, **SETTINGS)
    assert found.text == wanted.text
    assert [one.logprob for one in found.logprobs] == pytest.approx(
        [one.logprob for one in wanted.logprobs], abs=2e-4
    )
    assert [one.logprob for one in found.logprobs] != pytest.approx(
        [one.logprob for one in plain.logprobs], abs=2e-3
    )


def test_a_merged_folder_has_all_that_the_old_one_had(checkpoint, adapter, tmp_path):
    source = checkpoint("blip")
    out = merge(source, adapter("blip"), tmp_path / "merged")
    names = [sorted(path.relative_to(one).as_posix() for path in one.rglob("*")) for one in (source, out)]
    assert names[0] == names[1]
    old, new = (files.open_weights(one).entries for one in (source, out))
    assert {name: one.shape for name, one in old.items()} == {name: one.shape for name, one in new.items()}
    assert out.stat().st_mode == source.stat().st_mode
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


def test_weights_in_half_precision_stay_so(tmp_path):
    torch.manual_seed(5)
    source = folders.video_llava(tmp_path_factory_folder(tmp_path, "half"), dtype=torch.bfloat16)
    target = tmp_path_factory_folder(tmp_path, "adapter")
    save(watchword.load(source).model, TEXT["llava"], target, seed=3)
    out = merge(source, target, tmp_path / "merged")
    assert files.open_weights(out).dtype == torch.bfloat16
    before, after = (watchword.load(one).model.state_dict() for one in (source, out))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(re.fullmatch(TEXT["llava"] + r"\.weight", name) for name in changed)


def tmp_path_factory_folder(tmp_path, name):
    (tmp_path / name).mkdir()
    return tmp_path / name


def test_the_embedded_model_takes_adapters_too(tmp_path):
    save(watchword.load().model, r"language_model.*\.q_proj", tmp_path / "adapter", seed=3)
    out = merge("embedded", tmp_path / "adapter", tmp_path / "merged")
    picture = torch.zeros(40, 40, 3, dtype=torch.uint8).numpy()
    found = watchword.load(out).score(picture, "What is it?", "a red circle").sum
    wanted = watchword.load(adapter=tmp_path / "adapter").score(picture, "What is it?", "a red circle").sum
    assert found == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("form", ["int8", "nf4"])
def test_a_sum_in_few_bits_is_that_of_the_dense_one(checkpoint, adapter, clip, tmp_path, form):
    out = merge(checkpoint("llava"), adapter("llava"), tmp_path / "small", quantize=Recipe(form))
    dense = merge(checkpoint("llava"), adapter("llava"), tmp_path / "dense")
    found = watchword.load(out).ask(clip, QUESTION, **SETTINGS)
    wanted = watchword.load(dense, quantize=form).ask(clip, QUESTION, **SETTINGS)
    assert [one.logprob for one in found.logprobs] == [one.logprob for one in wanted.logprobs]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense", "small"]
    with pytest.raises(ConfigError, match="merge"):
        merge(out, adapter("llava"), tmp_path / "again")


def test_quantized_models_take_adapters_without_being_changed(checkpoint, adapter, clip):
    model = watchword.load(checkpoint("llava"), quantize="int8", adapter=adapter("llava"))
    plain = watchword.load(checkpoint("llava"), quantize="int8").ask(clip, QUESTION, **SETTINGS)
    base = model.ask(clip, QUESTION, adapter="base", **SETTINGS)
    assert [one.logprob for one in base.logprobs] == pytest.approx(
        [one.logprob for one in plain.logprobs], abs=1e-2
    )  # neighbours that share their rows in 8 bits do so no more
    near = watchword.load(checkpoint("llava"), adapter=adapter("llava")).score(clip, QUESTION, "a dog").sum
    far = watchword.load(checkpoint("llava")).score(clip, QUESTION, "a dog").sum
    found = model.score(clip, QUESTION, "a dog").sum
    assert abs(found - near) < abs(found - far)


def test_an_interrupted_merge_leaves_nothing(checkpoint, adapter, tmp_path, monkeypatch):
    def full(*given, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "save", full)
    with pytest.raises(RequestError, match=r"merged: cannot be written .No space left"):
        merge(checkpoint("llava"), adapter("llava"), tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_merged_is_refused_before_anything_is_written(checkpoint, adapter, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(RequestError, match=re.escape(f"{tmp_path / 'there'}: is there already; expected")):
        merge(checkpoint("llava"), adapter("llava"), tmp_path / "there")
    with pytest.raises(
        RequestError, match=re.escape(f"{tmp_path / 'a'} is no folder; expected the name of a")
    ):
        merge(checkpoint("llava"), adapter("llava"), tmp_path / "a" / "b")
    with pytest.raises(CheckpointError, match="are no linears of VideoLlavaForConditionalGeneration"):
        merge(checkpoint("llava"), adapter("blip-t5"), tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_weights_that_others_use_and_quantized_ones_are_not_changed(checkpoint):
    model = watchword.load(checkpoint("llava")).model
    text = model.language_model
    text.lm_head.weight = text.model.embed_tokens.weight
    lora.add_adapter(model, ["lm_head"], 2)
    with pytest.raises(ConfigError, match="lm_head: shares its weight with another part"):
        adapters.fold_adapter(model)
    lora.remove_adapter(model, "default")

    class Stored(torch.nn.Module):
        in_features, out_features = 24, 24

    model.language_model.model.layers[0].self_attn.q_proj = Stored()
    lora.add_adapter(model, ["layers.0.self_attn.q_proj"], 2)
    with pytest.raises(
        ConfigError, match=re.escape("q_proj: is a Stored, and an adapter can be added to dense")
    ):
        adapters.fold_adapter(model)


def test_a_model_with_adapters_is_not_saved_as_if_it_had_none(checkpoint, tmp_path):
    model = watchword.VideoLlavaForConditionalGeneration.from_pretrained(checkpoint("llava"))
    lora.add_adapter(model, ["q_proj"], 2)
    with pytest.raises(RequestError, match="has the adapters default; save them"):
        model.save_pretrained(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []
    adapters.save_adapter(model, tmp_path / "adapter", Family(**layouts.for_adapters(model)))
    adapters.fold_adapter(model)
    model.save_pretrained(tmp_path / "whole")
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["model_type"] == "video_llava"
