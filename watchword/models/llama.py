"""LLaMA (Vicuna) and Mistral: rotary positions, grouped keys, gated feed-forward, RMS norms.

Mistral differs in numbers only: grouped keys by default and a sliding window.
"""

from torch import nn

from watchword.config import LlamaConfig, MistralConfig
from watchword.models.causal import Causal
from watchword.nn.attention import Cache, CacheSpec, LayerCache
from watchword.nn.dense import Linear
from watchword.nn.layers import RMSNorm, activation, join_heads, run_layer, split_heads
from watchword.nn.quantized import gated, together
from watchword.nn.rope import Rotary, apply_rope
from watchword.nn.trace import Trace
from watchword.shapes import Float, Int, Tensor


class LlamaAttention(nn.Module):
    """Self-attention with rotary positions; h query heads share g key/value heads."""

    def __init__(self, config: LlamaConfig | MistralConfig, *, backend: str) -> None:
        super().__init__()
        self.heads, self.groups = config.num_attention_heads, key_heads(config)
        width, d = config.hidden_size, head_width(config)
        bias = getattr(config, "attention_bias", False)
        self.q_proj = Linear(width, self.heads * d, bias=bias)
        self.k_proj = Linear(width, self.groups * d, bias=bias)
        self.v_proj = Linear(width, self.groups * d, bias=bias)
        self.o_proj = Linear(self.heads * d, width, bias=bias)
        self.window = getattr(config, "sliding_window", None)
        self.dropout = config.attention_dropout
        self.backend = backend

    def forward(
        self, x: Float[Tensor, "B L D"], cos: Tensor, sin: Tensor, cache: LayerCache, trace: Trace | None,
        tail: int | None = None,
    ) -> Float[Tensor, "B l D"]:  # fmt: skip
        if tail is None:
            q, k, v = together(x, self.q_proj, self.k_proj, self.v_proj)
        else:
            q, (k, v) = self.q_proj(x[:, -tail:]), together(x, self.k_proj, self.v_proj)
        q = split_heads(q, self.heads)
        q = apply_rope(q, cos[..., -q.shape[2] :, :], sin[..., -q.shape[2] :, :])
        k = apply_rope(split_heads(k, self.groups), cos, sin)
        v = split_heads(v, self.groups)
        out, weights = cache.attend(
            q,
            k,
            v,
            window=self.window,
            dropout=self.dropout if self.training else 0.0,
            backend=self.backend,
            want_weights=trace is not None and trace.wants_weights,
        )
        if trace is not None:
            trace.weights(weights)
        return self.o_proj(join_heads(out))


class LlamaMLP(nn.Module):
    """down(act(gate x) · up x)."""

    def __init__(self, config: LlamaConfig | MistralConfig) -> None:
        super().__init__()
        bias = getattr(config, "mlp_bias", False)
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=bias)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=bias)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=bias)
        self.act = activation(config.hidden_act)

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return gated(x, self.gate_proj, self.up_proj, self.down_proj, self.act)


class LlamaLayer(nn.Module):
    """Attention, then feed-forward, each on the normed stream and added back."""

    def __init__(self, config: LlamaConfig | MistralConfig, *, backend: str) -> None:
        super().__init__()
        self.self_attn = LlamaAttention(config, backend=backend)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, x: Float[Tensor, "B L D"], cos: Tensor, sin: Tensor, cache: LayerCache, trace: Trace | None,
        tail: int | None = None,
    ) -> Float[Tensor, "B l D"]:  # fmt: skip
        """One layer further; of `tail` places only the last so many, which still see all."""
        seen = x if tail is None else x[:, -tail:]
        x = seen + self.self_attn(self.input_layernorm(x), cos, sin, cache, trace, tail)
        return x + self.mlp(self.post_attention_layernorm(x))


