"""Laws of every decoder-only text model: cached as uncached, a batch as its rows, all backends alike."""

import pytest
import torch

from watchword.config import LlamaConfig, MistralConfig, OPTConfig
from watchword.generation.cache import GrowingCache, KVCache
from watchword.models.language import initialise, language_model
from watchword.nn.attention import Uncached
from watchword.nn.trace import Trace

SMALL = dict(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
CONFIGS = {
    "llama": lambda: LlamaConfig(**SMALL, intermediate_size=40, num_key_value_heads=2),
    "llama-dynamic": lambda: LlamaConfig(
        **SMALL,
        intermediate_size=40,
        max_position_embeddings=4,
        rope_scaling=dict(rope_type="dynamic", factor=2.0),
    ),
    "llama-tied": lambda: LlamaConfig(**SMALL, intermediate_size=40, tie_word_embeddings=True),
    "mistral": lambda: MistralConfig(**SMALL, intermediate_size=40, num_key_value_heads=1, sliding_window=3),
    "opt": lambda: OPTConfig(**SMALL, ffn_dim=40),
    "opt-350m": lambda: OPTConfig(**SMALL, ffn_dim=40, word_embed_proj_dim=24, do_layer_norm_before=False),
}
every = pytest.mark.parametrize("name", CONFIGS)
# dynamic scaling: a key keeps the angles of the step that stored it, as in the reference
steady = pytest.mark.parametrize("name", [name for name in CONFIGS if name != "llama-dynamic"])


def tiny(name: str, **changes):
    model = language_model(CONFIGS[name](), **changes).eval()
    initialise(model)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(0, 50, shape)


def logits(model, prompt, mask=None, trace=None):
    positions = model.forward_positions(mask, 0, prompt.shape[1], prompt.device)
    hidden = model.hidden(model.embed(prompt), positions=positions, cache=Uncached(mask), trace=trace)
    return model.logits(hidden)


@steady
@torch.no_grad()
def test_decoding_equals_the_plain_pass(name):
    model, prompt = tiny(name), ids(2, 9)
    cache = KVCache(model.cache_spec, rows=2, capacity=9)
    steps = [model.prefill(model.embed(prompt[:, :4]), torch.tensor([4, 4]), cache)]
    steps += [model.decode(prompt[:, place], cache) for place in range(4, 9)]
    torch.testing.assert_close(torch.stack(steps, dim=1), logits(model, prompt)[:, 3:], rtol=0, atol=1e-5)
    assert cache.lengths.tolist() == [9, 9]


@every
@torch.no_grad()
def test_a_row_answers_in_company_as_alone(name):
    model, prompt, lengths = tiny(name), ids(3, 7), torch.tensor([7, 2, 5])
    together = KVCache(model.cache_spec, rows=3, capacity=4)
    first = model.prefill(model.embed(prompt), lengths, together)
    second = model.decode(torch.tensor([5, 6, 7]), together)
    for row, length in enumerate(lengths.tolist()):
        alone = KVCache(model.cache_spec, rows=1, capacity=32)
        embeds = model.embed(prompt[row : row + 1, :length])
        torch.testing.assert_close(
            model.prefill(embeds, lengths[row : row + 1], alone)[0], first[row], rtol=0, atol=1e-5
        )
        torch.testing.assert_close(
            model.decode(torch.tensor([5 + row]), alone)[0], second[row], rtol=0, atol=1e-5
        )


@every
@torch.no_grad()
def test_left_padding_changes_nothing(name):
    model, prompt = tiny(name), ids(1, 6)
    padded = torch.cat([ids(1, 2), prompt], dim=1)
    mask = torch.tensor([[False, False, True, True, True, True, True, True]])
    places = (mask.cumsum(1) - 1).clamp(min=0)
    hidden = model.hidden(model.embed(padded), positions=places, cache=Uncached(mask))
    torch.testing.assert_close(model.logits(hidden)[:, 2:], logits(model, prompt), rtol=0, atol=1e-5)


@steady
@torch.no_grad()
def test_a_growing_cache_continues_a_plain_pass(name):
    model, prompt = tiny(name), ids(2, 8)
    store = GrowingCache(model.cache_spec.layers)
    for start, end in ((0, 4), (4, 8)):
        positions = model.forward_positions(None, start, end - start, prompt.device)
        hidden = model.hidden(model.embed(prompt[:, start:end]), positions=positions, cache=store.facing())
    torch.testing.assert_close(model.logits(hidden)[:, -4:], logits(model, prompt)[:, -4:], rtol=0, atol=1e-5)
    assert store.get_seq_length() == 8


@every
@torch.no_grad()
def test_backends_agree(name):
    fused, prompt = tiny(name), ids(2, 8)
    written = language_model(CONFIGS[name](), backend="eager").eval()
    written.load_state_dict(fused.state_dict())
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[1, 5:] = False
    for seen in (None, mask):
        kept = slice(None) if seen is None else seen
        torch.testing.assert_close(
            logits(fused, prompt, seen)[kept], logits(written, prompt, seen)[kept], rtol=0, atol=1e-5
        )


@every
def test_gradient_checkpointing_changes_no_gradient(name):
    model, prompt = tiny(name).train(), ids(2, 6)
    found = []
    for on in (False, True):
        for module in model.modules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = on
        model.zero_grad()
        torch.manual_seed(3)  # dropout draws again in the second pass
        trace = Trace.asked(True, True)
        logits(model, prompt, trace=trace).square().mean().backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        assert len(trace.hidden_states) == 3
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) == len(dict(model.named_parameters()))
    for key, gradient in found[0].items():
        torch.testing.assert_close(found[1][key], gradient, rtol=0, atol=1e-6)


