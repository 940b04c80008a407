"""The documented `generate`: its settings, who wins over whom, and what it returns.

The work is done in `watchword.generation`; here documented names become options, masked prompts become
compact rows, and results become what the documents describe.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from watchword.errors import RequestError, refuse_unknown
from watchword.generation import engine
from watchword.generation.cache import GrowingCache, KVCache
from watchword.generation.options import REFUSED, GenerationOptions, refuse
from watchword.hf.arguments import rows_of
from watchword.hf.generation_config import DEFAULTS, GenerationConfig
from watchword.hf.outputs import ModelOutput
from watchword.hf.stopping import StopStrings
from watchword.shapes import Bool, Float, Int, Tensor

__all__ = ["GenerateOutput", "GenerationConfig", "run_generate"]

logger = logging.getLogger(__name__)

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
ARGUMENTS = (
    "generation_config",
    "logits_processor",
    "stopping_criteria",
    "prefix_allowed_tokens_fn",
    "streamer",
    "tokenizer",
    "use_model_defaults",
)
"""Arguments of `generate` that are no fields of a `GenerationConfig`."""


class GenerateOutput(ModelOutput):
    """Of `generate(return_dict_in_generate=True)`; fields that were not asked for are absent."""

    names = ("sequences", "sequences_scores", "scores", "logits", "beam_indices", "past_key_values")


@dataclass(frozen=True)
class Call:
    """The arguments of one `generate` call, sorted out.

    Args:
        settings: every field of the effective `GenerationConfig`.
        options: what the engine understands of them.
        processors: the caller's logits processors.
        stop: the caller's stopping criteria, and stop strings.
        streamer: an object with `put(ids)` and `end()`, or None.
        start_ids: what the decoder of an encoder-decoder model begins with; None for its start token.
    """

    settings: dict[str, Any]
    options: GenerationOptions
    processors: Sequence[engine.Processor]
    stop: Sequence[engine.Stop]
    streamer: Any
    start_ids: Any = None


def read_call(
    defaults: GenerationConfig,
    kwargs: Mapping[str, Any],
    *,
    own: Sequence[str] = (),
    is_encoder_decoder: bool = False,
) -> Call:
    """Sort out the keyword arguments of `generate`.

    Arguments win over fields of a passed `generation_config` that differ from the global defaults; those win
    over the model's `defaults`.

    Args:
        own: further arguments of the method that was called, for the nearest known one.
        is_encoder_decoder: whether `decoder_input_ids` is known.

    Raises:
        UnknownArgument: an argument that nothing understands; the message names the nearest known one.
        RequestError: a value out of its range, or a setting that is not implemented, by name.
    """
    start = ["decoder_input_ids"] if is_encoder_decoder else []
    known = {*defaults.to_dict(), *DEFAULTS, *ARGUMENTS, *REFUSED, *own, *start}
    refuse_unknown("generate", kwargs, known)
    kwargs = dict(kwargs)
    start_ids = kwargs.pop("decoder_input_ids", None)
    settings = _merged(defaults, kwargs.get("generation_config"), kwargs.get("use_model_defaults"))
    settings |= {name: value for name, value in kwargs.items() if name not in ARGUMENTS}
    _refuse(settings)
    allowed = kwargs.get("prefix_allowed_tokens_fn")
    options = GenerationOptions.from_dict(settings | {"prefix_allowed_tokens_fn": allowed})
    if kwargs.get("max_length") is not None:
        options = replace(options, max_length=kwargs["max_length"])  # 20 too, when somebody says so
    idle = [name for name in SAMPLING if kwargs.get(name) not in (None, DEFAULTS[name])]
    if idle and not options.do_sample:
        logger.warning("generate: %s=%r has no effect with do_sample=False", idle[0], kwargs[idle[0]])
    stop = several("stopping_criteria", kwargs)
    if settings.get("stop_strings") is not None:
        stop.append(StopStrings(settings["stop_strings"], kwargs.get("tokenizer")))
    processors = several("logits_processor", kwargs)
    return Call(settings, options, processors, stop, kwargs.get("streamer"), start_ids)


def several(name: str, kwargs: Mapping[str, Any]) -> list[Any]:
    """A list among the arguments, perhaps empty."""
    found = kwargs.get(name)
    if found is not None and not isinstance(found, Iterable):
        raise RequestError(f"generate: {name} is a {type(found).__name__}; expected a list")
    return list(found or ())


def _merged(defaults: GenerationConfig, given: Any, use_model_defaults: bool | None) -> dict[str, Any]:
    """The model's settings, under those of a passed config."""
    settings = defaults.to_dict()
    if given is None:
        return settings
    if not isinstance(given, Mapping) and not hasattr(given, "to_dict"):
        raise RequestError(
            f"generate: generation_config is a {type(given).__name__}; expected a GenerationConfig, or a "
            "dictionary of its fields"
        )
    passed = DEFAULTS | (dict(given) if isinstance(given, Mapping) else given.to_dict())
    kept = TOKENS if use_model_defaults is False else settings
    for name, value in passed.items():
        if name not in kept or value != DEFAULTS.get(name):
            settings[name] = value
    if settings["temperature"] == 0:  # a greedy config over a model that samples by default
        settings["do_sample"] = False
    return settings


