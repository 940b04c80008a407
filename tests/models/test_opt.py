"""OPT: learned positions and their limit, norms before or after, layers left out in training."""

import pytest
import torch

from watchword.config import OPTConfig
from watchword.errors import CapacityError
from watchword.generation.cache import KVCache
from watchword.models.opt import Opt, PostNormLayer, PreNormLayer, initialise
from watchword.nn.attention import Uncached
from watchword.nn.trace import Trace

SMALL = dict(vocab_size=50, hidden_size=32, ffn_dim=40, num_hidden_layers=2, num_attention_heads=4)


def tiny(**changes) -> Opt:
    model = Opt(OPTConfig(**SMALL | changes)).eval()
    initialise(model)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def states(
    model: Opt, prompt: torch.Tensor, positions: torch.Tensor | None = None, trace: Trace | None = None
) -> torch.Tensor:
    positions = torch.arange(prompt.shape[1])[None] if positions is None else positions
    return model.hidden(model.embed(prompt), positions=positions, cache=Uncached(), trace=trace)


def test_position_zero_is_row_two_of_the_table():
    model, trace = tiny(), Trace.asked(True, False)
    states(model, torch.tensor([[7]]), torch.tensor([[0]]), trace)
    decoder = model.model.decoder
    expected = decoder.embed_tokens.weight[7] + decoder.embed_positions.weight[2]
    assert torch.equal(trace.hidden_states[0][0, 0], expected)


def test_positions_count_seen_tokens_and_mark_padding():
    model = tiny()
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 0, 0, 1, 1], [1, 1, 1, 1, 1]]).bool()
    found = model.forward_positions(mask, 0, 5, mask.device)
    assert found.tolist() == [[-1, -1, 0, 1, 2], [0, -1, -1, 1, 2], [0, 1, 2, 3, 4]]
    assert model.forward_positions(mask, 3, 2, mask.device).tolist() == [[1, 2], [1, 2], [3, 4]]
    assert model.forward_positions(None, 3, 2, mask.device).tolist() == [[3, 4]]


def test_a_position_beyond_the_table_is_refused():
    model, prompt = tiny(max_position_embeddings=6), torch.randint(0, 50, (2, 7))
    assert states(model, prompt[:, :6]).shape == (2, 6, 32)
    with pytest.raises(CapacityError, match=r"position 6 asked for; the model has learned 6 positions"):
        states(model, prompt)
    padded = torch.tensor([[-1, 0, 1, 2, 3, 4, 5]])  # seven keys, one of them padding
    assert states(model, prompt, padded).shape == (2, 7, 32)


def test_decoding_beyond_the_table_is_refused():
    model = tiny(max_position_embeddings=6)
    cache = KVCache(model.cache_spec, rows=1, capacity=16)
    model.prefill(torch.randn(1, 5, 32), torch.tensor([5]), cache)
    model.decode(torch.tensor([1]), cache)
    with pytest.raises(CapacityError, match=r"position 6 asked for"):
        model.decode(torch.tensor([1]), cache)


@pytest.mark.parametrize(("before", "kind"), [(True, PreNormLayer), (False, PostNormLayer)])
def test_norms_stand_where_the_config_says(before, kind):
    model, trace = tiny(do_layer_norm_before=before), Trace.asked(True, False)
    states(model, torch.randint(0, 50, (1, 5)), trace=trace)
    assert {type(layer) for layer in model.model.decoder.layers} == {kind}
    assert (model.model.decoder.final_layer_norm is None) != before
    norm = model.model.decoder.layers[0].final_layer_norm
    plain = (trace.hidden_states[1] - norm.bias) / norm.weight
    is_normed = torch.allclose(plain.square().mean(-1), torch.ones(1, 5), atol=1e-3)
    assert is_normed != before  # only a norm at the end leaves a normed stream


def test_layerdrop_leaves_layers_out_in_training_only():
    model = tiny(layerdrop=1.0, dropout=0.0, _remove_final_layer_norm=True)
    prompt = torch.randint(0, 50, (1, 5))
    decoder = model.model.decoder
    untouched = model.embed(prompt) + decoder.embed_positions(torch.arange(5) + 2)
    assert torch.equal(states(model.train(), prompt), untouched)
    assert not torch.equal(states(model.eval(), prompt), untouched)


def test_embeddings_of_another_width_are_projected_in_and_out():
    model = tiny(word_embed_proj_dim=20)
    embeds = model.embed(torch.randint(0, 50, (1, 5)))
    found = model.hidden(embeds, positions=torch.arange(5)[None], cache=Uncached())
    assert embeds.shape == found.shape == (1, 5, 20)
    assert model.logits(found).shape == (1, 5, 50)
    assert tiny().model.decoder.project_in is None


def test_norms_without_weights_have_none():
    model = tiny(layer_norm_elementwise_affine=False, enable_bias=False)
    assert not [name for name in model.state_dict() if "norm" in name or name.endswith("bias")]
    assert torch.isfinite(states(model, torch.randint(0, 50, (1, 5)))).all()


@pytest.mark.parametrize("norm_first", [True, False])
@torch.no_grad()
def test_a_tail_is_the_end_of_the_whole(norm_first):
    model = tiny(do_layer_norm_before=norm_first)
    prompt, places = torch.randint(0, 49, (2, 9)), torch.arange(9)[None]
    whole = states(model, prompt)
    for tail in (1, 5, 9):
        found = model.hidden(model.embed(prompt), positions=places, cache=Uncached(), tail=tail)
        torch.testing.assert_close(found, whole[:, -tail:])


def test_a_tail_is_one_where_the_last_layer_is_left_out():
    model = tiny(layerdrop=1.0).train()
    prompt = torch.randint(0, 49, (2, 9))
    found = model.hidden(model.embed(prompt), positions=torch.arange(9)[None], cache=Uncached(), tail=3)
    assert found.shape == (2, 3, 32)
