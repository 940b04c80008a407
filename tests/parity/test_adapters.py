"""Adapters both ways: ours answer the same in PEFT on the reference model, PEFT's answer the same here."""

import json

import pytest
import torch

pytest.importorskip("peft")

import peft

import watchword
from tests.parity import tiny
from tests.parity.test_families import blip_inputs, llava_inputs
from tests.parity.tiny import agree
from watchword.models import layouts
from watchword.nn import lora
from watchword.pipeline.merging import merge
from watchword.weights.adapters import Family, load_adapter, save_adapter

MODELS = {
    "llava-llama": lambda: tiny.video_llava("llama"),
    "llava-mistral": lambda: tiny.video_llava("mistral"),
    "blip-llama": lambda: tiny.instructblip("llama"),
    "blip-opt": lambda: tiny.instructblip("opt-pre"),
    "blip-t5": lambda: tiny.instructblip("t5-gated"),
    "blip-video-llama": lambda: tiny.instructblip("llama", video=True),
}
TARGETS = {
    "llama": ["q_proj", "v_proj", "down_proj"],
    "mistral": ["k_proj", "o_proj"],
    "opt": ["q_proj", "fc2"],
    "t5": ["q", "wo"],
}


@pytest.fixture(scope="module", params=list(MODELS))
def folder(request, tmp_path_factory):
    """The reference model's folder, and its kind."""
    torch.manual_seed(3)
    return tiny.saved(MODELS[request.param](), tmp_path_factory.mktemp(request.param)), request.param


def both(place):
    path, kind = place
    name = {"llava": "VideoLlava", "blip": "InstructBlipVideo" if "video" in kind else "InstructBlip"}[
        kind.split("-")[0]
    ]
    name += "ForConditionalGeneration"
    ours = getattr(watchword, name).from_pretrained(path)
    return ours, getattr(tiny.ref, name).from_pretrained(path).eval()


def inputs_for(model, kind):
    torch.manual_seed(7)
    if kind.startswith("llava"):
        return llava_inputs(model)
    given = blip_inputs(model, "video" in kind)
    if kind.endswith("t5"):
        given["decoder_input_ids"] = torch.randint(1, 90, (2, 4))
    return given


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


def family(model):
    return Family(**layouts.for_adapters(model))


def shaken(model):
    with torch.no_grad():
        for name, one in model.named_parameters():
            if "lora" in name:
                one.add_(torch.randn_like(one) * 0.1)
    return model


@pytest.mark.parametrize("form", ["ends", "expression", "all"])
def test_an_adapter_of_peft_answers_the_same_here(folder, tmp_path, form):
    ours, theirs = both(folder)
    kind = folder[1].split("-")[-1]
    whole = "language_model.*\\." if kind != "t5" else "language_model.decoder.*\\."
    targets = {
        "ends": TARGETS[kind],
        "expression": f".*{whole}({'|'.join(TARGETS[kind])})",
        "all": "all-linear",
    }[form]
    own = {TARGETS[kind][0]: 5} if form == "ends" else {}
    config = peft.LoraConfig(
        r=3, lora_alpha=7, target_modules=targets, use_rslora=form == "all", lora_dropout=0.1,
        rank_pattern=own, alpha_pattern={name: 2 for name in own},
    )  # fmt: skip
    with_adapter = shaken(peft.get_peft_model(theirs, config)).eval()
    inputs = inputs_for(theirs, folder[1])
    wanted = logits(with_adapter, inputs)
    with_adapter.save_pretrained(tmp_path, safe_serialization=form != "expression")  # else a .bin
    before = logits(ours, inputs)
    found = load_adapter(ours, tmp_path, family(ours))
    assert (found.rank, found.dropout, found.rslora) == (3, 0.1, form == "all")
    where = inputs["attention_mask"].bool() if kind != "t5" else None
    agree(logits(ours, inputs), wanted, where)
    assert not torch.allclose(before, wanted, rtol=1e-3)


