from types import SimpleNamespace

import pytest
import torch

from watchword.errors import ConfigError
from watchword.nn import devices


@pytest.mark.parametrize("asked", ["cpu", torch.device("cpu")])
def test_a_device_that_is_here_is_taken(asked):
    assert devices.chosen_device(asked) == torch.device("cpu")


@pytest.mark.parametrize("asked", ["gpu", "cuda:99", "", None, 99])
def test_devices_that_are_not_here_are_refused(asked):
    with pytest.raises(
        ConfigError,
        match=f"device_map '{asked}': not usable here .* use 'auto', or one that `watchword doctor` lists",
    ):
        devices.chosen_device(asked, "device_map")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_without_a_card_is_refused():
    with pytest.raises(ConfigError, match="device 'cuda': not usable here"):
        devices.chosen_device("cuda")


def test_rows_tell_of_every_device(monkeypatch):
    rows = dict(devices.device_rows())
    assert f"{torch.get_num_threads()} threads" in rows["cpu"]
    assert "mps" in rows
    card = SimpleNamespace(name="Card", major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (3 * 2**30, 8 * 2**30))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    rows = dict(devices.device_rows())
    assert rows["cuda:1"].startswith("Card, capability 9.0, float16 only, 3.0 of 8.0 GiB free")


@pytest.mark.parametrize(
    ("built", "found"), [(None, "built without CUDA"), ("13.0", "built for CUDA 13.0, but")]
)
def test_rows_say_why_there_is_no_card(monkeypatch, built, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    assert found in dict(devices.device_rows())["cuda"]
