"""The Q-Former of InstructBLIP: learned queries read the instruction and look at the picture.

A BERT whose rows are queries and words together. All rows see each other; in every n-th layer the queries
also look at the picture; queries and words then go through feed-forwards of their own.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from watchword.config import InstructBlipQFormerConfig
from watchword.errors import ConfigError, RequestError
from watchword.nn.layers import activation, check_heads, join_heads, looked_up, run_layer, split_heads
from watchword.nn.trace import Trace
from watchword.shapes import Float, Int, Tensor

RELATIVE = ("relative_key", "relative_key_query")


class Heads(nn.Module):
    """Attention of rows to themselves, or to a memory of another width.

    Written out rather than through `nn.attention`: the distance joins the scores before they are scaled, the
    softmax is in the rows' own type, the weights handed out are those before dropout; and the rows are few.
    """

    def __init__(self, config: InstructBlipQFormerConfig, memory_width: int) -> None:
        super().__init__()
        width = config.hidden_size
        check_heads(width, config.num_attention_heads, "qformer_config")
        self.heads = config.num_attention_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(memory_width, width)
        self.value = nn.Linear(memory_width, width)
        self.dropout = config.attention_probs_dropout_prob
        self.kind = config.position_embedding_type
        if self.kind in RELATIVE:
            self.reach = config.max_position_embeddings
            self.distance_embedding = nn.Embedding(2 * self.reach - 1, width // self.heads)

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        memory: Float[Tensor, "B S C"],
        bias: Tensor | None,
        keep: Tensor | None,
    ) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B h N S"]]:
        """Attended rows, and weights. `keep` scales each head's answer (0 silences it)."""
        q = split_heads(self.query(x), self.heads)
        k, v = (split_heads(project(memory), self.heads) for project in (self.key, self.value))
        scores = q @ k.transpose(-1, -2)
        if self.kind in RELATIVE:
            scores = scores + self.nearness(q, k)
        scores = scores / math.sqrt(q.shape[-1])
        weights = torch.softmax(scores if bias is None else scores + bias, dim=-1)
        out = F.dropout(weights, self.dropout, self.training) @ v
        return join_heads(out if keep is None else out * keep), weights

    def nearness(self, q: Float[Tensor, "B h N d"], k: Float[Tensor, "B h S d"]) -> Float[Tensor, "B h N S"]:
        """The part of the scores that depends on the distance between two rows.

        Raises:
            RequestError: rows further apart than the table of distances reaches.
        """
        rows, columns = q.shape[2], k.shape[2]
        if max(rows, columns) > self.reach:
            raise RequestError(
                f"Q-Former: {max(rows, columns)} rows, but relative positions reach over "
                f"max_position_embeddings {self.reach} rows; shorten the text"
            )
        places = torch.arange(max(rows, columns), device=q.device)
        distance = places[:rows, None] - places[None, :columns]
        apart = self.distance_embedding(distance + self.reach - 1).to(q.dtype)
        scores = torch.einsum("bhld,lrd->bhlr", q, apart)
        if self.kind == "relative_key_query":
            scores = scores + torch.einsum("bhrd,lrd->bhlr", k, apart)
        return scores


class AddAndNorm(nn.Module):
    """LayerNorm(dropout(dense x) + residual): BERT norms after adding."""

    def __init__(self, config: InstructBlipQFormerConfig, inner: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Float[Tensor, "B N C"], residual: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """The stream, `residual`, with `x` added to it."""
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class AttentionBlock(nn.Module):
    """Heads and what joins their answer to the stream."""

    def __init__(self, config: InstructBlipQFormerConfig, memory_width: int) -> None:
        super().__init__()
        self.attention = Heads(config, memory_width)
        self.output = AddAndNorm(config, config.hidden_size)

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        memory: Float[Tensor, "B S C"],
        bias: Tensor | None,
        keep: Tensor | None,
    ) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B h N S"]]:
        """The stream after attention, and the weights."""
        attended, weights = self.attention(x, memory, bias, keep)
        return self.output(attended, x), weights