@pytest.mark.parametrize("form", ["ends", "some"])
def test_an_adapter_of_ours_answers_the_same_in_peft(folder, tmp_path, form):
    ours, theirs = both(folder)
    kind = folder[1].split("-")[-1]
    targets = TARGETS[kind] if form == "ends" else f"language_model.*0.*\\.({'|'.join(TARGETS[kind])})"
    chosen = lora.matching(ours, targets)
    lora.add_adapter(
        ours, targets, 4, alpha=3, rslora=form == "some", ranks={chosen[0]: 2}, alphas={chosen[-1]: 5.5}
    )
    shaken(ours)
    inputs = inputs_for(theirs, folder[1])
    save_adapter(ours, tmp_path, family(ours), base=str(folder[0]))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["target_modules"] == sorted(TARGETS[kind])) == (form == "ends")
    with_adapter = peft.PeftModel.from_pretrained(theirs, tmp_path).eval()
    where = inputs["attention_mask"].bool() if kind != "t5" else None
    agree(logits(ours, inputs), logits(with_adapter, inputs), where)


def test_an_adapter_of_ours_opens_by_itself_in_peft(folder, tmp_path):
    ours, _ = both(folder)
    lora.add_adapter(ours, TARGETS[folder[1].split("-")[-1]], 2)
    shaken(ours)
    save_adapter(ours, tmp_path, family(ours), base=str(folder[0]))
    theirs = peft.AutoPeftModel.from_pretrained(tmp_path).eval()
    inputs = inputs_for(theirs, folder[1])
    where = None if folder[1].endswith("t5") else inputs["attention_mask"].bool()
    agree(logits(ours, inputs), logits(theirs, inputs), where)


def test_a_merged_folder_answers_in_the_reference_as_its_adapter_in_peft(folder, tmp_path):
    ours, theirs = both(folder)
    lora.add_adapter(ours, TARGETS[folder[1].split("-")[-1]], 3)
    shaken(ours)
    save_adapter(ours, tmp_path / "adapter", family(ours))
    inputs = inputs_for(theirs, folder[1])
    with_adapter = logits(peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval(), inputs)
    out = merge(folder[0], tmp_path / "adapter", tmp_path / "merged")
    merged = type(both(folder)[1]).from_pretrained(out).eval()
    where = None if folder[1].endswith("t5") else inputs["attention_mask"].bool()
    agree(logits(merged, inputs), with_adapter, where)


@pytest.mark.filterwarnings(
    "ignore:Model with `tie_word_embeddings=True`"
)  # of the family, not the text model
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
def test_an_adapter_with_the_head_answers_the_same_both_ways(folder, tmp_path):
    """New words need the head: a difference beside it is saved and read under the reference's name."""
    ours, theirs = both(folder)
    kind = folder[1].split("-")[-1]
    targets = [*TARGETS[kind], "lm_head"]
    lora.add_adapter(ours, targets, 4)
    shaken(ours)
    save_adapter(ours, tmp_path / "ours", family(ours), base=str(folder[0]))
    inputs = inputs_for(theirs, folder[1])
    where = inputs["attention_mask"].bool() if kind != "t5" else None
    with_adapter = peft.PeftModel.from_pretrained(theirs, tmp_path / "ours").eval()
    agree(logits(ours, inputs), logits(with_adapter, inputs), where)
    ours, theirs = both(folder)
    config = peft.LoraConfig(r=3, lora_alpha=7, target_modules=targets)
    with_adapter = shaken(peft.get_peft_model(theirs, config)).eval()
    with_adapter.save_pretrained(tmp_path / "theirs")
    load_adapter(ours, tmp_path / "theirs", family(ours))
    assert any(path.endswith("lm_head") for path in lora.adapted(ours))
    agree(logits(ours, inputs), logits(with_adapter, inputs), where)
    other, _ = both(folder)
    other.get_output_embeddings().weight.data[3] += 1
    with pytest.raises(
        watchword.CheckpointError, match=r"lm_head.base_layer.weight is not the weight that the model"
    ):
        load_adapter(other, tmp_path / "theirs", family(other))
