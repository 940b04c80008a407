import json
import shutil

import pytest
import torch

import watchword
from tests import folders
from watchword.errors import CheckpointError, ConfigError, MissingExtra, RequestError
from watchword.media import PixelSpec
from watchword.nn.devices import chosen_device
from watchword.pipeline import opening
from watchword.pipeline.settings import generation_settings, pixel_spec


@pytest.mark.parametrize(
    ("stored", "asked", "found"),
    [
        (torch.float32, "auto", torch.float32), (torch.bfloat16, "auto", torch.bfloat16),
        (torch.float16, "auto", torch.bfloat16), (torch.float16, "float16", torch.float16),
        (torch.float32, torch.bfloat16, torch.bfloat16), (torch.bfloat16, "torch.float32", torch.float32),
    ],
)  # fmt: skip
def test_load_takes_the_stored_type_unless_told(tmp_path, stored, asked, found):
    model = watchword.load(folders.video_llava(tmp_path, dtype=stored), dtype=asked, device="cpu")
    assert {p.dtype for p in model.model.parameters()} == {found}
    assert model.dtype == found


def test_load_gives_a_model_that_answers_in_every_type(tmp_path):
    folder = folders.video_llava(tmp_path)
    for dtype in ("float32", "bfloat16", "float16"):
        answer = watchword.load(folder, dtype=dtype).ask(
            torch.zeros(30, 30, 3, dtype=torch.uint8), "What?", max_tokens=3
        )
        assert answer.tokens["answer"] == 3


def test_load_tells_progress(checkpoint):
    seen = []
    watchword.load(checkpoint("blip"), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]


def test_load_is_in_eval_mode_with_the_backend_asked_for(checkpoint):
    model = watchword.load(checkpoint("llava"), attn_implementation="eager").model
    assert not model.training
    assert model.language_model.model.layers[0].self_attn.backend == "eager"


def test_load_refuses_unknown_backends(checkpoint):
    with pytest.raises(ConfigError, match="attn_implementation 'fast': unknown; use one of eager, sdpa"):
        watchword.load(checkpoint("llava"), attn_implementation="fast")
    with pytest.raises(MissingExtra, match="flash_attention_2"):
        watchword.load(checkpoint("llava"), attn_implementation="flash_attention_2")


def test_load_refuses_flash_attention_without_a_gpu(monkeypatch):
    monkeypatch.setattr(opening, "import_flash", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        MissingExtra, match="'flash_attention_2': needs an NVIDIA GPU, found none; use 'sdpa'"
    ):
        opening.check_backend("flash_attention_2")


@pytest.mark.parametrize("dtype", ["int8", "float3", "nn"])
def test_load_refuses_types_that_are_none(checkpoint, dtype):
    with pytest.raises(ConfigError, match=f"dtype {dtype!r}: not a floating type"):
        watchword.load(checkpoint("llava"), dtype=dtype)


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_load_refuses_devices_that_are_not_there(checkpoint, device):
    with pytest.raises(ConfigError, match=f"device {device!r}: not usable here"):
        watchword.load(checkpoint("llava"), device=device)


def test_device_auto_prefers_cuda_then_mps(monkeypatch):
    for cuda, mps, wanted in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=cuda: there)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda there=mps: there)
        assert chosen_device("auto").type == wanted


def test_load_refuses_what_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="no such folder"):
        watchword.load(tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"no config\.json; expected a checkpoint folder"):
        watchword.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "blip-2"}')
    with pytest.raises(
        ConfigError, match="model_type is 'blip-2', expected one of instructblip, instructblipvideo, v"
    ):
        watchword.load(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"config\.json: holds a JSON list, expected settings by name"):
        watchword.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: not JSON"):
        watchword.load(tmp_path)


def test_load_refuses_an_unknown_text_model(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("llava"), tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["model_type"] = "gpt_neox"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="'gpt_neox'"):
        watchword.load(folder)


def test_load_says_when_the_embedded_model_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "EMBEDDED", tmp_path / "none")
    with pytest.raises(CheckpointError, match="none: the embedded model is missing from this installation"):
        watchword.load()


def test_load_names_the_embedded_model(checkpoint, monkeypatch):
    monkeypatch.setattr(opening, "EMBEDDED", checkpoint("llava"))
    model = watchword.load()
    assert (model.name, model.embedded) == ("the embedded model", True)
    assert not watchword.load(checkpoint("blip")).embedded


def test_load_refuses_placeholders_that_the_tokenizer_lacks(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("llava"), tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    config["image_token_index"] = 99_999
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ConfigError, match=r"image_token_index 99999 is no token of the tokenizer, which has \d+"
    ):
        watchword.load(folder).ask(torch.zeros(30, 30, 3, dtype=torch.uint8), "What?")


def test_load_refuses_settings_of_generation_that_are_not_implemented(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("llava"), tmp_path / "copy")
    (folder / "generation_config.json").write_text('{"penalty_alpha": 0.6}')
    with pytest.raises(RequestError, match=r"penalty_alpha=0\.6 is not implemented"):
        watchword.load(folder)


def test_end_of_the_tokenizer_ends_answers_too(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("llava"), tmp_path / "copy")
    (folder / "generation_config.json").write_text('{"eos_token_id": 7}')
    assert watchword.load(folder).settings["eos_token_id"] == [7, 2]


def test_generation_settings_come_from_where_the_family_reads_them(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("blip"), tmp_path / "copy")
    (folder / "generation_config.json").write_text('{"num_beams": 5}')
    config = watchword.InstructBlipConfig.from_pretrained(folder)
    config.text_config.repetition_penalty = 1.5
    assert generation_settings(folder, config, own_file=True) == {"num_beams": 5}
    inner = generation_settings(folder, config, own_file=False)
    assert (inner["repetition_penalty"], inner["eos_token_id"], "num_beams" in inner) == (1.5, 2, False)


SQUARE = {"height": 20, "width": 20}
DEFAULTS = {"size": SQUARE}


@pytest.mark.parametrize(
    ("files", "image", "video"),
    [
        ({"preprocessor_config.json": {"size": {"height": 1, "width": 1}}}, 1, 1),
        ({"video_preprocessor_config.json": {"size": {"height": 2, "width": 2}}}, 2, 2),
        ({"preprocessor_config.json": {"size": {"height": 1, "width": 1}},
          "video_preprocessor_config.json": {"size": {"height": 2, "width": 2}}}, 1, 2),
        ({"processor_config.json": {"image_processor": {"size": {"height": 3, "width": 3}},
                                    "video_processor": {"size": {"height": 4, "width": 4}}}}, 3, 4),
        ({"processor_config.json": {"a": 3}, "preprocessor_config.json": {"size": None}}, 20, 20),
    ],
)  # fmt: skip
def test_pixel_settings_are_found_in_every_layout(tmp_path, files, image, video):
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    specs = pixel_spec(tmp_path, "pillow", DEFAULTS), pixel_spec(tmp_path, "tensor", DEFAULTS)
    assert all(isinstance(spec, PixelSpec) for spec in specs)
    assert [spec.size.height for spec in specs] == [image, video]
    assert [spec.path for spec in specs] == ["pillow", "tensor"]


def test_pixel_settings_missing(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"no settings for pixels; expected preprocessor_config\.json or one of"
    ):
        pixel_spec(tmp_path, "pillow", DEFAULTS)