def _refuse(settings: Mapping[str, Any]) -> None:
    refuse(settings)
    for name in ("output_attentions", "output_hidden_states"):
        if settings.get(name) and settings.get("return_dict_in_generate"):
            raise RequestError(
                f"generate: {name}=True is not implemented; call the model itself on the "
                f"returned sequences with {name}=True"
            )
    if settings.get("return_legacy_cache"):
        raise RequestError(
            "generate: return_legacy_cache=True is not implemented; call "
            "past_key_values.to_legacy_cache() on the result"
        )


def run_generate(
    decoder: engine.Decoder,
    *,
    embeds: Float[Tensor, "B L D"],
    attention_mask: Tensor | None,
    input_ids: Int[Tensor, "B n"] | None,
    call: Call,
    is_encoder_decoder: bool,
    max_positions: int | None,
) -> Tensor | GenerateOutput:
    """The documented `generate` from embedded prompts on.

    Args:
        decoder: the text model.
        embeds: the prompt with its media in place.
        attention_mask: nonzero where `embeds` counts; None: wherever the ids are no padding.
        input_ids: the prompt's ids, placeholders included; None when it came as embeddings only.
        call: the remaining arguments of `generate`, as `read_call` found them.
        max_positions: caps the default length; None when the model has no limit.

    Returns:
        Decoder-only: the prompt's ids, as given, and what follows; with embeddings only what follows.
        Encoder-decoder: the decoder's ids. An output object if `return_dict_in_generate`.
    """
    if call.options.pad_token_id is None and call.options.eos_token_ids:
        logger.warning("generate: no pad_token_id; rows that end are filled with id %s", call.options.fill)
    known = None if is_encoder_decoder else input_ids  # source: the reference infers no mask for an encoder
    mask = _mask(attention_mask, known, embeds, call.options)
    if is_encoder_decoder:
        history = _start(call.start_ids, call.settings, embeds)
        prompt = _compact(embeds, mask, history=history, start_ids=history, encoder_ids=input_ids)
    else:
        prompt = _compact(embeds, mask, history=input_ids, encoder_ids=input_ids)
    bare = input_ids is None and not is_encoder_decoder
    given = prompt.seen(call.options.num_return_sequences).given
    options = call.options.resolved(
        given.shape[1], embeds=embeds.shape[1] if bare else None, max_positions=max_positions
    )
    result = engine.generate(
        decoder, prompt, options, processors=call.processors, stop=call.stop, on_token=_streaming(call, given)
    )
    if call.streamer is not None:
        call.streamer.end()
    sequences = torch.cat([given, result.sequences], dim=1)
    if not call.settings.get("return_dict_in_generate"):
        return sequences
    past = None
    if result.cache is not None and call.settings.get("use_cache"):
        past = _past(result.cache, mask, is_encoder_decoder)
    return GenerateOutput(
        sequences=sequences,
        sequences_scores=result.sequences_scores if options.output_scores else None,
        scores=result.scores,
        logits=result.logits,
        beam_indices=result.beam_indices,
        past_key_values=past,
    )


