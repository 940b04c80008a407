"""The text model inside a documented `forward`: masks, positions, cache, loss and output objects."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn import functional as F

from watchword.errors import RequestError
from watchword.generation.cache import GrowingCache
from watchword.hf.arguments import rows_of, tensors
from watchword.hf.outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    ModelOutput,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
)
from watchword.hf.vocabulary import RESIZE
from watchword.nn.attention import Uncached
from watchword.nn.layers import looked_up
from watchword.nn.trace import Trace
from watchword.shapes import Bool, Float, Int, Tensor

IGNORED = -100
"""Label of positions that count for nothing in a loss."""


@dataclass(frozen=True)
class Asked:
    """What a caller wants of one text-model pass, with the config's defaults filled in."""

    attention_mask: Tensor | None = None
    position_ids: Tensor | None = None
    past_key_values: object = None
    use_cache: bool | None = None
    output_attentions: bool = False
    output_hidden_states: bool = False
    logits_to_keep: int | Tensor = 0


def run_causal(model: nn.Module, embeds: Float[Tensor, "B L D"], asked: Asked) -> ModelOutput:
    """A decoder-only model over `embeds`: with logits if it has a head, else with its final states."""
    store, cache = open_cache(model, embeds, asked)
    past = 0 if store is None else store.get_seq_length()
    mask = key_mask(asked.attention_mask, embeds, past)
    cache = cache(mask)
    trace = Trace.asked(asked.output_hidden_states, asked.output_attentions)
    positions = asked.position_ids
    if positions is None:
        positions = model.forward_positions(mask, past, embeds.shape[1], embeds.device)
    hidden = model.hidden(embeds, positions=positions, cache=cache, trace=trace)
    found = {
        "past_key_values": filled(asked.past_key_values, store, past),
        "hidden_states": collected(trace.hidden_states),
        "attentions": collected(trace.attentions),
    }
    if not hasattr(model, "lm_head"):
        return BaseModelOutputWithPast(last_hidden_state=hidden, **found)
    return CausalLMOutputWithPast(logits=model.logits(kept(hidden, asked.logits_to_keep)), **found)


def run_seq2seq(
    model: nn.Module,
    embeds: Float[Tensor, "B M D"],
    asked: Asked,
    *,
    decoder_input_ids: Tensor | None,
    decoder_attention_mask: Tensor | None,
    labels: Tensor | None = None,
    num_items_in_batch: int | None = None,
) -> ModelOutput:
    """An encoder-decoder model: `embeds` into the encoder, ids (or shifted labels) into the decoder."""
    has_head = hasattr(model, "lm_head")
    tensors("forward", decoder_attention_mask=decoder_attention_mask)
    for name, ids in (("decoder_input_ids", decoder_input_ids), ("labels", labels)):
        if ids is not None:
            rows_of(name, ids, len(embeds))
    if decoder_input_ids is None and labels is not None:
        decoder_input_ids = model.shift_right(labels)
    if decoder_input_ids is None:
        raise RequestError(
            "decoder_input_ids: missing; an encoder-decoder model needs decoder_input_ids or labels"
        )
    memory_mask = key_mask(asked.attention_mask, embeds, 0)
    encoder_trace = Trace.asked(asked.output_hidden_states, asked.output_attentions)
    decoder_trace = Trace.asked(asked.output_hidden_states, asked.output_attentions)
    states = model.encode(embeds, memory_mask, trace=encoder_trace)
    store, cache = open_cache(model, embeds, asked)
    past = 0 if store is None else store.get_seq_length()
    decoder_embeds = looked_up(model.embed, decoder_input_ids, model.shared, "decoder_input_ids", RESIZE)
    mask = key_mask(decoder_attention_mask, decoder_embeds, past)
    hidden = model.hidden(decoder_embeds, states=states, cache=cache(mask, memory_mask), trace=decoder_trace)
    found = {
        "past_key_values": store,
        "decoder_hidden_states": collected(decoder_trace.hidden_states),
        "decoder_attentions": collected(decoder_trace.attentions),
        "cross_attentions": collected(decoder_trace.cross_attentions),
        "encoder_last_hidden_state": states,
        "encoder_hidden_states": collected(encoder_trace.hidden_states),
        "encoder_attentions": collected(encoder_trace.attentions),
    }
    if not has_head:
        return Seq2SeqModelOutput(last_hidden_state=hidden, **found)
    logits = model.logits(hidden)
    loss = None if labels is None else entropy(logits, labels, num_items_in_batch, "answer")
    return Seq2SeqLMOutput(loss=loss, logits=logits, **found)


def open_cache(model: nn.Module, embeds: Tensor, asked: Asked):
    """The store to go on with, or None, and a function from masks to the cache to use."""
    layers = model.cache_spec.layers
    store = given_cache(asked.past_key_values, layers)
    if store is not None and len(store) != layers:
        raise RequestError(
            f"past_key_values: {len(store)} layers; expected {layers}, as this model returns them, or none"
        )
    use_cache = model.config.use_cache if asked.use_cache is None else asked.use_cache
    if store is None and use_cache and not recomputes(model):
        store = GrowingCache(layers)
    return store, (Uncached if store is None else store.facing)


