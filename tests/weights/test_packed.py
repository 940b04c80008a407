import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import folders
from tests.weights.mapped import lying_in
from watchword import pipeline
from watchword.bench.plan import plan
from watchword.errors import CheckpointError, ConfigError, RequestError
from watchword.nn.blockwise import CODES, block_weights, dynamic_map
from watchword.nn.kernels import _int8_is_right
from watchword.nn.quantized import int8_weights
from watchword.pipeline.quantizing import quantize
from watchword.weights import quantize as quantizing
from watchword.weights.quantize import Recipe

MAPPED = pytest.mark.skipif(
    not Path("/proc/self/maps").exists(), reason="needs Linux's list of what is mapped"
)
FORMS = ("int8", "int4", "nf4")


def logits(model: torch.nn.Module) -> torch.Tensor:
    from watchword.generation.cache import KVCache

    text = model.language_model
    torch.manual_seed(0)
    embeds = torch.randn(1, 6, 24)
    cache = KVCache(text.cache_spec, 1, capacity=8, dtype=torch.float32, device=torch.device("cpu"))
    with torch.no_grad():
        return text.prefill(embeds, torch.tensor([6]), cache)


@pytest.fixture
def dense(tmp_path):
    (tmp_path / "dense").mkdir()
    return folders.video_llava(tmp_path / "dense")


def opened(folder, **options):
    return pipeline.load(folder, device="cpu", **options).model


@pytest.mark.parametrize("form", FORMS)
def test_quantized_folder_answers_as_its_dense_one_quantized_at_loading(dense, tmp_path, form):
    said = quantize(dense, tmp_path / "small", Recipe(form))
    assert (said.form, sum(said.linears.values())) == (form, 53)
    small = opened(tmp_path / "small")
    same = opened(dense, quantize=form)
    left, right = small.state_dict(), same.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert str(small.quantization) == str(same.quantization)
    assert not any(tensor.is_meta for tensor in (*small.parameters(), *small.buffers()))


@MAPPED
def test_packed_weights_let_go_of_their_file(dense, tmp_path):
    """A scale that were still a part of it would keep all that was read."""
    quantize(dense, tmp_path / "small", Recipe("int8"))
    model = opened(tmp_path / "small")
    lies_in_file = lying_in(tmp_path / "small" / "model.safetensors")
    for _, linear in quantizing.quantized(model):
        if linear.operator == "onednn":
            assert not lies_in_file(linear.scale)
            assert linear.weight.numel() == 0


@MAPPED
def test_int8_weights_that_are_not_packed_stay_in_their_file(dense, tmp_path):
    """And answer as packed ones do."""
    quantize(dense, tmp_path / "small", Recipe("int8"))
    plain, packed = opened(tmp_path / "small", pack=False), opened(tmp_path / "small")
    assert torch.equal(logits(plain), logits(packed))
    assert torch.equal(logits(opened(dense, quantize="int8", pack=False)), logits(packed))
    if not _int8_is_right("int_mm"):
        pytest.skip("weights have to be packed here")
    lies_in_file = lying_in(tmp_path / "small" / "model.safetensors")
    for _, linear in quantizing.quantized(plain):
        assert linear.operator == "int_mm"
        assert lies_in_file(linear.weight)


def test_quantized_folder_is_complete_or_absent(dense, tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("watchword.pipeline.quantizing.files.save", full)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RequestError, match=r"small: cannot be written .No space left"):
        quantize(dense, tmp_path / "small", Recipe("int8"))
    assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(RequestError, match="dense: is there already; expected the name of a new folder"):
        quantize(dense, dense, Recipe("int8"))
    with pytest.raises(RequestError, match="nowhere is no folder"):
        quantize(dense, tmp_path / "nowhere" / "small", Recipe("int8"))


def test_quantizing_a_quantized_folder_is_refused(dense, tmp_path):
    quantize(dense, tmp_path / "small", Recipe("int8"))
    with pytest.raises(ConfigError, match=r"small: is quantized already \(int8\), and 'int4' is asked for"):
        opened(tmp_path / "small", quantize="int4")
    with pytest.raises(
        ConfigError, match="small: quantize: the checkpoint is quantized \\(by 'watchword'\\)"
    ):
        quantize(tmp_path / "small", tmp_path / "smaller", Recipe("int4"))


