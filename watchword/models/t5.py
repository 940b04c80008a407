"""T5 and Flan-T5: an encoder that reads the prompt, a decoder that answers."""

import torch
from torch import nn
from torch.nn import functional as F

from watchword.config import T5Config
from watchword.errors import ConfigError
from watchword.models.t5_layers import DecoderBlock, EncoderBlock, T5Norm
from watchword.nn.attention import Cache, CacheSpec
from watchword.nn.dense import Linear
from watchword.nn.layers import run_layer
from watchword.nn.trace import Trace
from watchword.shapes import Bool, Float, Int, Tensor


class Encoder(nn.Module):
    """The reading stack: every place sees every unmasked place."""

    def __init__(self, config: T5Config, embedding: nn.Embedding, *, backend: str) -> None:
        super().__init__()
        self.embed_tokens = embedding
        self.block = nn.ModuleList(
            EncoderBlock(config, backend=backend, relative=index == 0) for index in range(config.num_layers)
        )
        self.final_layer_norm = T5Norm(config.d_model, config.layer_norm_epsilon)
        self.dropout = config.dropout_rate
        self.gradient_checkpointing = False

    def forward(
        self, embeds: Float[Tensor, "B M D"], mask: Bool[Tensor, "B M"] | None, trace: Trace
    ) -> Float[Tensor, "B M D"]:
        """States, normed."""
        places = torch.arange(embeds.shape[1], device=embeds.device)[None]
        first = self.block[0].layer[0].SelfAttention
        bias = first.position_bias(places, embeds.shape[1], bidirectional=True)
        if mask is not None:  # joined once here, not in every block
            bias = bias.masked_fill(~mask.to(bias.device)[:, None, None, :], torch.finfo(bias.dtype).min)
        x = F.dropout(embeds, self.dropout, self.training)
        for block in self.block:
            trace.hidden(x)
            x, weights = run_layer(self, block, x, bias, trace.wants_weights)
            trace.weights(weights)
        x = F.dropout(self.final_layer_norm(x), self.dropout, self.training)
        trace.hidden(x)
        return x


class Decoder(nn.Module):
    """The answering stack."""

    def __init__(self, config: T5Config, embedding: nn.Embedding, *, backend: str) -> None:
        super().__init__()
        self.embed_tokens = embedding
        self.block = nn.ModuleList(
            DecoderBlock(config, backend=backend, relative=index == 0)
            for index in range(config.num_decoder_layers)
        )
        self.final_layer_norm = T5Norm(config.d_model, config.layer_norm_epsilon)
        self.dropout = config.dropout_rate
        self.gradient_checkpointing = False

    def forward(
        self,
        embeds: Float[Tensor, "B L D"],
        states: Float[Tensor, "B M D"] | None,
        cache: Cache,
        trace: Trace,
    ) -> Float[Tensor, "B L D"]:
        """States, normed."""
        places, keys = cache.span(embeds.shape[1], embeds.device)
        bias = self.block[0].layer[0].SelfAttention.position_bias(places, keys, bidirectional=False)
        x = F.dropout(embeds, self.dropout, self.training)
        for index, block in enumerate(self.block):
            trace.hidden(x)
            x, own, cross = run_layer(self, block, x, bias, states, cache.layer(index), trace.wants_weights)
            trace.weights(own)
            trace.weights(cross, cross=True)
        x = F.dropout(self.final_layer_norm(x), self.dropout, self.training)
        trace.hidden(x)
        return x