@every
def test_a_model_without_head_has_the_same_states(name):
    whole, prompt = tiny(name), ids(1, 5)
    bare = language_model(CONFIGS[name](), head=False).eval()
    bare.load_state_dict({k: v for k, v in whole.state_dict().items() if k != "lm_head.weight"})
    positions = torch.arange(5)[None]
    states = [m.hidden(m.embed(prompt), positions=positions, cache=Uncached()) for m in (whole, bare)]
    assert torch.equal(*states)
    assert not hasattr(bare, "lm_head")


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("llama", None),
        ("llama-tied", "model.embed_tokens.weight"),
        ("opt", "model.decoder.embed_tokens.weight"),
        ("opt-350m", "model.decoder.embed_tokens.weight"),
    ],
)
def test_a_tied_head_is_the_embedding(name, source):
    model = tiny(name)
    assert model.tied == ({} if source is None else {"lm_head.weight": source})
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == (source is not None)
    table = torch.nn.Embedding(60, model.get_input_embeddings().embedding_dim)
    model.set_input_embeddings(table)
    assert model.embed(torch.tensor([[59]])).shape[-1] == table.embedding_dim
    assert (model.lm_head.weight is table.weight) == (source is not None)


@every
def test_fresh_values_are_finite_and_the_pad_row_is_zero(name):
    config = CONFIGS[name]()
    config.pad_token_id = 3
    with torch.device("meta"):
        model = language_model(config)
    model = model.to_empty(device="cpu")
    model.tie_weights()
    initialise(model)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert not model.get_input_embeddings().weight[3].any()
    assert torch.isfinite(logits(model.eval(), ids(1, 6))).all()


@every
def test_half_precision_stays_half(name):
    model, prompt = tiny(name).to(torch.bfloat16), ids(1, 6)
    trace = Trace.asked(True, False)
    assert logits(model, prompt, trace=trace).dtype == torch.bfloat16
    assert {state.dtype for state in trace.hidden_states} == {torch.bfloat16}


@steady
@torch.no_grad()
def test_a_prompt_in_pieces_is_the_prompt_in_one(name):
    model, prompt, lengths = tiny(name), ids(2, 9), torch.tensor([9, 6])
    whole, pieces = (KVCache(model.cache_spec, rows=2, capacity=4) for _ in range(2))
    expected = model.prefill(model.embed(prompt), lengths, whole)
    model.prefill(model.embed(prompt[:, :5]), torch.tensor([5, 3]), pieces)
    tail = torch.stack([prompt[0, 5:], torch.cat([prompt[1, 3:6], prompt[1, :1]])])
    torch.testing.assert_close(
        model.prefill(model.embed(tail), torch.tensor([4, 3]), pieces), expected, rtol=0, atol=1e-5
    )
    assert pieces.lengths.tolist() == [9, 6]


@steady
@torch.no_grad()
def test_extending_by_known_tokens_equals_decoding_them(name):
    model, prompt, answers, lengths = tiny(name), ids(2, 4), ids(2, 3), torch.tensor([3, 2])
    known, decoded = (KVCache(model.cache_spec, rows=2, capacity=4) for _ in range(2))
    for cache in (known, decoded):
        model.prefill(model.embed(prompt), torch.tensor([4, 3]), cache)
    scores = model.extend(answers, lengths, known)
    for place in range(3):
        step = model.decode(answers[:, place], decoded)
        for row in range(2 if place < 2 else 1):
            torch.testing.assert_close(scores[row, place], step[row], rtol=0, atol=1e-5)
    assert known.lengths.tolist() == [7, 5]


def test_only_dynamic_angles_need_the_prompt_in_one_piece():
    assert [name for name in CONFIGS if not tiny(name).piecewise] == ["llama-dynamic"]


def test_only_learned_positions_end():
    limits = {name: tiny(name).max_positions for name in CONFIGS}
    assert limits == dict.fromkeys(CONFIGS) | {"opt": 2048, "opt-350m": 2048}
