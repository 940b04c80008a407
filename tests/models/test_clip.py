"""CLIP's tower: which layers run, what sizes and layers are refused, laws of batches and backends."""

import pytest
import torch
from torch import nn

from watchword.config import CLIPVisionConfig
from watchword.errors import ConfigError, RequestError
from watchword.models.clip import ClipVision, initialise
from watchword.nn.trace import Trace


def tower(**fields):
    known = {"hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 3}
    model = ClipVision(CLIPVisionConfig(**known | {"image_size": 8, "patch_size": 4} | fields)).eval()
    initialise(model)
    return model


class Forbidden(nn.Module):
    def forward(self, *args):
        raise AssertionError("this layer was not to run")


def test_features_have_a_row_per_patch_and_the_class_token():
    features = tower().features(torch.randn(2, 3, 8, 8), -2)
    assert features.shape == (2, 5, 12)


def test_features_of_several_layers_stand_side_by_side():
    model, pixels = tower(), torch.randn(2, 3, 8, 8)
    both = model.features(pixels, [-1, 0])
    assert torch.equal(both[..., :12], model.features(pixels, 3))
    assert torch.equal(both[..., 12:], model.features(pixels, -4))


def test_layers_behind_the_chosen_one_do_not_run():
    model, pixels = tower(), torch.randn(1, 3, 8, 8)
    whole = model.features(pixels, [1, -2])
    model.vision_model.encoder.layers[2] = Forbidden()
    assert torch.equal(model.features(pixels, [1, -2]), whole)
    with pytest.raises(AssertionError, match="not to run"):
        model.features(pixels, 3)


def test_trace_holds_the_layers_that_ran():
    trace = Trace.asked(True, True)
    tower().features(torch.randn(1, 3, 8, 8), -2, trace=trace)
    assert len(trace.hidden_states) == 3
    assert [w.shape for w in trace.attentions] == [(1, 3, 5, 5)] * 2


def test_rows_do_not_see_each_other():
    model, pixels = tower(), torch.randn(3, 3, 8, 8)
    alone = torch.cat([model.features(one[None], -1) for one in pixels])
    torch.testing.assert_close(model.features(pixels, -1), alone)


def test_unused_depth_gets_no_gradient():
    model = tower()
    model.features(torch.randn(1, 3, 8, 8), -2).sum().backward()
    layers = model.vision_model.encoder.layers
    assert layers[1].mlp.fc1.weight.grad is not None
    assert layers[2].mlp.fc1.weight.grad is None
    assert model.vision_model.post_layernorm.weight.grad is None


def test_names_are_those_of_the_published_files():
    names = set(tower(num_hidden_layers=1).state_dict())
    layer = "vision_model.encoder.layers.0."
    linear = [f"self_attn.{p}_proj" for p in "qkv"] + ["self_attn.out_proj", "mlp.fc1", "mlp.fc2"]
    pairs = [layer + part for part in (*linear, "layer_norm1", "layer_norm2")]
    pairs += ["vision_model.pre_layrnorm", "vision_model.post_layernorm"]
    single = ["class_embedding", "patch_embedding.weight", "position_embedding.weight"]
    assert names == {f"{pair}.{kind}" for pair in pairs for kind in ("weight", "bias")} | {
        f"vision_model.embeddings.{name}" for name in single
    }


@pytest.mark.parametrize(("height", "width"), [(12, 8), (8, 4), (9, 9)])
def test_another_size_is_refused(height, width):
    with pytest.raises(
        RequestError, match=rf"Input image size \({height}\*{width}\) doesn't match model \(8\*8\)"
    ):
        tower().features(torch.randn(1, 3, height, width), -1)


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (1, 1, 8, 8)])
def test_another_layout_is_refused(shape):
    with pytest.raises(
        RequestError, match=rf"got shape \({shape[0]}, {shape[1]}, 8, 8\).*\(pictures, 3, height"
    ):
        tower().features(torch.randn(shape), -1)


@pytest.mark.parametrize("layer", [4, -5, [1, 7]])
def test_a_layer_that_does_not_exist_is_refused(layer):
    bad = layer if isinstance(layer, int) else layer[-1]
    with pytest.raises(
        RequestError, match=rf"vision_feature_layer {bad}: the tower has 3 layers.*0 to 3 \(or -4 to -1\)"
    ):
        tower().features(torch.randn(1, 3, 8, 8), layer)


def test_no_layer_is_refused():
    with pytest.raises(RequestError, match=r"vision_feature_layer \[\]: names no layer"):
        tower().features(torch.randn(1, 3, 8, 8), [])


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ConfigError, match="hidden_size 12 is not a multiple of num_attention_heads 5"):
        tower(num_attention_heads=5)
