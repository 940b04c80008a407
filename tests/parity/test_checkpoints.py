"""Folders written by the reference in every spelling and format, read by us; and the other way round."""

import json

import pytest
import torch
import transformers as ref
from safetensors.torch import load_file, save_file

import watchword
from tests.parity import tiny
from watchword.errors import CheckpointError
from watchword.models import layouts
from watchword.weights import files
from watchword.weights.names import SAME, respell, spell

BLIP_TEXTS = ("llama", "mistral", "opt-pre", "t5-gated", "t5-relu")
FORMATS = {
    "single": {},
    "sharded": {"max_shard_size": "60KB"},
    "bin": {"safe_serialization": False},
    "sharded-bin": {"safe_serialization": False, "max_shard_size": "60KB"},
}
TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def rewrite(folder, change) -> None:
    """Give the tensors of a single-file folder other names."""
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def in_memory(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The reference's Video-LLaVA state under our names."""
    return {new: state[old] for new, (old,) in spell(state, layouts.NESTED).sources.items()}


def assert_holds(model, expected: dict[str, torch.Tensor]) -> None:
    """All the model's tensors are these, none is left over."""
    state = model.state_dict()
    assert set(state) == set(expected)
    for name, tensor in expected.items():
        assert state[name].dtype == tensor.dtype, name
        assert torch.equal(state[name], tensor), name


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("form", FORMATS)
def test_video_llava_folder_is_read_exactly(tmp_path, form, dtype):
    theirs = tiny.video_llava("llama").to(TYPES[dtype])
    theirs.save_pretrained(tmp_path, **FORMATS[form])
    ours = watchword.VideoLlavaForConditionalGeneration.from_pretrained(tmp_path, dtype="auto")
    assert_holds(ours, in_memory(theirs.state_dict()))


@pytest.mark.parametrize("text", BLIP_TEXTS)
@pytest.mark.parametrize("form", FORMATS)
def test_instructblip_folder_is_read_exactly(tmp_path, form, text):
    theirs = tiny.instructblip(text)
    theirs.save_pretrained(tmp_path, **FORMATS[form])
    ours = watchword.InstructBlipForConditionalGeneration.from_pretrained(tmp_path)
    assert_holds(ours, theirs.state_dict())


@pytest.mark.parametrize("dtype", [*TYPES, None])
@pytest.mark.parametrize("stored", TYPES)
@pytest.mark.parametrize("text", ["llama", "t5-gated"])
def test_types_in_memory_are_those_of_the_reference(tmp_path, text, stored, dtype):
    tiny.instructblip(text).to(TYPES[stored]).save_pretrained(tmp_path)
    asked = {} if dtype is None else {"dtype": TYPES[dtype]}
    theirs = ref.InstructBlipForConditionalGeneration.from_pretrained(tmp_path, **asked)
    ours = watchword.InstructBlipForConditionalGeneration.from_pretrained(tmp_path, **asked)
    assert_holds(ours, theirs.state_dict())


@pytest.mark.parametrize("spelling", ["nested", "nested, flat towers"])
@pytest.mark.parametrize("text", ["llama", "mistral"])
def test_video_llava_newer_spellings_are_read(tmp_path, text, spelling):
    theirs = tiny.video_llava(text)
    theirs.save_pretrained(tmp_path)
    tables = {"nested": layouts.NESTED, "nested, flat towers": layouts.FLAT_TOWERS}
    rewrite(tmp_path, lambda state: respell(state, tables[spelling]))
    level = "" if "flat" in spelling else "vision_model."
    assert f"model.image_tower.{level}pre_layrnorm.weight" in files.open_weights(tmp_path).entries
    ours = watchword.VideoLlavaForConditionalGeneration.from_pretrained(tmp_path)
    assert_holds(ours, in_memory(theirs.state_dict()))


def test_every_spelling_is_undone_exactly(tmp_path):
    """rename ∘ inverse = identity on every name of every layout."""
    llava = in_memory(tiny.video_llava("llama").state_dict())
    cases = [(table, llava) for table in (SAME, layouts.NESTED, layouts.FLAT_TOWERS)]
    for text in ("llama", "opt-pre"):
        state = {k: v for k, v in tiny.instructblip(text).state_dict().items() if "lm_head" not in k}
        cases += [(table, state) for table in (SAME, layouts.HEADLESS)]
    for table, state in cases:
        disk = respell(state, table)
        spelling = spell(disk, table)
        assert not spelling.unknown
        assert {new: disk[old].data_ptr() for new, (old,) in spelling.sources.items()} == {
            name: tensor.data_ptr() for name, tensor in state.items()
        }


@pytest.mark.parametrize("video", [False, True])
@pytest.mark.parametrize("text", BLIP_TEXTS)
def test_instructblip_base_is_read_from_both_kinds_of_folder_and_saved_alike(tmp_path, text, video):
    kind = "InstructBlipVideo" if video else "InstructBlip"
    theirs = tiny.instructblip(text, video)
    theirs.save_pretrained(tmp_path / "whole")
    cls = getattr(watchword, f"{kind}Model")
    from_whole = cls.from_pretrained(tmp_path / "whole")
    assert_holds(from_whole, {k: v for k, v in theirs.state_dict().items() if "lm_head" not in k})

    from_whole.save_pretrained(tmp_path / "base")
    base, report = getattr(ref, f"{kind}Model").from_pretrained(tmp_path / "base", output_loading_info=True)
    assert not any(report[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    base.save_pretrained(tmp_path / "again")
    assert_holds(cls.from_pretrained(tmp_path / "again"), from_whole.state_dict())


@pytest.mark.parametrize("text", ["llama", "mistral"])
def test_video_llava_base_is_read_and_saved(tmp_path, text):
    theirs = tiny.video_llava(text)
    theirs.save_pretrained(tmp_path / "whole")
    ours = watchword.VideoLlavaModel.from_pretrained(tmp_path / "whole")
    assert_holds(ours, {k: v for k, v in in_memory(theirs.state_dict()).items() if "lm_head" not in k})
    ours.save_pretrained(tmp_path / "base")
    base, report = ref.VideoLlavaModel.from_pretrained(tmp_path / "base", output_loading_info=True)
    assert not any(report[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    for name, tensor in theirs.model.state_dict().items():
        assert torch.equal(base.state_dict()[name], tensor), name


@pytest.mark.parametrize("kind", ["InstructBlip", "InstructBlipVideo"])
@pytest.mark.parametrize(("part", "prefix"), [("VisionModel", "vision_model."), ("QFormerModel", "qformer.")])
def test_parts_are_read_from_whole_folders_and_their_own(tmp_path, kind, part, prefix):
    theirs = tiny.instructblip("llama", kind == "InstructBlipVideo")
    theirs.save_pretrained(tmp_path / "whole")
    getattr(theirs, prefix[:-1]).save_pretrained(tmp_path / "part")
    expected = {k.removeprefix(prefix): v for k, v in theirs.state_dict().items() if k.startswith(prefix)}
    for folder in ("whole", "part"):
        assert_holds(getattr(watchword, kind + part).from_pretrained(tmp_path / folder), expected)
    ours = getattr(watchword, kind + part).from_pretrained(tmp_path / "whole")
    ours.save_pretrained(tmp_path / "saved")
    back = getattr(ref, kind + part).from_pretrained(tmp_path / "saved")
    assert_holds(back, expected)


@pytest.mark.parametrize("video", [False, True])
@pytest.mark.parametrize("text", BLIP_TEXTS)
@pytest.mark.parametrize("dtype", TYPES)
def test_instructblip_saved_by_us_equals_what_the_reference_saves(tmp_path, text, video, dtype):
    theirs = tiny.instructblip(text, video).to(TYPES[dtype])
    theirs.save_pretrained(tmp_path / "theirs")
    cls = getattr(watchword, type(theirs).__name__)
    ours = cls.from_pretrained(tmp_path / "theirs", dtype=TYPES[dtype])
    ours.save_pretrained(tmp_path / "ours", max_shard_size="50KB")
    written = {n: s.read(n) for s in files.open_weights(tmp_path / "ours").shards() for n in s.names}
    expected = load_file(tmp_path / "theirs" / "model.safetensors")
    assert set(written) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(written[name].to(tensor.dtype), tensor), name


def test_t5_written_by_transformers_5_keeps_its_own_head(tmp_path):
    theirs = tiny.instructblip("t5-gated")
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"] |= {"tie_word_embeddings": True, "scale_decoder_outputs": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours = watchword.InstructBlipForConditionalGeneration.from_pretrained(tmp_path)
    assert_holds(ours, theirs.state_dict())
    inputs = {
        "pixel_values": torch.randn(1, 3, 28, 28),
        "qformer_input_ids": torch.randint(1, 60, (1, 4)),
        "input_ids": torch.tensor([[tiny.IMAGE] * tiny.QUERIES + [5, 6, 1]]),
        "labels": torch.tensor([[7, 8, 1]]),
    }
    tiny.agree(ours(**inputs).logits, theirs(**inputs).logits)


def test_computed_buffers_in_old_files_are_left(tmp_path):
    theirs = tiny.video_llava("llama")
    theirs.save_pretrained(tmp_path)
    old = {
        "language_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(3),
        "image_tower.vision_model.embeddings.position_ids": torch.arange(5),
    }
    rewrite(tmp_path, lambda state: state | old)
    ours = watchword.VideoLlavaForConditionalGeneration.from_pretrained(tmp_path)
    assert_holds(ours, in_memory(theirs.state_dict()))


def broken(tmp_path, change):
    tiny.video_llava("llama").save_pretrained(tmp_path)
    rewrite(tmp_path, change)
    return watchword.VideoLlavaForConditionalGeneration.from_pretrained(tmp_path)


def test_missing_weight_is_named(tmp_path):
    name = "image_tower.vision_model.pre_layrnorm.weight"
    with pytest.raises(CheckpointError, match=f"do not fit VideoLlavaForCond.*; 1 missing: {name};"):
        broken(tmp_path, lambda state: {k: v for k, v in state.items() if k != name})


def test_extra_weight_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"1 extra: language_model\.model\.layers\.9\.x;"):
        broken(tmp_path, lambda state: state | {"language_model.model.layers.9.x": torch.ones(1)})


def test_wrong_shape_is_named_with_both_shapes(tmp_path):
    name = "multi_modal_projector.linear_1.bias"
    with pytest.raises(CheckpointError, match=rf"{name} is \(7,\) in the files and \(24,\) in the model;"):
        broken(tmp_path, lambda state: state | {name: torch.ones(7)})


def test_weights_of_another_family_are_refused(tmp_path):
    tiny.video_llava("llama").save_pretrained(tmp_path / "llava")
    theirs = tiny.instructblip("llama")
    theirs.save_pretrained(tmp_path / "blip")
    (tmp_path / "blip" / "model.safetensors").rename(tmp_path / "llava" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"do not fit VideoLlavaForCond.*; \d+ missing: image_"):
        watchword.VideoLlavaForConditionalGeneration.from_pretrained(tmp_path / "llava")
