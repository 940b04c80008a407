import pytest
import torch

import watchword
from watchword.errors import ConfigError
from watchword.generation.graphs import Stepper
from watchword.pipeline import placing

PICTURE = torch.arange(30 * 30 * 3).reshape(30, 30, 3).to(torch.uint8)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"parallel": "pipeline"}, "parallel 'pipeline': not implemented; expected 'tensor'"),
        ({"parallel": "tensor", "device_map": "auto"}, "parallel='tensor' and device_map: both say where"),
        (
            {"parallel": "tensor", "quantize": "int8"},
            "parallel='tensor' and quantize: not implemented together",
        ),
        (
            {"device_map": {"": "cpu", "video_tower": "disk"}, "offload_folder": "away", "quantize": "int8"},
            "quantize 'int8' on several devices: not implemented",
        ),
        ({"device_map": "auto", "adapter": "there"}, "device_map and adapter: not implemented together"),
        ({"device_map": "auto", "compile": True}, "device_map and compile: not implemented together"),
        ({"device_map": "auto", "device": "cpu"}, "device 'cpu' and device_map: both say where"),
        ({"compile": True, "adapter": "there"}, "compile and adapter: recorded steps know no adapters"),
        ({"compile": "fast"}, "compile 'fast': expected True, 'graph' or False"),
        ({"compile": True, "device": "cpu"}, "compile: device 'cpu'; expected a CUDA device"),
        ({"device": "meta"}, "device 'meta': not usable here .it holds no values"),
        ({"device_map": {"": "meta"}}, "device_map 'meta': not usable here"),
        ({"max_memory": {"cpu": 1}}, "max_memory with device_map .*: only spreading asks for it"),
    ],
)
def test_load_refuses_what_contradicts_itself(checkpoint, tmp_path, monkeypatch, more, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        watchword.load(checkpoint("llava"), **more)


def test_load_names_the_nearest_argument(checkpoint):
    with pytest.raises(TypeError, match="load: unknown argument 'devicemap'; did you mean 'device_map'"):
        watchword.load(checkpoint("llava"), devicemap="auto")


def test_compile_answers_as_without(checkpoint, monkeypatch):
    monkeypatch.setattr(placing, "recorder", lambda device, compiled=True: lambda run: run)
    plain, fixed = watchword.load(checkpoint("llava")), watchword.load(checkpoint("llava"), compile="graph")
    assert isinstance(fixed.engine._decoder, Stepper)
    for way in ({}, {"num_beams": 3}, {"temperature": 1.0, "seed": 2, "n": 2}):
        texts = [model.ask(PICTURE, "What?", max_tokens=6, **way).texts for model in (plain, fixed)]
        assert texts[0] == texts[1]


def test_compile_refuses_a_text_model_with_an_encoder(checkpoint, monkeypatch):
    monkeypatch.setattr(placing, "recorder", lambda device, compiled=True: lambda run: run)
    with pytest.raises(ConfigError, match=r"compile: the text model has an encoder \(T5\)"):
        watchword.load(checkpoint("blip-t5"), compile=True)
