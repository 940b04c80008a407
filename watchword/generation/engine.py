"""The loop: the prompt once, then one token per row and step.

`steps` is a synchronous generator and the only place where greedy choice and sampling happen; `generate`
collects it, or runs the beams. A model takes part by fitting `Decoder`. Nothing is kept between calls.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from watchword.errors import RequestError
from watchword.generation.cache import KVCache, headroom
from watchword.generation.choose import greedy, sample
from watchword.generation.ends import Ends, Stop
from watchword.generation.logits import Processor, Seen, process
from watchword.generation.options import GenerationOptions
from watchword.generation.search import Search, candidates
from watchword.nn.attention import CacheSpec
from watchword.shapes import Bool, Float, Int, Tensor


@runtime_checkable
class Decoder(Protocol):
    """What generation needs from a model. Decoder-only and encoder-decoder models both fit.

    Attributes:
        cache_spec: what it wants remembered.
        piecewise: whether `prefill` may be called with one piece of a prompt after the other.
        max_positions: positions that exist; None when nothing ends them but memory.
    """

    cache_spec: CacheSpec
    piecewise: bool
    max_positions: int | None

    def prefill(
        self,
        embeds: Float[Tensor, "B L D"],
        lengths: Int[Tensor, "B"],
        cache: KVCache,
        start_ids: Int[Tensor, "B n"] | None,
    ) -> Float[Tensor, "B V"]:
        """Run the prompt (rows padded on the right) into the cache; scores of each row's next token."""
        ...

    def extend(
        self, ids: Int[Tensor, "B L"], lengths: Int[Tensor, "B"], cache: KVCache
    ) -> Float[Tensor, "B L V"]:
        """Several known tokens per row (padded on the right); scores of what follows each of them."""
        ...

    def decode(self, ids: Int[Tensor, "B"], cache: KVCache) -> Float[Tensor, "B V"]:
        """One more token per row; scores of the next."""
        ...


@dataclass(frozen=True)
class Prompt:
    """What the rows start from.

    Args:
        embeds: the embedded prompt, real positions of each row first.
        lengths: real positions per row.
        history: ids that count as the sequence so far, for lengths and penalties: the prompt's ids, or the
            decoder's start ids; None for a prompt that is only embeddings.
        history_mask: True where `history` is real; None when all of it is.
        start_ids: what an encoder-decoder model's decoder begins with; None for decoder-only models.
        encoder_ids: ids for the penalties that look at the prompt; None when unknown.
        encoder_mask: True where `encoder_ids` is real; None when all of it is.
    """

    embeds: Float[Tensor, "B L D"]
    lengths: Int[Tensor, "B"]
    history: Int[Tensor, "B n"] | None = None
    history_mask: Bool[Tensor, "B n"] | None = None
    start_ids: Int[Tensor, "B m"] | None = None
    encoder_ids: Int[Tensor, "B k"] | None = None
    encoder_mask: Bool[Tensor, "B k"] | None = None

    def seen(self, copies: int) -> Seen:
        """The ids so far, each row `copies` times."""
        empty = torch.zeros(len(self.embeds), 0, dtype=torch.long, device=self.embeds.device)
        history = empty if self.history is None else self.history
        rest = (self.history_mask, self.encoder_ids, self.encoder_mask)
        return Seen.start(
            history.repeat_interleave(copies, dim=0),
            *(None if one is None else one.repeat_interleave(copies, dim=0) for one in rest),
        )


@dataclass(frozen=True)
class Step:
    """One token for every row.

    Args:
        ids: the tokens; fill for rows that had ended before.
        finished: rows that have ended, with this token or before.
        logits: raw scores in float32.
        scores: the same after all processing.
        cache: keys and values of everything before these tokens.
    """

    ids: Int[Tensor, "N"]
    finished: Bool[Tensor, "N"]
    logits: Float[Tensor, "N V"]
    scores: Float[Tensor, "N V"]
    cache: KVCache


@dataclass(frozen=True)
class Generated:
    """The result.

    Args:
        sequences: generated ids, without the prompt's; the end token included, the rest of a row filled.
        scores: processed scores per step, if `output_scores`.
        logits: raw float32 scores per step, if `output_logits`.
        sequences_scores: the final score of each beam, best first, if there were beams.
        beam_indices: the row every token of a beam came from, -1 after its end, if there were beams.
        cache: keys and values of all but the last token.
    """

    sequences: Int[Tensor, "N t"]
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    sequences_scores: Float[Tensor, "N"] | None = None
    beam_indices: Int[Tensor, "N t"] | None = None
    cache: KVCache | None = None