def test_damaged_quantized_folder_is_refused(dense, tmp_path):
    folder = tmp_path / "small"
    quantize(dense, folder, Recipe("int8"))
    path = folder / "model.safetensors"
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)
    with pytest.raises(CheckpointError, match=r"small: model\.safetensors: not the weights that config"):
        opened(folder)


def changed(folder, **changes) -> None:
    raw = json.loads((folder / "config.json").read_text())
    raw["quantization_config"] |= changes
    (folder / "config.json").write_text(json.dumps(raw))


def test_folder_that_is_not_what_its_config_says_is_refused(dense, tmp_path):
    folder = tmp_path / "small"
    quantize(dense, folder, Recipe("int8"))
    changed(folder, files=None)
    state = load_file(folder / "model.safetensors")
    name = "language_model.model.layers.0.mlp.up_proj"
    packed = state[f"{name}.scale"]
    state[f"{name}.scale"] = torch.zeros(32, 5)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"these do not fit: {name}.scale"):
        opened(folder)
    del state[f"{name}.scale"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"1 of another shape or kind: .*up_proj\.weight is stored as torch\.int8"
    ):
        opened(folder)
    state[f"{name}.scale"], state[f"{name}.zeros"] = packed, packed.clone()
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"1 extra: .*up_proj\.zeros"):
        opened(folder)
    save_file(load_file(dense / "model.safetensors"), folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"config\.json says quantized \(int8\), but no tensor is"):
        opened(folder)
    changed(folder, quant_method="gptq", version=None)
    with pytest.raises(
        ConfigError, match="quantization_config by 'gptq', version None; implemented is watchword"
    ):
        opened(folder)


def as_bitsandbytes(dense, folder, form: str, *, double: bool = False) -> None:
    """A folder as that library writes it: the same codes under its names."""
    folders.video_llava(folder)
    state = load_file(dense / "model.safetensors")
    model = opened(dense)
    for path in quantizing.plan(model, Recipe("int8" if form == "int8" else form)):
        weight = state.pop(f"{path}.weight")
        if form == "int8":
            made = int8_weights(weight)
            state[f"{path}.weight"], state[f"{path}.SCB"] = made["weight"], made["scale"] * 127
            state[f"{path}.weight_format"] = torch.tensor(0, dtype=torch.uint8)
            continue
        made = block_weights(weight, form)
        said = {"quant_type": form, "blocksize": 64, "dtype": "float32", "shape": list(weight.shape)}
        state[f"{path}.weight"], absmax = made["weight"], made["absmax"]
        if double:
            mean, book = absmax.mean(), dynamic_map()
            blocks = torch.nn.functional.pad(absmax - mean, (0, -len(absmax) % 256)).unflatten(0, (-1, 256))
            top = blocks.abs().amax(1)
            near = torch.bucketize(blocks / top[:, None], (book[1:] + book[:-1]) / 2).flatten()
            state[f"{path}.weight.nested_absmax"], state[f"{path}.weight.nested_quant_map"] = (
                top,
                book.clone(),
            )
            absmax = near[: len(absmax)].to(torch.uint8)
            said |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": float(mean)}
        state[f"{path}.weight.absmax"] = absmax
        state[f"{path}.weight.quant_map"] = torch.tensor(CODES[form])
        text = torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)
        state[f"{path}.weight.quant_state.bitsandbytes__{form}"] = text
    save_file(state, folder / "model.safetensors")
    raw = json.loads((folder / "config.json").read_text())
    bits = {"load_in_8bit": form == "int8", "load_in_4bit": form != "int8", "bnb_4bit_quant_type": form}
    raw["quantization_config"] = bits | {"quant_method": "bitsandbytes"}
    (folder / "config.json").write_text(json.dumps(raw))