class LlamaStack(nn.Module):
    """Embedding, layers, final norm: what checkpoints keep under `model.`"""

    def __init__(self, config: LlamaConfig | MistralConfig, *, backend: str) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(
            LlamaLayer(config, backend=backend) for _ in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary = Rotary(
            head_width(config),
            config.rope_theta,
            getattr(config, "rope_scaling", None),
            config.max_position_embeddings,
        )
        self.gradient_checkpointing = False

    def forward(
        self, x: Float[Tensor, "B L D"], positions: Int[Tensor, "b L"], cache: Cache, trace: Trace | None,
        tail: int | None = None,
    ) -> Float[Tensor, "B l D"]:  # fmt: skip
        cos, sin = self.rotary(positions, x.dtype)
        for index, layer in enumerate(self.layers):
            if trace is not None:
                trace.hidden(x)
            last = index == len(self.layers) - 1
            x = run_layer(self, layer, x, cos, sin, cache.layer(index), trace, tail if last else None)
        x = self.norm(x)
        if trace is not None:
            trace.hidden(x)  # the last entry is normed
        return x


class Llama(Causal):
    """LLaMA or Mistral with its language-model head, under the published names.

    Args:
        config: `LlamaConfig` or `MistralConfig`.
        head: False leaves `lm_head` out (the documented base models).
        backend: attention backend, a key of `nn.attention.BACKENDS`.
    """

    def __init__(
        self, config: LlamaConfig | MistralConfig, *, head: bool = True, backend: str = "sdpa"
    ) -> None:
        super().__init__()
        self.config = config
        self.model = LlamaStack(config, backend=backend)
        if head:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
            self.tie_weights()

    @property
    def cache_spec(self) -> CacheSpec:
        """What a KV cache for this model holds."""
        return CacheSpec(
            len(self.model.layers), self.model.layers[0].self_attn.groups, head_width(self.config)
        )

    @property
    def piecewise(self) -> bool:
        """Not with dynamic angles: they depend on how long the row is at the time."""
        return self.model.rotary.kind != "dynamic"

    @property
    def tied(self) -> dict[str, str]:
        """Parameters that checkpoints may leave out, and where their values live."""
        return {"lm_head.weight": "model.embed_tokens.weight"} if self.config.tie_word_embeddings else {}

    def tie_weights(self) -> None:
        """Make the head share the embedding, where the config says so."""
        if self.config.tie_word_embeddings and hasattr(self, "lm_head"):
            self.lm_head.weight = self.model.embed_tokens.weight

    def get_input_embeddings(self) -> nn.Embedding:
        """The token embedding."""
        return self.model.embed_tokens

    def set_input_embeddings(self, embedding: nn.Embedding) -> None:
        """Replace the token embedding."""
        self.model.embed_tokens = embedding
        self.tie_weights()

    def embed(self, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """Ids to embeddings."""
        return self.model.embed_tokens(ids)

    def hidden(
        self,
        embeds: Float[Tensor, "B L D"],
        *,
        positions: Int[Tensor, "b L"],
        cache: Cache,
        trace: Trace | None = None,
        tail: int | None = None,
    ) -> Float[Tensor, "B l D"]:
        """Final hidden states, normed, of all places or of the last `tail`, for which less is computed.

        `positions` count from 0 and turn the rotary angles.
        """
        return self.model(embeds, positions, cache, trace, tail)

    def logits(self, hidden: Float[Tensor, "... D"]) -> Float[Tensor, "... V"]:
        """Scores over the vocabulary."""
        return self.lm_head(hidden)


def head_width(config: LlamaConfig | MistralConfig) -> int:
    """`head_dim` where the config gives it, else an equal share of the width."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def key_heads(config: LlamaConfig | MistralConfig) -> int:
    """Key/value heads; as many as query heads unless the config says fewer."""
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads


def initialise(model: Llama) -> None:
    """Fresh values: normal(0, initializer_range), biases and the pad row 0, norms 1.

    Source: LlamaPreTrainedModel._init_weights of the reference.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=model.config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, RMSNorm):
            nn.init.ones_(module.weight)
    table = model.model.embed_tokens  # last, for a tied head shares it
    if table.padding_idx is not None:
        nn.init.zeros_(table.weight.data[table.padding_idx])