def generate(
    decoder: Decoder,
    prompt: Prompt,
    options: GenerationOptions,
    *,
    processors: Sequence[Processor] = (),
    stop: Sequence[Stop] = (),
    on_token: Callable[[Step], None] | None = None,
) -> Generated:
    """Generate until every row has ended.

    Args:
        decoder: the model.
        prompt: what the rows start from.
        options: how to choose and when to stop.
        processors: applied to the scores after all penalties and before the sampling filters.
        stop: further reasons for a row to end.
        on_token: called after every step; not with beams, whose tokens are known only at the end.

    Raises:
        RequestError: the options do not fit the prompt or each other.
    """
    if options.num_beams == 1:
        return _collect(steps(decoder, prompt, options, processors=processors, stop=stop), options, on_token)
    if on_token is not None:
        raise RequestError(
            f"generate: num_beams={options.num_beams} can not be streamed, tokens of beams "
            "are known only at the end; set num_beams=1"
        )
    return _search(decoder, prompt, options, processors, stop)


def steps(
    decoder: Decoder,
    prompt: Prompt,
    options: GenerationOptions,
    *,
    processors: Sequence[Processor] = (),
    stop: Sequence[Stop] = (),
) -> Iterator[Step]:
    """Greedy choice or sampling, token by token. Arguments as for `generate`."""
    ends = Ends(options, stop)
    seen, options = _begin(prompt, options, options.num_return_sequences)
    choose = sample if options.do_sample else greedy
    logits, cache = _prefill(decoder, prompt, options, options.num_return_sequences)
    finished = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    for _ in range(options.most):
        scores = process(logits, seen, options, processors)
        ids = choose(scores)
        if options.eos_token_ids and options.fill is not None:
            ids = ids.where(~finished, options.fill)
        seen = seen.grown(torch.cat([seen.new, ids[:, None]], dim=1))
        finished = finished | ends(seen, scores)
        yield Step(ids, finished, logits, scores, cache)
        if seen.new.shape[1] == options.most or bool(finished.all()):
            return
        logits = _decode(decoder, ids, cache)


def _begin(prompt: Prompt, options: GenerationOptions, copies: int) -> tuple[Seen, GenerationOptions]:
    """The ids so far, and the options with limits in new tokens."""
    if bool((prompt.lengths < 1).any()):
        raise RequestError(
            f"generate: rows of {prompt.lengths.tolist()} positions; each needs at least one "
            "that its mask does not hide"
        )
    seen = prompt.seen(copies)
    return seen, options.resolved(seen.prompt.shape[1])


@torch.no_grad()
def _prefill(
    decoder: Decoder, prompt: Prompt, options: GenerationOptions, copies: int
) -> tuple[Float[Tensor, "N V"], KVCache]:
    """Run the prompt once, then give each of its `copies` a cache row of its own."""
    rows, length, _ = prompt.embeds.shape
    if prompt.start_ids is not None:
        length = prompt.start_ids.shape[1]
    room = min(options.most, headroom(length))
    first = room if copies == 1 else 0  # a fork copies: it makes room afterwards
    cache = KVCache(decoder.cache_spec, rows, length + first, prompt.embeds.dtype, prompt.embeds.device)
    logits = decoder.prefill(prompt.embeds, prompt.lengths, cache, prompt.start_ids)
    logits = logits.to(torch.float32, copy=True)  # a copy: callers keep it, models may reuse theirs
    if copies > 1:
        cache.fork(copies)
        cache.ensure(length + room)
        logits = logits.repeat_interleave(copies, dim=0)
    return logits, cache


@torch.no_grad()
def _decode(decoder: Decoder, ids: Int[Tensor, "N"], cache: KVCache) -> Float[Tensor, "N V"]:
    return decoder.decode(ids, cache).to(torch.float32, copy=True)


def _collect(
    source: Iterator[Step], options: GenerationOptions, on_token: Callable[[Step], None] | None
) -> Generated:
    ids, scores, logits = [], [], []
    for step in source:
        ids.append(step.ids)
        if options.output_scores:
            scores.append(step.scores)
        if options.output_logits:
            logits.append(step.logits)
        if on_token is not None:
            on_token(step)
    return Generated(
        torch.stack(ids, dim=1),
        tuple(scores) if options.output_scores else None,
        tuple(logits) if options.output_logits else None,
        cache=step.cache,
    )


def _search(
    decoder: Decoder,
    prompt: Prompt,
    options: GenerationOptions,
    processors: Sequence[Processor],
    stop: Sequence[Stop],
) -> Generated:
    """Beam search; see `beams`."""
    ends, width = Ends(options, stop), options.num_beams
    seen, options = _begin(prompt, options, width)
    search = Search(seen, prompt.seen(width * candidates(options)), options, ends, processors)
    logits, cache = _prefill(decoder, prompt, options, width)
    all_scores, all_logits = [], []
    while True:
        scores = search.scores(logits)
        all_scores += [scores] if options.output_scores else []
        all_logits += [logits] if options.output_logits else []
        ids, rows = search.step(scores)
        cache.reorder(rows, within_forks=True)
        if search.done:
            break
        logits = _decode(decoder, ids, cache)
    best = search.beams.result()
    return Generated(
        best.ids.flatten(0, 1),
        tuple(all_scores) if options.output_scores else None,
        tuple(all_logits) if options.output_logits else None,
        best.scores.flatten(),
        best.origin.flatten(0, 1),
        cache,
    )
