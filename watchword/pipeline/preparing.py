"""From what was said to a job for the engine: ids, settings, and a prompt that is embedded when needed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from watchword.errors import CapacityError, RequestError, UnknownArgument, refuse_unknown
from watchword.generation.options import REFUSED, GenerationOptions
from watchword.generation.requests import Job
from watchword.media.frames import Clip
from watchword.nn.lora import BASE, active, check_known, stamps
from watchword.pipeline.choices import Choices, TextStop, answer_ids
from watchword.pipeline.families import Encoded, Exchange, Position, merging
from watchword.pipeline.options import MAX_NEW_TOKENS, NAMES, Options, generation_options, idle_merging
from watchword.pipeline.reuse import Lazy, Sight, digest, state
from watchword.pipeline.stopwatch import Stopwatch

SHORT = {"max_tokens": "max_new_tokens", "beams": "num_beams"}
"""Short names of options."""

FURTHER = ("typical_p", "epsilon_cutoff", "eta_cutoff")
"""Settings beside the options that ask for drawing."""

ELSEWHERE = {
    "do_sample": "set temperature",
    "max_length": "use max_new_tokens",
    "num_return_sequences": "use n",
    "stop_strings": "use stop",
    "output_scores": "use logprobs, or the documented model classes",
    "output_logits": "use the documented model classes",
    "prefix_allowed_tokens_fn": "use choices",
}
"""Settings of generation that have another name here, or none."""


@dataclass(frozen=True)
class Wish:
    """What the caller wants beside the words.

    Attributes:
        options: how the answer is made.
        others: further fields of generation_config.json.
        scope: only requests of one scope share what is kept.
        adapter: which adapter answers; None for the model's active one.
    """

    options: Options
    others: Mapping[str, Any]
    scope: str = ""
    adapter: str | None = None


@dataclass(frozen=True)
class Asked:
    """A request that is ready for the engine.

    Attributes:
        job: for the engine.
        encoded: the prompt.
        clips: the pictures and clips in it.
        wish: what the caller wants.
        settings: the same as the engine gets it.
        notes: what a user should know.
        watch: how long everything took so far.
    """

    job: Job
    encoded: Encoded
    clips: tuple[Clip, ...]
    wish: Wish
    settings: GenerationOptions
    notes: tuple[str, ...]
    watch: Stopwatch


def wished(options: Options | None, scope: str, given: Mapping[str, Any]) -> Wish:
    """Options as an object or by name, further settings, and `adapter`.

    Raises:
        UnknownArgument: a name that nothing understands.
        RequestError: options given both ways, or twice, or that do not fit.
    """
    given = {name: value for name, value in given.items() if value is not None}
    adapter = given.pop("adapter", None)
    for short, name in SHORT.items():
        if short in given and name in given:
            raise RequestError(
                f"ask: {short}={given[short]!r} and {name}={given[name]!r} are one option; give one"
            )
    given = {SHORT.get(name, name): value for name, value in given.items()}
    named = {name: value for name, value in given.items() if name in NAMES}
    others = {name: value for name, value in given.items() if name not in NAMES}
    for name in others:
        if name in ELSEWHERE:
            raise UnknownArgument(f"ask: unknown argument {name!r}; {ELSEWHERE[name]}")
    known = {field.name for field in fields(GenerationOptions)} | {*REFUSED, "eos_token_id"}
    refuse_unknown("ask", others, (known | {"forced_eos_token_id", *NAMES, *SHORT}) - set(ELSEWHERE))
    if options is not None and named:
        raise RequestError(f"ask: options and {next(iter(named))} are both given; put it into the options")
    options = Options(**named) if options is None else options
    if drawing := [name for name in FURTHER if name in others]:
        if options.temperature == 0:
            raise RequestError(
                f"ask: {drawing[0]}={others[drawing[0]]!r} has no effect at temperature=0; leave one of them "
                "out"
            )
        others["do_sample"] = True
    return Wish(options, others, scope, adapter)


def prepare(
    pipeline: Any,
    exchanges: Sequence[Exchange],
    wish: Wish,
    watch: Stopwatch,
    *,
    notes: tuple[str, ...] = (),
    content: Callable[[Clip], bytes] = digest,
) -> Asked:
    """A question, with what was said before it, as a job; its media are looked at if need be.

    Args:
        pipeline: the `Pipeline`.
        notes: what is known already that a user should know.
        content: names the frames of a clip.

    Raises:
        RequestError: nothing can be asked so.
        CapacityError: more than the model has positions for, or than memory holds.
    """
    family, config, words = pipeline.family, pipeline.model.config, pipeline.words
    exchanges = merging(exchanges, wish.options.visual_tokens)
    encoded = family.encode(config, words, exchanges)
    settings = generation_options(wish.options, wish.others, pipeline.settings)
    if wish.options.choices is not None:
        settings = choosing(pipeline, exchanges, settings, wish.options, len(history(pipeline, encoded)))
    frames = [clip for one in exchanges for clip in one.clips]
    settings, cut = fitted(pipeline, settings, encoded, frames)
    stop = wish.options.stop
    job = job_of(
        pipeline, exchanges, encoded, wish.scope, content, wish.adapter,
        options=settings,
        seed=wish.options.seed if settings.do_sample else None,
        logprobs=wish.options.logprobs,
        stop=[TextStop(words.text, stop, len(history(pipeline, encoded)))] if stop else (),
    )  # fmt: skip
    look(pipeline, job, encoded)
    watch.lap("vision")
    shown = tuple(family.shown(exchanges))
    found = (
        *notes,
        *idle_seed(wish.options, settings),
        *idle_merging(wish.options.visual_tokens, encoded.counts),
        *cut,
    )
    return Asked(job, encoded, shown, wish, settings, found, watch)


def look(pipeline: Any, job: Job, encoded: Encoded) -> None:
    """Look at the media now, on the caller's time, unless the engine knows their places already."""
    try:
        job.embed.look_behind(pipeline.engine.known(job))  # type: ignore[attr-defined]
    except torch.OutOfMemoryError as error:
        raise out_of_memory(pipeline, encoded, job.options) from error