def given_cache(given: Any, layers: int) -> GrowingCache | None:
    """What a caller gives as `past_key_values`: ours, the older tuples, or a growing cache of transformers.

    Raises:
        RequestError: something else, or a cache whose room is fixed.
    """
    if given is None or isinstance(given, GrowingCache):
        return given
    if isinstance(given, tuple | list):
        return GrowingCache.from_legacy_cache(given) if given else None
    if not is_foreign(given) or getattr(given, "is_compileable", False):
        raise RequestError(
            f"past_key_values: a {type(given).__name__}; expected what this model returned, a DynamicCache, "
            "or a tuple of keys and values for each layer"
        )
    past = given.get_seq_length()
    store = GrowingCache.from_legacy_cache(given) if past else GrowingCache(layers)
    if past != store.get_seq_length():
        raise RequestError(
            f"past_key_values: a {type(given).__name__} of {past} positions that holds "
            f"{store.get_seq_length()}; expected one that keeps all; use DynamicCache()"
        )
    return store


def is_foreign(cache: object) -> bool:
    """Whether it is a cache of transformers, which its owner expects to be filled."""
    known = isinstance(cache, GrowingCache | tuple | list)
    return not known and hasattr(cache, "update") and hasattr(cache, "get_seq_length")


def filled(given: Any, store: GrowingCache | None, past: int) -> Any:
    """What to return as `past_key_values`: the caller's own cache with what is new, or ours."""
    if store is None or not is_foreign(given):
        return store
    for index in range(len(store)):
        keys, values = store[index][:2]
        given.update(keys[:, :, past:], values[:, :, past:], index)
    return given


def recomputes(model: nn.Module) -> bool:
    """True under gradient checkpointing, which would append to a cache twice."""
    return model.training and any(
        getattr(module, "gradient_checkpointing", False) for module in model.modules()
    )


def key_mask(mask: Tensor | None, embeds: Float[Tensor, "B L D"], past: int) -> Bool[Tensor, "B S"] | None:
    """The documented 0/1 mask as a boolean over all keys; None when nothing is masked.

    Raises:
        RequestError: a mask of another shape than rows by past + new positions.
    """
    if mask is None:
        return None
    rows, length = embeds.shape[:2]
    if tuple(mask.shape) != (rows, past + length):
        raise RequestError(
            f"attention_mask: shape {tuple(mask.shape)}; expected ({rows}, {past + length}): "
            "one value for each row and "
            "each position, those in past_key_values included"
        )
    mask = mask.to(embeds.device).bool()
    return None if bool(mask.all()) else mask


def kept(hidden: Float[Tensor, "B L D"], logits_to_keep: int | Tensor) -> Float[Tensor, "B N D"]:
    """The positions whose logits are wanted: the last n (0: all), or those of an index tensor."""
    where = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
    return hidden[:, where]


def collected(values: Sequence[Tensor] | None) -> tuple[Tensor, ...] | None:
    """A trace's list as the tuple that outputs hold."""
    return None if values is None else tuple(values)


def causal_loss(
    logits: Float[Tensor, "B L V"], labels: Tensor, num_items_in_batch: int | None = None
) -> Float[Tensor, ""]:
    """Cross-entropy of each next token in float32, over labels that are not -100.

    Args:
        labels: the ids themselves; shifted inside. Positions to leave out hold -100.
        num_items_in_batch: divide the sum by this (gradient accumulation) instead of by the number of labels
            here.

    Raises:
        RequestError: labels of another shape than the logits' positions.

    Source: the reference's ForCausalLMLoss.
    """
    tensors("forward", labels=labels)
    following = F.pad(labels, (0, 1), value=IGNORED)[:, 1:]
    return entropy(logits.float(), following, num_items_in_batch, "prompt with its placeholders")


def entropy(
    logits: Float[Tensor, "B L V"], targets: Int[Tensor, "B n"], items: int | None, what: str
) -> Float[Tensor, ""]:
    """Cross-entropy over targets that are not -100: the mean, or the sum over `items`."""
    if targets.shape != logits.shape[:2]:
        raise RequestError(
            f"labels: shape {tuple(targets.shape)}; expected {tuple(logits.shape[:2])}, one label for each "
            f"position of the {what} (-100 where none is wanted)"
        )
    targets, reduction = targets.to(logits.device).flatten(), "mean" if items is None else "sum"
    try:
        loss = F.cross_entropy(logits.flatten(0, 1), targets, ignore_index=IGNORED, reduction=reduction)
    except IndexError as error:
        raise RequestError(
            f"labels: from {int(targets.min())} to {int(targets.max())}; expected ids from 0 to "
            f"{logits.shape[-1] - 1}, for the vocabulary has {logits.shape[-1]}, or {IGNORED} for none"
        ) from error
    return loss if items is None else loss / items