def _past(cache: KVCache, mask: Bool[Tensor, "B L"] | None, is_encoder_decoder: bool) -> GrowingCache:
    """The documented cache: keys and values where the caller's mask has its positions."""
    if mask is not None:
        mask = mask.repeat_interleave(cache.rows // len(mask), dim=0)
    if is_encoder_decoder:
        return cache.spread(None, mask)
    if mask is not None:
        fresh = cache.longest - int(mask.sum(dim=1).max())
        mask = torch.cat([mask, mask.new_ones(cache.rows, fresh)], dim=1)
    return cache.spread(mask)


def _streaming(call: Call, given: Int[Tensor, "N n"]) -> Callable[[engine.Step], None] | None:
    """Hand the prompt's ids to the streamer, and return what hands over each step's."""
    streamer = call.streamer
    if streamer is None:
        return None
    if call.options.num_beams > 1:
        raise RequestError(
            f"generate: streamer with num_beams={call.options.num_beams}; tokens of beams are "
            "known only at the end, set num_beams=1"
        )
    streamer.put(given.cpu())
    return lambda step: streamer.put(step.ids.cpu())


def _mask(
    mask: Tensor | None,
    ids: Int[Tensor, "B n"] | None,
    embeds: Float[Tensor, "B L D"],
    options: GenerationOptions,
) -> Bool[Tensor, "B L"] | None:
    """Which positions count: as given, or all but padding ids, if the padding id means nothing else."""
    if mask is not None:
        if mask.shape != embeds.shape[:2]:
            raise RequestError(
                f"generate: attention_mask has shape {tuple(mask.shape)}, the prompt "
                f"{tuple(embeds.shape[:2])}; they must agree"
            )
        return mask.to(embeds.device) != 0
    pad = options.pad_token_id
    if ids is None or pad is None or pad in options.eos_token_ids or ids.shape != embeds.shape[:2]:
        return None
    return ids != pad


def _start(ids: Any, settings: Mapping[str, Any], embeds: Float[Tensor, "B L D"]) -> Int[Tensor, "B n"]:
    """What the decoder begins with: its start token, and what the caller wants after it."""
    start = settings.get("decoder_start_token_id")
    start = settings.get("bos_token_id") if start is None else start
    if start is None:
        raise RequestError(
            "generate: neither decoder_start_token_id nor bos_token_id is set; an "
            "encoder-decoder model needs one of them"
        )
    column = torch.full((len(embeds), 1), start, dtype=torch.long, device=embeds.device)
    if ids is None:
        return column
    rows_of("decoder_input_ids", ids, len(embeds))
    ids = ids.to(embeds.device)
    return torch.cat([column, ids], dim=1) if bool((ids[:, 0] != start).all()) else ids


def _compact(
    embeds: Float[Tensor, "B L D"], mask: Bool[Tensor, "B L"] | None, **ids: Tensor | None
) -> engine.Prompt:
    """Rows without their masked positions, so that each is what it would be alone."""
    rows, length, _ = embeds.shape
    if mask is None or bool(mask.all()):
        return engine.Prompt(embeds, torch.full((rows,), length, device=embeds.device), **ids)
    lengths = mask.sum(dim=1)
    order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(lengths.max())]
    compact = embeds.gather(1, order[:, :, None].expand(-1, -1, embeds.shape[2]))
    masks = {
        f"{name.removesuffix('_ids')}_mask": mask[:, -part.shape[1] :]
        for name, part in ids.items()
        if name != "start_ids" and part is not None and part is not ids.get("start_ids")
    }
    return engine.Prompt(compact, lengths, **ids, **masks)
