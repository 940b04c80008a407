"""A model in parts: some on the host, some on disk. Several cards need them; the moving is accelerate's."""

import builtins

import pytest
import torch

import watchword
from tests import folders
from watchword.errors import ConfigError, MissingExtra, RequestError
from watchword.models import build, mapped

PICTURE = torch.arange(30 * 30 * 3).reshape(30, 30, 3).to(torch.uint8)
MADE = {
    "llava": folders.video_llava,
    "llama": folders.instructblip,
    "opt": lambda folder: folders.instructblip(folder, text="opt"),
    "t5": lambda folder: folders.instructblip(folder, text="t5"),
}


@pytest.fixture(autouse=True)
def _quiet_imports():
    pytest.importorskip("accelerate")


@pytest.mark.parametrize("kind", MADE)
def test_a_model_mostly_on_disk_answers_as_in_memory(kind, tmp_path):
    folder = MADE[kind](tmp_path / "model")
    bridge = "multi_modal_projector" if kind == "llava" else "language_projection"
    parts = {"": "disk", bridge: "cpu", "language_model.lm_head": "disk"}
    plain = watchword.load(folder)
    away = watchword.load(folder, device_map=parts, offload_folder=tmp_path / "disk")
    found, wanted = (model.ask(PICTURE, "What?", max_tokens=3).texts for model in (away, plain))
    assert found == wanted
    here = {name for name, parameter in away.model.named_parameters() if not parameter.is_meta}
    assert {name.partition(".")[0] for name in here} <= {bridge, "query_tokens"}
    assert away.device == torch.device("cpu")


def test_documented_classes_take_maps(tmp_path):
    folder = folders.video_llava(tmp_path / "model")
    plain = watchword.VideoLlavaForConditionalGeneration.from_pretrained(folder)
    size = sum(parameter.nbytes for parameter in plain.parameters())
    away = watchword.VideoLlavaForConditionalGeneration.from_pretrained(
        folder, device_map="auto", max_memory={"cpu": int(0.9 * size)}, offload_folder=tmp_path / "disk"
    )
    assert set(away.hf_device_map.values()) == {"cpu", "disk"}
    ids = torch.tensor([[1, 5, 9, 7]])
    torch.testing.assert_close(away(ids).logits, plain(ids).logits, rtol=0, atol=0)
    embeds = plain.get_input_embeddings()(ids).detach()
    torch.testing.assert_close(away(inputs_embeds=embeds).logits, plain(ids).logits, rtol=0, atol=0)
    assert away.generate(ids, max_new_tokens=4).tolist() == plain.generate(ids, max_new_tokens=4).tolist()
    assert away.device == torch.device("cpu")
    with pytest.raises(
        RequestError, match=r"save_pretrained: \d+ tensors are offloaded, the first is 'image_tower"
    ):
        away.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}, torch.device("cpu"), "auto", "sequential"])
def test_one_device_needs_no_accelerate(device_map, tmp_path, without_accelerate):
    folder = folders.video_llava(tmp_path)
    model = watchword.VideoLlavaForConditionalGeneration.from_pretrained(folder, device_map=device_map)
    assert list(model.hf_device_map) == [""]
    assert watchword.load(folder, device_map=device_map).device.type == model.device.type


@pytest.fixture
def without_accelerate(monkeypatch):
    """As if it were not installed."""
    real = builtins.__import__

    def refuse(name, *rest, **more):
        if name.partition(".")[0] == "accelerate":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)


def test_several_devices_need_accelerate(tmp_path, without_accelerate):
    folder = folders.video_llava(tmp_path / "model")
    with pytest.raises(
        MissingExtra, match=r"several devices: needs accelerate, .* 'watchword\[accelerate\]'"
    ):
        watchword.load(folder, device_map={"": "cpu", "language_model": "disk"}, offload_folder=tmp_path)
    with pytest.raises(MissingExtra, match="device_map='auto' for a model that one card does not hold"):
        watchword.load(folder, device_map="auto", max_memory={"cpu": "1GB"})


@pytest.mark.parametrize(
    ("room", "message"),
    [
        (
            {7: "1GiB", "cpu": "1GiB"},
            r"max_memory: 7 is neither 'cpu' nor the number of one of the \d+ cards",
        ),
        ({"gpu0": "1GiB"}, "max_memory: 'gpu0' is neither 'cpu' nor"),
        ({"cpu": "lots"}, "max_memory: 'lots' for 'cpu'; expected bytes, or text such as '20GiB'"),
        ({"cpu": -4}, "max_memory: -4 for 'cpu'; expected bytes"),
    ],
)
def test_room_for_nothing_that_is_here_is_refused(tmp_path, room, message):
    pytest.importorskip("accelerate")
    with pytest.raises(ConfigError, match=message):
        watchword.load(folders.video_llava(tmp_path), device_map="auto", max_memory=room)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"": "cpu", "tower": "disk"}, "no part of .* is called 'tower'; .* image_tower, language_model"),
        ({"language_model": "cpu"}, r"\d+ tensors of .* have no device, the first is 'image_tower\."),
        ({"": "cpu", "language_model.model.layers.0.mlp": "disk"},
         r"'language_model.model.layers.0.mlp' is inside 'language_model.model.layers.0', and a LlamaLayer"),
        ({"": "cpu", "video_tower": "cuda:7"}, "device_map 'cuda:7': not usable here"),
        ({"": "cpu", "video_tower": "disk"}, "1 of 2 parts are to be on disk, and offload_folder is not"),
        ("cuda:7", "device_map 'cuda:7': not usable here"),
        ("fast", "device_map 'fast': not usable here"),
    ],
)  # fmt: skip
def test_maps_that_do_not_fit_are_refused(parts, message, tmp_path):
    folder = folders.video_llava(tmp_path)
    with pytest.raises(ConfigError, match=message):
        watchword.VideoLlavaForConditionalGeneration.from_pretrained(folder, device_map=parts)


def test_all_on_disk_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="all parts are to be on disk; give at least one of them a device"):
        watchword.load(folders.video_llava(tmp_path), device_map={"": "disk"}, offload_folder=tmp_path / "x")


def test_tied_weights_on_two_devices_are_refused(tmp_path):
    folder = folders.instructblip(tmp_path, text="opt")
    with pytest.raises(
        ConfigError,
        match=r"'language_model.lm_head.weight' has the values of .*, but they go to disk and cpu",
    ):
        watchword.load(
            folder, device_map={"": "cpu", "language_model.lm_head": "disk"}, offload_folder=tmp_path
        )


def test_names_of_whole_parts_are_those_of_the_models(tmp_path):
    kinds = set()
    for kind, make in MADE.items():
        config = watchword.load(make(tmp_path / kind)).model.config
        kinds |= {type(module).__name__ for module in build.build(config).modules()}
    assert set(mapped.WHOLE) - kinds == {"PostNormLayer"}  # OPT-350m's
    assert set(mapped.READ_BY_OWNERS) <= kinds


@pytest.mark.parametrize(
    ("parts", "spread"),
    [
        ({"": "cpu"}, False),
        ({"a": "cuda:0", "b": "cpu", "c": "disk"}, False),
        ({"a": "cuda:0", "b": "cuda:1"}, True),
    ],
)
def test_keys_and_values_are_spread_over_cards_only(parts, spread):
    assert mapped.Homes(torch.device("cpu"), parts).spread is spread