def out_of_memory(pipeline: Any, encoded: Encoded, settings: GenerationOptions) -> CapacityError:
    """The error that says what to do about it."""
    return CapacityError(
        f"ask: out of memory on {pipeline.device} at {encoded.length} prompt tokens and {settings.num_beams} "
        "beams; ask for fewer frames or beams, or load with dtype='bfloat16'"
    )


def job_of(
    pipeline: Any,
    exchanges: Sequence[Exchange],
    encoded: Encoded,
    scope: str,
    content: Callable[[Clip], bytes] = digest,
    adapter: str | None = None,
    **rest: Any,
) -> Job:
    """The job of a prompt; `rest` are further fields of it."""
    family, model = pipeline.family, pipeline.model
    scope = f"{scope}\n{state(model)}"
    adapter = chosen_adapter(model, adapter)
    sights = [
        Sight(clip, pipeline.specs[clip.kind], pipeline.device, pipeline.cache, scope, content(clip), adapter,
              encoded.counts[at])
        for at, clip in enumerate(family.shown(exchanges))
    ]  # fmt: skip
    told = family.instruction(pipeline.words, exchanges[-1].question) if sights else ()
    keys = [sight.key(told) for sight in sights]
    named = [(keys[one[0]], one[1]) if isinstance(one, tuple) else one for one in encoded.positions]
    lazy = Lazy(
        model.language_model.embed,
        encoded.positions,
        lambda at: family.tokens(model, sights[at], told),
        pipeline.device,
    )
    start = start_ids(pipeline)
    return Job(
        embed=lazy,
        length=encoded.length,
        keys=named,
        scope=f"{scope}\n{stamps(model, adapter)}",
        history=history(pipeline, encoded),
        encoder_ids=tuple(encoded.ids),
        start_ids=start,
        adapter=adapter,
        **rest,
    )


def chosen_adapter(model: Any, asked: str | None) -> str:
    """The adapter asked for, which must be known, else the active one."""
    if asked is None:
        return active(model)
    check_known(model, asked)
    return asked


def start_ids(pipeline: Any) -> tuple[int, ...] | None:
    """What T5's decoder begins with."""
    if not pipeline.model.config.text_config.is_encoder_decoder:
        return None
    begin = pipeline.settings.get("decoder_start_token_id", pipeline.settings.get("bos_token_id"))
    if begin is None:
        raise RequestError(
            f"ask: {pipeline.name} names neither decoder_start_token_id nor bos_token_id, expected one of "
            "them to begin answers with; add it to text_config in config.json"
        )
    return (begin,)