@pytest.mark.parametrize(("form", "double"), [("nf4", False), ("nf4", True), ("fp4", False), ("int8", False)])
def test_folder_of_bitsandbytes_loads_as_the_dense_one_quantized(dense, tmp_path, form, double):
    (tmp_path / "theirs").mkdir()
    as_bitsandbytes(dense, tmp_path / "theirs", form, double=double)
    theirs = opened(tmp_path / "theirs")
    from watchword.hf.video_llava import VideoLlavaForConditionalGeneration as Documented

    described = {"load_in_8bit": True} if form == "int8" else {
        "load_in_4bit": True, "bnb_4bit_quant_type": form, "bnb_4bit_use_double_quant": double
    }  # fmt: skip
    ours = Documented.from_pretrained(dense, quantization_config=described).state_dict()
    for name, tensor in theirs.state_dict().items():
        assert torch.allclose(tensor.float(), ours[name].float(), rtol=1e-5, atol=1e-6), name


def test_folder_of_bitsandbytes_with_another_code_book_is_refused(dense, tmp_path):
    (tmp_path / "theirs").mkdir()
    as_bitsandbytes(dense, tmp_path / "theirs", "nf4")
    state = load_file(tmp_path / "theirs" / "model.safetensors")
    name = next(name for name in state if name.endswith("quant_map"))
    state[name] = state[name] * 0.5
    save_file(state, tmp_path / "theirs" / "model.safetensors")
    with pytest.raises(ConfigError, match="weight: code book 'nf4' or its values are not those of nf4, fp4"):
        opened(tmp_path / "theirs")


@pytest.mark.parametrize(
    ("form", "changes", "message"),
    [
        ("nf4", {"format": "fp4"}, "quantization_config was changed"),
        ("int4", {"group_size": 32}, "quantization_config was changed"),
        ("nf4", {"format": "int8", "recipe_sha256": None}, "these do not fit"),
        ("int4", {"format": "int8", "recipe_sha256": None}, "these do not fit"),
        ("int8", {"files": ["a"]}, "files is ..a..; expected size and SHA-256 by name"),
        ("int8", {"skip": 5}, "modules to skip are 5; expected a list of names"),
    ],
)
def test_a_changed_description_is_refused(dense, tmp_path, form, changes, message):
    quantize(dense, tmp_path / "small", Recipe(form))
    changed(tmp_path / "small", **changes)
    with pytest.raises((CheckpointError, ConfigError), match=message):
        opened(tmp_path / "small")


@pytest.mark.parametrize("form", ["int8", "nf4"])
def test_weights_of_another_type_are_refused(dense, tmp_path, form):
    folder = tmp_path / "small"
    quantize(dense, folder, Recipe(form))
    changed(folder, files=None)
    state = load_file(folder / "model.safetensors")
    name = "language_model.model.layers.0.mlp.up_proj.weight"
    state[name] = state[name].to(torch.int32)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"these do not fit: {name}"):
        opened(folder)


@pytest.mark.parametrize(
    "lacking", ["weight.absmax", "weight.nested_absmax", "weight.nested_quant_map", "state"]
)
def test_folder_of_bitsandbytes_that_lacks_something_is_refused(dense, tmp_path, lacking):
    folder = tmp_path / "theirs"
    as_bitsandbytes(dense, folder, "nf4", double=True)
    path = folder / "model.safetensors"
    state = load_file(path)
    start = "language_model.model.layers.0.mlp.up_proj."
    if lacking == "state":
        name = f"{start}weight.quant_state.bitsandbytes__nf4"
        state[name] = state[name][:20].clone()
    else:
        del state[start + lacking]
    save_file(state, path)
    with pytest.raises(CheckpointError, match=r"up_proj\.weight: .* in what bitsandbytes says of its scales"):
        opened(folder)


def test_fit_takes_a_folder_that_skips_what_is_elsewhere(dense, tmp_path):
    folder = tmp_path / "theirs"
    as_bitsandbytes(dense, folder, "nf4")
    changed(folder, llm_int8_skip_modules=["model.image_tower", "model.nowhere"])
    found = plan(folder).packed
    assert found
    assert not any(name.startswith("image_tower.") for name in found)


def test_a_place_that_cannot_be_written_is_told_before_the_work(dense, monkeypatch):
    monkeypatch.setattr(
        "watchword.pipeline.quantizing.load_weights", lambda *args, **how: pytest.fail("loaded")
    )
    with pytest.raises(RequestError, match="/proc/small: cannot be written"):
        quantize(dense, "/proc/small", Recipe("int8"))