class Widen(nn.Module):
    """The first half of a feed-forward: act(dense x)."""

    def __init__(self, config: InstructBlipQFormerConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.act = activation(config.hidden_act)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N C"]:
        """From the stream's width to the feed-forward's."""
        return self.act(self.dense(x))


class QFormerLayer(nn.Module):
    """Self-attention of all rows, the queries' look at the picture, one feed-forward for each kind of row."""

    def __init__(self, config: InstructBlipQFormerConfig, *, looks: bool) -> None:
        super().__init__()
        self.attention = AttentionBlock(config, config.hidden_size)
        self.looks = looks
        if looks:
            self.crossattention = AttentionBlock(config, config.encoder_hidden_size)
        inner = config.intermediate_size
        self.intermediate, self.output = Widen(config), AddAndNorm(config, inner)
        self.intermediate_query, self.output_query = Widen(config), AddAndNorm(config, inner)

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        queries: int,
        bias: Tensor | None,
        memory: Tensor | None,
        memory_bias: Tensor | None,
        keep: Tensor | None,
        trace: Trace | None,
    ) -> Float[Tensor, "B N D"]:
        """One layer further; the first `queries` rows are the queries."""
        x, weights = self.attention(x, x, bias, keep)
        if trace is not None:
            trace.weights(weights)
        asking, words = x[:, :queries], x[:, queries:]
        parts = []
        if queries and self.looks:
            asking, weights = self.crossattention(asking, memory, memory_bias, keep)
            if trace is not None:
                trace.weights(weights, cross=True)
        if queries:
            parts.append(self.output_query(self.intermediate_query(asking), asking))
        if words.shape[1]:
            parts.append(self.output(self.intermediate(words), words))
        return torch.cat(parts, dim=1)


class QFormerEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: InstructBlipQFormerConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            QFormerLayer(config, looks=index % config.cross_attention_frequency == 0)
            for index in range(config.num_hidden_layers)
        )
        self.gradient_checkpointing = False


