"""EVA's tower: sizes, interpolation, the twice-normed class token, pixels that are no numbers."""

import pytest
import torch

from watchword.config import InstructBlipVisionConfig
from watchword.errors import ConfigError, RequestError
from watchword.models.eva import EvaVision, initialise
from watchword.nn.trace import Trace


def tower(backend="sdpa", **fields):
    known = {"hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 3}
    sizes = {"image_size": 8, "patch_size": 4, "initializer_range": 0.2}
    model = EvaVision(InstructBlipVisionConfig(**known | sizes | fields), backend=backend).eval()
    initialise(model)
    return model


def test_features_are_normed_and_the_pooled_one_twice():
    model = tower()
    torch.nn.init.normal_(model.post_layernorm.weight)
    trace = Trace.asked(True, False)
    last, pooled = model.features(torch.randn(2, 3, 8, 8), trace=trace)
    assert last.shape == (2, 5, 12)
    assert torch.equal(last, model.post_layernorm(trace.hidden_states[-1]))
    assert torch.equal(pooled, model.post_layernorm(last[:, 0]))
    assert not torch.allclose(pooled, last[:, 0])


@pytest.mark.parametrize("size", [(8, 8), (16, 4), (5, 21)])
def test_rows_do_not_see_each_other(size):
    model, pixels = tower(), torch.randn(3, 3, *size)
    alone = torch.cat([model.features(one[None], interpolate=True)[0] for one in pixels])
    torch.testing.assert_close(model.features(pixels, interpolate=True)[0], alone)


def test_interpolation_changes_nothing_at_the_own_size():
    model, pixels = tower(), torch.randn(1, 3, 8, 8)
    assert torch.equal(model.features(pixels, interpolate=True)[0], model.features(pixels)[0])


def test_interpolated_places_follow_a_slope_and_leave_the_class_token_alone():
    embeddings = tower(image_size=32).embeddings
    down = torch.arange(8.0)[:, None].expand(8, 8).flatten()  # grows from row to row, level along a row
    with torch.no_grad():
        embeddings.position_embedding[0, 1:] = down[:, None]
        table = embeddings.places(64, 16, True)
    assert torch.equal(table[:, 0], embeddings.position_embedding[:, 0])
    grid = table[0, 1:, 0].unflatten(0, (16, 4))
    assert torch.allclose(grid, grid[:, :1].expand(16, 4), atol=1e-6)
    assert torch.allclose(grid + grid.flip(0), torch.full((16, 4), 7.0), atol=1e-5)
    assert (grid[:, 0].diff() > 0).all()


@pytest.mark.parametrize(("height", "width"), [(4, 8), (16, 4), (9, 9)])
def test_another_size_is_refused_unless_interpolated(height, width):
    pixels = torch.randn(1, 3, height, width)
    with pytest.raises(
        RequestError, match=rf"Input image size \({height}\*{width}\) doesn't match model \(8\*8\)"
    ):
        tower().features(pixels)
    assert tower().features(pixels, interpolate=True)[0].shape[1] == (height // 4) * (width // 4) + 1


def test_a_picture_below_one_patch_is_refused():
    with pytest.raises(RequestError, match=r"\(3\*9\) is below one patch of 4\*4"):
        tower().features(torch.randn(1, 3, 3, 9), interpolate=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pixels_that_are_no_numbers_are_refused(value):
    pixels = torch.randn(2, 3, 8, 8)
    pixels[1, 0, :3, 0] = value
    with pytest.raises(RequestError, match="pixel_values: 3 of 384 values are NaN or infinite"):
        tower().features(pixels)


def test_another_layout_is_refused():
    with pytest.raises(
        RequestError, match=r"got shape \(1, 4, 8, 8\); expected \(pictures, 3, height, width\)"
    ):
        tower().features(torch.randn(1, 4, 8, 8))


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ConfigError, match="hidden_size 12 is not a multiple of num_attention_heads 8"):
        tower(num_attention_heads=8)


def test_backends_agree_and_weights_are_there_under_any():
    eager, fused = tower("eager"), tower("sdpa")
    fused.load_state_dict(eager.state_dict())
    pixels, trace = torch.randn(2, 3, 8, 8), Trace.asked(False, True)
    torch.testing.assert_close(eager.features(pixels)[0], fused.features(pixels, trace=trace)[0])
    torch.testing.assert_close(eager.features(pixels)[0], fused.features(pixels)[0])
    for weights in trace.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 5))


@pytest.mark.parametrize("bias", [True, False])
def test_names_are_those_of_the_published_files(bias):
    shapes = {
        name: tuple(p.shape) for name, p in tower(num_hidden_layers=1, qkv_bias=bias).state_dict().items()
    }
    attention = "encoder.layers.0.self_attn."
    assert shapes["embeddings.class_embedding"] == (1, 1, 12)
    assert shapes["embeddings.position_embedding"] == (1, 5, 12)
    assert shapes["embeddings.patch_embedding.bias"] == (12,)
    assert shapes[f"{attention}qkv.weight"] == (36, 12)
    assert (f"{attention}qkv.bias" in shapes) == bias
    short = {name.removeprefix("encoder.layers.0.") for name in shapes}
    assert {name.removesuffix(".weight") for name in short if "weight" in name} == {
        "embeddings.patch_embedding", "self_attn.qkv", "self_attn.projection", "layer_norm1", "layer_norm2",
        "mlp.fc1", "mlp.fc2", "post_layernorm",
    }  # fmt: skip
