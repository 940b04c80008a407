"""LLaMA and Mistral: windows, grouped keys, rotary positions."""

import math

import pytest
import torch

from watchword.config import LlamaConfig, MistralConfig
from watchword.errors import ConfigError
from watchword.models.llama import Llama, initialise
from watchword.nn.attention import Uncached
from watchword.nn.rope import Rotary, apply_rope

SMALL = dict(vocab_size=50, hidden_size=32, intermediate_size=40, num_hidden_layers=1, num_attention_heads=4)


def tiny(config) -> Llama:
    model = Llama(config).eval()
    initialise(model)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def states(model: Llama, prompt: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
    positions = torch.arange(prompt.shape[1])[None] if positions is None else positions
    return model.hidden(model.embed(prompt), positions=positions, cache=Uncached())


@pytest.mark.parametrize("window", [1, 3, 8, None])
@torch.no_grad()
def test_a_token_sees_as_many_keys_as_the_window_says(window):
    model = tiny(MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=window))
    prompt = torch.randint(0, 49, (1, 9))
    before = states(model, prompt)[0, -1]
    for place in range(9):
        changed = prompt.clone()
        changed[0, place] = 49
        seen = place > 8 - (window or 9)
        assert torch.equal(states(model, changed)[0, -1], before) != seen


@torch.no_grad()
def test_grouped_keys_equal_full_heads_with_repeated_weights():
    grouped = tiny(LlamaConfig(**SMALL, num_key_value_heads=2))
    full = Llama(LlamaConfig(**SMALL)).eval()
    weights = grouped.state_dict()
    for side in ("k_proj", "v_proj"):
        name = f"model.layers.0.self_attn.{side}.weight"
        weights[name] = weights[name].unflatten(0, (2, 8)).repeat_interleave(2, dim=0).flatten(0, 1)
    full.load_state_dict(weights)
    prompt = torch.randint(0, 50, (2, 6))
    torch.testing.assert_close(states(grouped, prompt), states(full, prompt), rtol=0, atol=1e-6)
    assert (grouped.cache_spec.heads, full.cache_spec.heads) == (2, 4)


@torch.no_grad()
def test_only_distances_matter():
    model, prompt = tiny(LlamaConfig(**SMALL)), torch.randint(0, 50, (1, 6))
    shifted = states(model, prompt, torch.arange(100, 106)[None])
    torch.testing.assert_close(shifted, states(model, prompt), rtol=0, atol=1e-5)
    stretched = states(model, prompt, torch.arange(0, 12, 2)[None])
    assert (stretched - states(model, prompt)).abs().max() > 1e-3


def test_rotary_turns_the_first_half_against_the_second():
    x = torch.tensor([[[[1.0, 0.0, 0.0, 0.0]]]])  # pair 0 is (x_0, x_2)
    turned = apply_rope(x, *Rotary(4, 10000.0, None, 64)(torch.tensor([[1]]), torch.float32))
    torch.testing.assert_close(turned.flatten(), torch.tensor([math.cos(1), 0, math.sin(1), 0]))


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        (None, 10.0),
        (dict(rope_type="default"), 10.0),
        (dict(rope_type="linear", factor=4.0), 2.5),
        (dict(type="linear", factor=5.0), 2.0),
        (dict(rope_type="dynamic", factor=2.0), 10.0),
        (
            dict(
                rope_type="llama3",
                factor=4.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=64,
            ),
            10.0,
        ),  # the fastest pair turns within the short range
    ],
)
def test_rotary_scaling_changes_the_angle_of_the_fastest_pair(scaling, expected):
    cos, sin = Rotary(8, 10000.0, scaling, 64)(torch.tensor([[10]]), torch.float32)
    assert cos[0, 0, 0, 0] == pytest.approx(math.cos(expected), abs=1e-5)
    assert sin[0, 0, 0, 0] == pytest.approx(math.sin(expected), abs=1e-5)


def test_dynamic_scaling_stretches_beyond_the_trained_length_only():
    rotary, plain = Rotary(8, 100.0, dict(rope_type="dynamic", factor=3.0), 16), Rotary(8, 100.0, None, 16)
    assert torch.equal(rotary.frequencies(torch.arange(16)[None]), plain.frequencies(torch.arange(16)[None]))
    base = 100.0 * (3.0 * 20 / 16 - 2.0) ** (8 / 6)
    expected = torch.tensor([[base ** (-j / 4) for j in range(4)]])
    torch.testing.assert_close(rotary.frequencies(torch.arange(20)[None]), expected)


def test_rotary_names_a_scaling_it_does_not_know():
    with pytest.raises(ConfigError, match=r"'yarn' is not implemented; known types are default, linear"):
        Rotary(8, 10000.0, dict(rope_type="yarn", factor=2.0), 64)


@pytest.mark.parametrize("window", [None, 4])
@torch.no_grad()
def test_a_tail_is_the_end_of_the_whole(window):
    model = tiny(
        MistralConfig(**SMALL | {"num_hidden_layers": 2}, num_key_value_heads=2, sliding_window=window)
    )
    prompt, places = torch.randint(0, 49, (2, 9)), torch.arange(9)[None]
    whole = states(model, prompt)
    for tail in (1, 5, 9):
        found = model.hidden(model.embed(prompt), positions=places, cache=Uncached(), tail=tail)
        torch.testing.assert_close(found, whole[:, -tail:])