def history(pipeline: Any, encoded: Encoded) -> tuple[int, ...]:
    """The ids that count as the sequence so far."""
    start = start_ids(pipeline)
    return tuple(encoded.ids) if start is None else start


def end_token(pipeline: Any, settings: GenerationOptions) -> int | None:
    """The token by which the model ends its answers."""
    own = pipeline.words.text.eos_token_id
    if own is not None:
        return own
    return settings.eos_token_ids[0] if settings.eos_token_ids else None


def choosing(
    pipeline: Any,
    exchanges: Sequence[Exchange],
    settings: GenerationOptions,
    options: Options,
    start: int,
) -> GenerationOptions:
    """The settings under which only the given answers can come."""
    end = end_token(pipeline, settings)
    if end is None or end not in settings.eos_token_ids:
        raise RequestError(f"ask: choices, but {pipeline.name} names no end token; add eos_token_id")
    ids = ids_of(pipeline, exchanges, "choices", options.choices or ())
    choices = Choices(ids, end, start)
    if options.max_new_tokens is not None and options.max_new_tokens < choices.longest:
        raise RequestError(
            f"ask: max_new_tokens={options.max_new_tokens}, but the longest of the choices has "
            f"{choices.longest} tokens, its end token among them; leave max_new_tokens out"
        )
    return replace(settings, max_new_tokens=choices.longest, prefix_allowed_tokens_fn=choices)


def ids_of(
    pipeline: Any, exchanges: Sequence[Exchange], where: str, texts: Sequence[str]
) -> list[tuple[int, ...]]:
    """Given answers as ids behind the prompt."""
    config, words = pipeline.model.config, pipeline.words
    return answer_ids(
        where,
        texts,
        lambda text: pipeline.family.follow(config, words, exchanges, text),
        lambda ids: words.text.decode(ids, skip_special_tokens=True),
    )


def room(pipeline: Any) -> int | None:
    """Positions that a prompt and its answer may take together; None where nothing but memory ends them."""
    text = pipeline.model.config.text_config
    own = None if text.is_encoder_decoder else getattr(text, "max_position_embeddings", None)
    limits = [limit for limit in (own, pipeline.engine.limits.positions) if limit is not None]
    return min(limits, default=None)


def fitted(
    pipeline: Any, settings: GenerationOptions, encoded: Encoded, clips: Sequence[Clip]
) -> tuple[GenerationOptions, tuple[str, ...]]:
    """The settings cut to the positions that the prompt leaves, and a note if they were."""
    limit = room(pipeline)
    if limit is None or encoded.length + settings.most <= limit:
        return settings, ()
    left = limit - encoded.length
    if left < 1 or settings.prefix_allowed_tokens_fn is not None:
        raise CapacityError(
            f"ask: the prompt has {encoded.length} tokens, {encoded.visual} of them for "
            f"{sum(len(clip.frames) for clip in clips)} frames; {pipeline.name} has {limit} positions for "
            "them and the answer; ask for fewer frames or with fewer words"
        )
    note = f"{pipeline.name} has {limit} positions: room for {left} new tokens, not {settings.most}"
    return replace(settings, max_new_tokens=left), (note,)


def idle_seed(options: Options, settings: GenerationOptions) -> tuple[str, ...]:
    """A note where a seed has nothing to do."""
    if options.seed is None or settings.do_sample:
        return ()
    return ("nothing is drawn at random without temperature or top_p; the seed has no effect",)


def told(settings: GenerationOptions, options: Options, adapter: str | None) -> dict[str, Any]:
    """The settings that differ from the defaults of generation, and options that are not among them."""
    plain = {field.name: field.default for field in fields(settings)}
    found = {name: getattr(settings, name) for name in plain if name != "prefix_allowed_tokens_fn"}
    own = {name: value for name, value in options.to_dict().items()
           if name in ("seed", "stop", "choices", "logprobs", "visual_tokens")}  # fmt: skip
    own |= {} if adapter in (None, BASE) else {"adapter": adapter}
    return {name: value for name, value in found.items() if value != plain[name]} | own


__all__ = ["MAX_NEW_TOKENS", "Asked", "Position", "Stopwatch", "Wish", "prepare", "wished"]
