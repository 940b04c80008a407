"""Pairs of tiny text models, the reference's and ours with its weights; how to run and compare them."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import torch
import transformers

from watchword.config import LlamaConfig, MistralConfig, OPTConfig, T5Config
from watchword.models import language
from watchword.nn.attention import Uncached

RELATIVE = 2e-5  # of the largest value: float32 sums in another order
VOCABULARY = 71

OURS = {"llama": LlamaConfig, "mistral": MistralConfig, "opt": OPTConfig, "t5": T5Config}
CONFIGS = {
    "llama": transformers.LlamaConfig,
    "mistral": transformers.MistralConfig,
    "opt": transformers.OPTConfig,
    "t5": transformers.T5Config,
}
MODELS = {
    "llama": transformers.LlamaForCausalLM,
    "mistral": transformers.MistralForCausalLM,
    "opt": transformers.OPTForCausalLM,
    "t5": transformers.T5ForConditionalGeneration,
}
SIZES = {
    "llama": dict(
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=64,
        attention_dropout=0.2,
        pad_token_id=0,
    ),
    "mistral": dict(
        hidden_size=24,
        intermediate_size=56,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=64,
        sliding_window=4,
        attention_dropout=0.1,
    ),
    "opt": dict(
        hidden_size=32,
        ffn_dim=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        dropout=0.1,
        max_position_embeddings=40,
        attention_dropout=0.2,
    ),
    "t5": dict(
        d_model=24,
        d_kv=10,
        d_ff=36,
        num_layers=2,
        num_heads=3,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=12,
        dropout_rate=0.1,
        decoder_start_token_id=0,
    ),
}
LLAMA3 = dict(
    rope_type="llama3",
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)


@dataclass(frozen=True)
class Case:
    """One architecture with some fields of its config changed."""

    kind: str
    changes: dict = field(default_factory=dict)

    def __str__(self) -> str:
        plain = [f"{name}={value}" for name, value in self.changes.items() if name != "rope_scaling"]
        scaling = self.changes.get("rope_scaling", {})
        return "-".join([self.kind, *plain, *map(str, scaling.values())])


CAUSAL = [
    Case("llama"),
    Case("llama", dict(num_key_value_heads=2, rms_norm_eps=1e-2)),
    Case("llama", dict(num_key_value_heads=1, head_dim=10, attention_bias=True, mlp_bias=True)),
    Case("llama", dict(tie_word_embeddings=True, hidden_act="gelu", rope_theta=500.0, pad_token_id=-1)),
    Case("llama", dict(rope_scaling=dict(rope_type="linear", factor=3.0))),
    Case("llama", dict(rope_scaling=dict(type="linear", factor=2.5))),
    Case("llama", dict(rope_scaling=dict(rope_type="dynamic", factor=2.0), max_position_embeddings=8)),
    Case("llama", dict(rope_scaling=LLAMA3)),
    Case("mistral"),
    Case("mistral", dict(sliding_window=None, head_dim=8)),
    Case("mistral", dict(sliding_window=40, num_key_value_heads=6)),
    Case("opt"),
    Case("opt", dict(do_layer_norm_before=False)),
    Case("opt", dict(word_embed_proj_dim=20, activation_function="gelu")),
    Case("opt", dict(word_embed_proj_dim=48, do_layer_norm_before=False)),
    Case("opt", dict(enable_bias=False, _remove_final_layer_norm=True)),
    Case("opt", dict(tie_word_embeddings=False, pad_token_id=None)),
]
SEQ2SEQ = [
    Case("t5"),
    Case(
        "t5",
        dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False, num_layers=3, num_decoder_layers=1),
    ),
    Case("t5", dict(feed_forward_proj="gated-gelu", dense_act_fn="gelu", tie_word_embeddings=False)),
    Case(
        "t5",
        dict(
            feed_forward_proj="gated-silu",
            relative_attention_num_buckets=32,
            relative_attention_max_distance=128,
            layer_norm_epsilon=1e-2,
        ),
    ),
]


def pair(case: Case, *, backend: str = "sdpa", reference: str = "sdpa") -> SimpleNamespace:
    """The reference's model, and ours with its weights, both in eval mode."""
    settings = dict(vocab_size=VOCABULARY) | SIZES[case.kind] | case.changes
    config = CONFIGS[case.kind](**settings)
    config._attn_implementation = "eager" if case.kind == "t5" else reference
    theirs = MODELS[case.kind](config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.15 * torch.randn_like(parameter)
    ours = language.language_model(OURS[case.kind].from_dict(config.to_dict()), backend=backend).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)  # the names are the reference's, all of them
    return SimpleNamespace(theirs=theirs, ours=ours, config=config)


def ids(rows: int, length: int) -> torch.Tensor:
    return torch.randint(2, VOCABULARY, (rows, length))


def padding(name: str, rows: int, length: int) -> torch.Tensor | None:
    """A documented 0/1 mask, padded differently in each row."""
    if name == "none":
        return None
    mask = torch.ones(rows, length, dtype=torch.long)
    for row in range(1, rows):
        start = {"left": 0, "right": length - row, "middle": 3}[name]
        mask[row, start : start + row] = 0
    return mask


def causal(model, embeds, mask=None, trace=None):
    """Logits of a plain forward pass of ours."""
    seen = None if mask is None else mask.bool()
    positions = model.forward_positions(seen, 0, embeds.shape[1], embeds.device)
    return model.logits(model.hidden(embeds, positions=positions, cache=Uncached(seen), trace=trace))


def seq2seq(model, embeds, answers, mask=None, answer_mask=None, traces=(None, None)):
    """Logits of a plain forward pass of ours."""
    seen, answer_seen = (None if m is None else m.bool() for m in (mask, answer_mask))
    states = model.encode(embeds, seen, traces[0])
    cache = Uncached(answer_seen, seen)
    return model.logits(model.hidden(model.embed(answers), states=states, cache=cache, trace=traces[1]))


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, kept: torch.Tensor | None = None) -> None:
    """Within `RELATIVE` of the largest value, at the places that the mask keeps."""
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    if kept is not None:
        ours, theirs = ours[kept.bool()], theirs[kept.bool()]
    assert torch.isfinite(theirs).all()
    assert (ours - theirs).abs().max() <= RELATIVE * theirs.abs().max()


def assert_gradients_equal(both: SimpleNamespace) -> None:
    theirs = dict(both.theirs.named_parameters())
    assert set(theirs) == set(dict(both.ours.named_parameters()))
    for name, parameter in both.ours.named_parameters():
        expected = theirs[name].grad
        assert (parameter.grad is None) == (expected is None), name
        if expected is not None:
            limit = 5 * RELATIVE * max(expected.abs().max(), 1e-3)  # k biases: sums that cancel to nothing
            assert (parameter.grad - expected).abs().max() <= limit, name