class QFormerEmbeddings(nn.Module):
    """Words with their places behind the queries, which have none; one norm over both."""

    def __init__(self, config: InstructBlipQFormerConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.absolute = config.position_embedding_type == "absolute"

    def forward(
        self,
        queries: Float[Tensor, "B Q D"] | None,
        ids: Int[Tensor, "B L"] | None,
        places: Int[Tensor, "b L"] | None,
    ) -> Float[Tensor, "B N D"]:
        """Queries as they are, words placed, all normed."""
        parts = [] if queries is None else [queries]
        if ids is not None:
            table, hint = self.word_embeddings, "use the Q-Former's tokenizer"
            words = looked_up(table, ids, table, "qformer_input_ids", hint)
            if self.absolute:
                words = words + self.position_embeddings(self.places(ids, places))
            parts.append(words)
        x = torch.cat(parts, dim=1).to(self.layernorm.weight.dtype)  # queries may be kept in float32
        return self.dropout(self.layernorm(x))

    def places(self, ids: Int[Tensor, "B L"], given: Int[Tensor, "b L"] | None) -> Int[Tensor, "b L"]:
        """Where each word stands: counted from 0, unless given.

        Raises:
            RequestError: a text longer than the table of places.
        """
        limit = self.position_embeddings.num_embeddings
        if given is None and ids.shape[1] > limit:
            raise RequestError(
                f"qformer_input_ids: {ids.shape[1]} tokens, but the Q-Former reads at most "
                f"max_position_embeddings {limit}; shorten the instruction, or pass truncation=True and "
                f"max_length={limit} to the processor"
            )
        return torch.arange(ids.shape[1], device=ids.device)[None] if given is None else given


class QFormer(nn.Module):
    """Queries in, picture tokens out. Attribute names are what checkpoints keep under `qformer.`

    Args:
        config: `InstructBlipQFormerConfig`.

    Raises:
        ConfigError: a `position_embedding_type` that is not implemented.
    """

    def __init__(self, config: InstructBlipQFormerConfig) -> None:
        super().__init__()
        known = ("absolute", *RELATIVE)
        if config.position_embedding_type not in known:
            raise ConfigError(
                f"qformer_config.position_embedding_type {config.position_embedding_type!r}: "
                f"not implemented; known are {', '.join(known)}"
            )
        self.config = config
        self.embeddings = QFormerEmbeddings(config)
        self.encoder = QFormerEncoder(config)

    def states(
        self,
        queries: Float[Tensor, "B Q D"] | None,
        memory: Float[Tensor, "B P C"] | None,
        *,
        ids: Int[Tensor, "B L"] | None = None,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        places: Int[Tensor, "b L"] | None = None,
        keep: Tensor | None = None,
        trace: Trace | None = None,
    ) -> Float[Tensor, "B N D"]:
        """Final states of queries and words, N = Q + L rows. The picture tokens are the first Q.

        Args:
            queries: the learned query tokens, a copy for each picture; None runs the words alone.
            memory: vision features; needed whenever there are queries.
            ids: the instruction.
            mask: 1 for rows that may be seen, of shape B N, or B N N for each row its own.
            memory_mask: the same for the features, of shape B P or B Q P.
            places: of the words, in place of 0, 1, 2, …
            keep: factor for each head's answer, of shape h, or layers h.
            trace: collects hidden states (embeddings first), attentions and cross attentions.

        Raises:
            RequestError: neither queries nor words, queries without a picture, a text that is too long, or a
                mask that does not fit.

        Source: InstructBlipQFormerModel.forward, in the reference.
        """
        if queries is None and ids is None:
            raise RequestError("Q-Former: got neither query_embeds nor input_ids; give at least one of them")
        asking = 0 if queries is None else queries.shape[1]
        if asking and memory is None:
            raise RequestError(
                "Q-Former: query_embeds without a picture; encoder_hidden_states must be given for "
                "cross-attention layers"
            )
        x = self.embeddings(queries, ids, places)
        # -10000, not the type's minimum: so it was trained.
        bias = additive(mask, x, x.shape[1], -10000.0, "attention_mask")
        memory_bias = None
        if asking:
            hidden = torch.finfo(x.dtype).min
            memory_bias = additive(memory_mask, x, memory.shape[1], hidden, "encoder_attention_mask")
        if trace is not None:
            trace.hidden(x)
        for layer, factor in zip(self.encoder.layer, head_factors(keep, x, self.config)):
            x = run_layer(self.encoder, layer, x, asking, bias, memory, memory_bias, factor, trace)
            if trace is not None:
                trace.hidden(x)
        return x


def additive(
    mask: Tensor | None, x: Tensor, length: int, hidden: float, name: str
) -> Float[Tensor, "B 1 n S"] | None:
    """A 1/0 mask as something to add to the scores, in the type of `x`.

    Raises:
        RequestError: a mask for another number of rows.
    """
    if mask is None:
        return None
    if mask.ndim not in (2, 3) or mask.shape[-1] != length:
        raise RequestError(
            f"Q-Former: {name} has shape {tuple(mask.shape)}; expected (batch, {length}) or "
            f"(batch, rows, {length}), queries in front of the text"
        )
    mask = mask[:, None, None] if mask.ndim == 2 else mask[:, None]
    return (1.0 - mask.to(x.dtype)) * hidden


def head_factors(keep: Tensor | None, x: Tensor, config: InstructBlipQFormerConfig) -> list[Tensor | None]:
    """One factor per head for every layer, shaped to multiply a layer's answers.

    Raises:
        RequestError: factors for another number of heads or layers.
    """
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    if keep is None:
        return [None] * layers
    if tuple(keep.shape) not in ((heads,), (layers, heads)):
        raise RequestError(
            f"Q-Former: head_mask has shape {tuple(keep.shape)}; expected ({heads},) or ({layers}, {heads})"
        )
    return list(keep.to(x.dtype).expand(layers, heads)[..., None, None])


def initialise(model: QFormer) -> None:
    """Fresh values: normal(0, initializer_range), biases 0, norms 1.

    Source: InstructBlipPreTrainedModel._init_weights, in the reference.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=model.config.initializer_range)
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
        if isinstance(module, nn.Linear | nn.LayerNorm):
            nn.init.zeros_(module.bias)