class T5(nn.Module):
    """T5 with its language-model head, under the published names; fits `generation.engine.Decoder`.

    Args:
        config: `T5Config`.
        head: False leaves `lm_head` out (the documented base models).
        backend: attention backend, a key of `nn.attention.BACKENDS`.
    """

    keep_in_fp32 = ("wo",)
    """Modules that stay float32 when loaded as float16. Source: the reference's T5PreTrainedModel."""

    piecewise = False
    """The encoder reads the prompt in both directions, so in one piece, and nothing of it is known before."""

    max_positions = None
    """Distances are learned, not positions: nothing ends them but memory."""

    def __init__(self, config: T5Config, *, head: bool = True, backend: str = "sdpa") -> None:
        super().__init__()
        self.config = config
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = Encoder(config, self.shared, backend=backend)
        self.decoder = Decoder(config, self.shared, backend=backend)
        if head:
            self.lm_head = Linear(config.d_model, config.vocab_size, bias=False)
            self.tie_weights()

    @property
    def cache_spec(self) -> CacheSpec:
        """What a KV cache for the decoder holds."""
        return CacheSpec(
            len(self.decoder.block),
            self.decoder.block[0].layer[0].SelfAttention.heads,
            self.config.d_kv,
            cross=True,
        )

    @property
    def tied(self) -> dict[str, str]:
        """Parameters that checkpoints may leave out, and where their values live."""
        names = {f"{stack}.embed_tokens.weight": "shared.weight" for stack in ("encoder", "decoder")}
        if self.config.tie_word_embeddings is not False:
            names["lm_head.weight"] = "shared.weight"
        return names

    def tie_weights(self) -> None:
        """Make both stacks share the embedding, and the head where the config means it.

        Configs written by transformers 5 call every head tied; an unscaled one was not, and has its own.
        """
        self.encoder.embed_tokens = self.decoder.embed_tokens = self.shared
        if hasattr(self, "lm_head") and "lm_head.weight" in self.tied and self.config.scale_decoder_outputs:
            self.lm_head.weight = self.shared.weight

    def get_input_embeddings(self) -> nn.Embedding:
        """The token embedding of both stacks."""
        return self.shared

    def set_input_embeddings(self, embedding: nn.Embedding) -> None:
        """Replace the token embedding of both stacks, and of the head where it is tied."""
        self.shared = embedding
        self.tie_weights()

    def embed(self, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """Ids to embeddings, for either stack."""
        return self.shared(ids)

    def encode(
        self,
        embeds: Float[Tensor, "B M D"],
        mask: Bool[Tensor, "B M"] | None = None,
        trace: Trace | None = None,
    ) -> Float[Tensor, "B M D"]:
        """Encoder states, normed. `mask` is True at places that may be seen; None when all may."""
        return self.encoder(embeds, mask, trace or Trace())

    def hidden(
        self,
        embeds: Float[Tensor, "B L D"],
        *,
        states: Float[Tensor, "B M D"] | None,
        cache: Cache,
        trace: Trace | None = None,
    ) -> Float[Tensor, "B L D"]:
        """Final decoder states, normed.

        Args:
            embeds: embedded decoder ids; the cache knows their places.
            states: what `encode` returned; may be None when the cache already holds the cross-attention keys.
            cache: `nn.attention.Uncached` with the encoder's mask as memory_mask, or a cache that remembers.
            trace: collects hidden states, attentions and cross attentions.
        """
        return self.decoder(embeds, states, cache, trace or Trace())

    def logits(self, hidden: Float[Tensor, "... D"]) -> Float[Tensor, "... V"]:
        """Scores over the vocabulary."""
        if self.config.scale_decoder_outputs:
            hidden = hidden * self.config.d_model**-0.5
        return self.lm_head(hidden)

    def shift_right(self, labels: Int[Tensor, "B L"]) -> Int[Tensor, "B L"]:
        """Decoder inputs that make the model predict `labels`.

        Raises:
            ConfigError: the config names no decoder_start_token_id or no pad_token_id.
        """
        for name in ("decoder_start_token_id", "pad_token_id"):
            if getattr(self.config, name) is None:
                raise ConfigError(
                    f"T5Config: {name} is None; decoder inputs are the labels behind a start token, with -100"
                    f" as pad token; set text_config.{name} (Flan-T5 has 0 for both)"
                )
        return shift_right(labels, start=self.config.decoder_start_token_id, pad=self.config.pad_token_id)

    def prefill(
        self,
        embeds: Float[Tensor, "B M D"],
        lengths: Int[Tensor, "B"],
        cache: Cache,
        start_ids: Int[Tensor, "B n"],
    ) -> Float[Tensor, "B V"]:
        """Read the prompt (right-padded rows), begin answers with `start_ids`; scores of each next token."""
        lengths = lengths.to(embeds.device)
        mask = torch.arange(embeds.shape[1], device=embeds.device) < lengths[:, None]
        states = self.encode(embeds, mask)
        cache.memory_lengths = lengths
        hidden = self.hidden(self.embed(start_ids), states=states, cache=cache)
        cache.advance(start_ids.shape[1])
        return self.logits(hidden[:, -1])

    def extend(
        self, ids: Int[Tensor, "B L"], lengths: Int[Tensor, "B"], cache: Cache
    ) -> Float[Tensor, "B L V"]:
        """Several known tokens per row (padded on the right); scores of what follows each of them."""
        hidden = self.hidden(self.embed(ids), states=None, cache=cache)
        cache.advance(lengths)
        return self.logits(hidden)

    def decode(self, ids: Int[Tensor, "B"], cache: Cache) -> Float[Tensor, "B V"]:
        """One more token per row; scores of the next."""
        hidden = self.hidden(self.embed(ids[:, None]), states=None, cache=cache)
        cache.advance(1)
        return self.logits(hidden[:, -1])


def shift_right(labels: Int[Tensor, "B L"], *, start: int, pad: int) -> Int[Tensor, "B L"]:
    """Decoder inputs for labels: `start`, then all labels but the last, ignored ones (-100) as `pad`."""
    shifted = labels.roll(1, dims=-1)
    shifted[:, 0] = start
    return shifted.masked_fill(shifted == -100, pad)


def initialise(model: T5) -> None:
    """Fresh values: normal, narrower the more a layer sums over. Source: T5PreTrainedModel._init_weights."""
    config, factor = model.config, model.config.initializer_factor
    wide, inner = config.d_model**-0.5, (config.num_heads * config.d_kv) ** -0.5
    spread = {
        "shared": 1.0,
        "lm_head": 1.0,
        "q": wide * config.d_kv**-0.5,
        "k": wide,
        "v": wide,
        "o": inner,
        "relative_attention_bias": wide,
        "wi": wide,
        "wi_0": wide,
        "wi_1": wide,
        "wo": config.d_ff**-0.5,
    }
    for name, module in model.named_modules():  # a shared module comes once, under its first name
        if isinstance(module, T5Norm):
            nn.init.constant_(module.weight, factor)
        elif isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=factor * spread[name.rpartition(".")[2]])
