"""OPT: learned positions, LayerNorms before or after each sublayer, maybe embeddings of another width."""

import torch
from torch import nn
from torch.nn import functional as F

from watchword.config import OPTConfig
from watchword.errors import CapacityError
from watchword.models.causal import Causal
from watchword.nn.attention import Cache, CacheSpec, LayerCache
from watchword.nn.dense import Linear
from watchword.nn.layers import activation, join_heads, run_layer, split_heads
from watchword.nn.quantized import fed, together
from watchword.nn.trace import Trace
from watchword.shapes import Bool, Float, Int, Tensor

OFFSET = 2
"""Position 0 is row 2 of the position table; row 1 belongs to padding."""

Layered = tuple[Tensor, Tensor | None]
"""The stream B L D after a layer, and the attention's weights when asked for."""


class OptAttention(nn.Module):
    """Self-attention; queries are scaled before the product, not the scores after it, as in the reference."""

    def __init__(self, config: OPTConfig, *, backend: str) -> None:
        super().__init__()
        width, self.heads = config.hidden_size, config.num_attention_heads
        self.k_proj = Linear(width, width, bias=config.enable_bias)
        self.v_proj = Linear(width, width, bias=config.enable_bias)
        self.q_proj = Linear(width, width, bias=config.enable_bias)
        self.out_proj = Linear(width, width, bias=config.enable_bias)
        self.scale = (width // self.heads) ** -0.5
        self.dropout = config.attention_dropout
        self.backend = backend

    def forward(
        self, x: Float[Tensor, "B L D"], cache: LayerCache, want_weights: bool, tail: int | None = None
    ) -> Layered:
        """Attend through the cache, causally."""
        if tail is None:
            q, k, v = together(x, self.q_proj, self.k_proj, self.v_proj)
        else:
            q, (k, v) = self.q_proj(x[:, -tail:]), together(x, self.k_proj, self.v_proj)
        q = q * self.scale
        out, weights = cache.attend(
            *(split_heads(t, self.heads) for t in (q, k, v)),
            scale=1.0,
            backend=self.backend,
            dropout=self.dropout if self.training else 0.0,
            want_weights=want_weights,
        )
        return self.out_proj(join_heads(out)), weights


class PreNormLayer(nn.Module):
    """Attention, then feed-forward, each on the normed stream and added back: all sizes but 350m."""

    def __init__(self, config: OPTConfig, *, backend: str) -> None:
        super().__init__()
        width, affine = config.hidden_size, config.layer_norm_elementwise_affine
        self.self_attn = OptAttention(config, backend=backend)
        self.self_attn_layer_norm = nn.LayerNorm(width, elementwise_affine=affine)
        self.fc1 = Linear(width, config.ffn_dim, bias=config.enable_bias)
        self.fc2 = Linear(config.ffn_dim, width, bias=config.enable_bias)
        self.final_layer_norm = nn.LayerNorm(width, elementwise_affine=affine)
        self.act = activation(config.activation_function)
        self.dropout = config.dropout

    def forward(
        self, x: Float[Tensor, "B L D"], cache: LayerCache, want_weights: bool, tail: int | None = None
    ) -> Layered:
        """Norm first. Of `tail` places only the last so many go further; they still see all."""
        out, weights = self.self_attn(self.self_attn_layer_norm(x), cache, want_weights, tail)
        x = (x if tail is None else x[:, -tail:]) + self.drop(out)
        return x + self.feed(self.final_layer_norm(x)), weights

    def feed(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """The feed-forward part."""
        return self.drop(fed(x, self.fc1, self.act, self.fc2))

    def drop(self, x: Tensor) -> Tensor:
        """Dropout, in training."""
        return F.dropout(x, self.dropout, self.training)


class PostNormLayer(PreNormLayer):
    """The same parts with each norm after the addition: OPT-350m."""

    def forward(
        self, x: Float[Tensor, "B L D"], cache: LayerCache, want_weights: bool, tail: int | None = None
    ) -> Layered:
        """Norm last."""
        out, weights = self.self_attn(x, cache, want_weights, tail)
        x = self.self_attn_layer_norm((x if tail is None else x[:, -tail:]) + self.drop(out))
        return self.final_layer_norm(x + self.feed(x)), weights


class OptDecoder(nn.Module):
    """Embeddings, layers, final norm, projections: what checkpoints keep under `model.decoder.`"""

    def __init__(self, config: OPTConfig, *, backend: str) -> None:
        super().__init__()
        width, narrow = config.hidden_size, config.word_embed_proj_dim
        affine = config.layer_norm_elementwise_affine
        kind = PreNormLayer if config.do_layer_norm_before else PostNormLayer
        self.max_positions = config.max_position_embeddings
        self.layerdrop = config.layerdrop
        self.embed_tokens = nn.Embedding(config.vocab_size, narrow, config.pad_token_id)
        self.embed_positions = nn.Embedding(self.max_positions + OFFSET, width)
        self.project_in = Linear(narrow, width, bias=False) if narrow != width else None
        self.project_out = Linear(width, narrow, bias=False) if narrow != width else None
        self.final_layer_norm = None
        if config.do_layer_norm_before and not config._remove_final_layer_norm:
            self.final_layer_norm = nn.LayerNorm(width, elementwise_affine=affine)
        self.layers = nn.ModuleList(kind(config, backend=backend) for _ in range(config.num_hidden_layers))
        self.gradient_checkpointing = False

    def forward(
        self, embeds: Float[Tensor, "B L E"], positions: Int[Tensor, "b L"], cache: Cache, trace: Trace,
        tail: int | None = None,
    ) -> Float[Tensor, "B l E"]:  # fmt: skip
        """Final states, normed and as wide as the embeddings."""
        x = embeds if self.project_in is None else self.project_in(embeds)
        x = x + self.embed_positions(positions + OFFSET).to(x.device)  # parts may have homes of their own
        for index, layer in enumerate(self.layers):
            trace.hidden(x)
            # drawn in training even without layerdrop, so that dropout draws what the reference's draws
            if self.training and torch.rand([]) < self.layerdrop:
                continue
            last = tail if index == len(self.layers) - 1 else None
            x, weights = run_layer(self, layer, x, cache.layer(index), trace.wants_weights, last)
            trace.weights(weights)
        if tail is not None:  # of which nothing is missing where the last layer was left out
            x = x[:, -tail:]
        x = x if self.final_layer_norm is None else self.final_layer_norm(x)
        x = x if self.project_out is None else self.project_out(x)
        trace.hidden(x)  # the last entry is normed and projected
        return x


class OptBody(nn.Module):
    """The level of names between the model and its decoder."""

    def __init__(self, config: OPTConfig, *, backend: str) -> None:
        super().__init__()
        self.decoder = OptDecoder(config, backend=backend)


class Opt(Causal):
    """OPT with its language-model head, under the published names.

    Args:
        config: `OPTConfig`.
        head: False leaves `lm_head` out (the documented base models).
        backend: attention backend, a key of `nn.attention.BACKENDS`.
    """

    def __init__(self, config: OPTConfig, *, head: bool = True, backend: str = "sdpa") -> None:
        super().__init__()
        self.config = config
        self.model = OptBody(config, backend=backend)
        if head:
            self.lm_head = Linear(config.word_embed_proj_dim, config.vocab_size, bias=False)
            self.tie_weights()

    @property
    def cache_spec(self) -> CacheSpec:
        """What a KV cache for this model holds."""
        layers, width = self.model.decoder.layers, self.config.hidden_size // self.config.num_attention_heads
        return CacheSpec(len(layers), layers[0].self_attn.heads, width)

    @property
    def max_positions(self) -> int:
        """Positions that were learned."""
        return self.model.decoder.max_positions

    @property
    def tied(self) -> dict[str, str]:
        """Parameters that checkpoints may leave out, and where their values live."""
        tied = self.config.tie_word_embeddings is not False
        return {"lm_head.weight": "model.decoder.embed_tokens.weight"} if tied else {}

    def tie_weights(self) -> None:
        """Make the head share the embedding, where the config says so."""
        if self.tied and hasattr(self, "lm_head"):
            self.lm_head.weight = self.model.decoder.embed_tokens.weight

    def get_input_embeddings(self) -> nn.Embedding:
        """The token embedding."""
        return self.model.decoder.embed_tokens

    def set_input_embeddings(self, embedding: nn.Embedding) -> None:
        """Replace the token embedding, and with it a tied head."""
        self.model.decoder.embed_tokens = embedding
        self.tie_weights()

    def embed(self, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B L E"]:
        """Ids to embeddings, before their projection and before positions."""
        return self.model.decoder.embed_tokens(ids)

    def forward_positions(
        self, mask: Bool[Tensor, "B S"] | None, past: int, length: int, device: torch.device
    ) -> Int[Tensor, "b L"]:
        """Positions in a plain forward pass: seen tokens counted, padding -1. Source: OPTDecoder.forward."""
        if mask is None:
            return super().forward_positions(mask, past, length, device)
        return (mask.cumsum(dim=1) * mask - 1)[:, past:]

    def hidden(
        self,
        embeds: Float[Tensor, "B L E"],
        *,
        positions: Int[Tensor, "b L"],
        cache: Cache,
        trace: Trace | None = None,
        tail: int | None = None,
    ) -> Float[Tensor, "B l E"]:
        """Final hidden states of all places, or of the last `tail`. `positions` count from 0; padding may
        have -1.

        Raises:
            CapacityError: a position beyond the learned table.
        """
        self.check(positions, cache)
        return self.model.decoder(embeds, positions, cache, trace or Trace(), tail)

    def check(self, positions: Int[Tensor, "b L"], cache: Cache) -> None:
        """Refuse positions that were never learned; asks the device only when there are that many keys.

        Steps that are compiled are not asked: their slots are within what was learned (`generation.graphs`).
        """
        if torch.compiler.is_compiling():
            return
        room = self.model.decoder.max_positions
        _, keys = cache.span(positions.shape[1], positions.device)
        if keys > room and int(positions.max()) >= room:
            raise CapacityError(
                f"OPT: position {int(positions.max())} asked for; the model has learned {room} positions "
                f"(max_position_embeddings); use a shorter prompt or fewer new tokens"
            )

    def logits(self, hidden: Float[Tensor, "... E"]) -> Float[Tensor, "... V"]:
        """Scores over the vocabulary."""
        return self.lm_head(hidden)


def initialise(model: Opt) -> None:
    """Fresh values: normal(0, init_std); biases and the pad row 0. Source: the reference's _init_weights."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=model.config.init_std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()  # ones and zeros, if it has any
    table = model.model.decoder.embed_tokens  # last, for the head may share it
    if table.padding_idx is not None:
        nn.init.zeros_(table.weight.data[table.padding_idx])
