import json
from pathlib import Path

import pytest
import torch

import watchword
from benchmarks import folders as benchmark_folders
from tests import folders
from watchword.bench import plan
from watchword.errors import CheckpointError, ConfigError
from watchword.generation.cache import KVCache
from watchword.weights import sizes
from watchword.weights.quantize import OURS, VERSION


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    return folders.video_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    return folders.instructblip(tmp_path_factory.mktemp("blip"), text="t5")


def test_plan_counts_the_weights_that_loading_makes(llava, blip):
    for folder in (llava, blip):
        model = watchword.load(folder, device="cpu").model
        need = plan.plan(folder).need(100)
        assert sum(need.weights.values()) == sum(one.nbytes for one in model.parameters())


def test_plan_counts_the_keys_of_a_prompt(llava):
    made = plan.plan(llava, dtype="bfloat16")
    cache = KVCache(watchword.load(llava).model.language_model.cache_spec, 2, 60, torch.bfloat16)
    for index in range(cache.spec.layers):
        keys = torch.zeros(2, cache.spec.heads, 1, cache.spec.head_dim, dtype=torch.bfloat16)
        cache.layer(index).attend(keys.repeat_interleave(2, dim=1), keys, keys)
    assert sizes.cache_bytes(made.text, 60, 2) == cache.nbytes


def test_plan_reads_config_alone(llava, tmp_path):
    raw = json.loads((llava / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {"torch_dtype": "bfloat16"}))
    made, full = plan.plan(tmp_path), plan.plan(llava)
    assert made.shapes == full.shapes
    assert (made.form, full.form) == ("bfloat16", "float32")
    assert sum(made.need(10).weights.values()) * 2 == sum(full.need(10).weights.values())


def test_plan_of_packed_formats_is_smaller_and_reads_less(llava):
    dense, packed = plan.plan(llava), plan.plan(llava, quantize="int8")
    assert packed.form == "int8"
    assert packed.need(10).total < dense.need(10).total
    assert packed.step_bytes(10) < dense.step_bytes(10)


def test_plan_of_a_card_holds_code_books_in_four_bits(llava):
    host, card = (plan.plan(llava, quantize="nf4", device=torch.device(one)) for one in ("cpu", "cuda"))
    assert sum(card.need(10).weights.values()) < sum(host.need(10).weights.values())
    assert plan.plan(llava, device=torch.device("cuda")).need(10) == plan.plan(llava).need(10)


def test_plan_does_without_weights_that_are_still_missing(llava, tmp_path):
    raw = json.loads((llava / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {"torch_dtype": "bfloat16"}))
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert plan.plan(tmp_path).form == "bfloat16"


@pytest.mark.parametrize("form", [None, "int8", "int4", "nf4"])
def test_the_page_says_what_a_model_of_7b_takes(tmp_path, form):
    made = benchmark_folders.config("video_llava", 32, None)
    made.save_pretrained(tmp_path)
    need = plan.plan(tmp_path, quantize=form, dtype="bfloat16").need(2087)
    page = (Path(plan.__file__).parents[2] / "docs" / "speed.md").read_text(encoding="utf-8")
    name = "bfloat16" if form is None else form
    row = next(line for line in page.splitlines() if line.startswith(f"| {name} "))
    figures = [f"{size / 2**30:.1f} GiB" for size in (sum(need.weights.values()), need.total)]
    assert [cell.strip() for cell in row.split("|")[2:4]] == figures


def test_step_reads_weights_once_and_keys_for_every_row(llava):
    made = plan.plan(llava)
    keys = sizes.cache_bytes(made.text, 50, itemsize=4)
    assert made.step_bytes(50, 5) - made.step_bytes(50) == 4 * keys
    text = made.text
    table = 4 * text.vocab_size * text.hidden_size
    assert made.step_bytes(50) == made.need(1).weights["language_model"] - table + keys


def test_flops_of_a_prompt_are_those_of_its_products(llava):
    made = plan.plan(llava)
    calls = []

    def count(module, inputs, output):
        calls.append(2 * inputs[0].numel() * module.out_features)

    model = watchword.load(llava, device="cpu", cache_bytes=0).model
    hooks = [one.register_forward_hook(count) for name, one in model.named_modules()
             if isinstance(one, torch.nn.Linear) and ".layers." in name]  # fmt: skip
    with torch.no_grad():
        model.video_tokens(torch.zeros(1, 2, 3, 28, 28))
        tower = sum(calls)
        calls.clear()
        text = model.language_model
        text.prefill(torch.zeros(1, 30, 24), torch.tensor([30]), KVCache(text.cache_spec, 1, 30), None)
    for hook in hooks:
        hook.remove()
    rows = (28 // 14) ** 2 + 1
    seen = 2 * 2 * 4 * rows**2 * 24  # two frames, two of three layers
    assert made.tower_flops(2) == pytest.approx(tower + seen)
    attention = 2 * 30**2 * 24 + 4 * 30 * 24  # a layer of all positions, and the last of two for the last one
    assert made.prompt_flops(30, 2) - made.tower_flops(2) == pytest.approx(sum(calls) + attention)


def test_plan_refuses_what_load_refuses(llava, tmp_path):
    with pytest.raises(ConfigError, match="quantize 'int3': unknown format; expected one of int8"):
        plan.plan(llava, quantize="int3")
    with pytest.raises(ConfigError, match="dtype 'int3': not a floating type"):
        plan.plan(llava, dtype="int3")
    with pytest.raises(ConfigError, match=rf"{tmp_path}: no config\.json"):
        plan.plan(tmp_path)
    (tmp_path / "config.json").write_bytes((llava / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="damaged or cut off"):
        plan.plan(tmp_path)


def test_plan_takes_a_quantized_folder_at_its_word(llava, tmp_path):
    raw = json.loads((llava / "config.json").read_text())
    said = {"quant_method": OURS, "version": VERSION, "format": "int4"}
    (tmp_path / "config.json").write_text(json.dumps(raw | {"quantization_config": said}))
    made = plan.plan(tmp_path)
    assert made.form == "int4"
    assert made.packed == plan.plan(llava, quantize="int4").packed
    with pytest.raises(ConfigError, match=r"is quantized already \(int4\), and 'int8' is asked for; leave"):
        plan.plan(tmp_path, quantize="int8")
