"""What is done to the scores before a token is chosen: `PENALTIES` in their order, the caller's own, and when
sampling `filters.FILTERS`. Every penalty returns the scores untouched when its option is off.

Penalties count only real ids: positions masked as padding are left out, so a row of a batch is treated as it
would be alone.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from watchword.errors import RequestError
from watchword.generation.filters import FILTERS, NEVER
from watchword.generation.options import GenerationOptions, Real
from watchword.shapes import Bool, Float, Int, Tensor

Scores = Float[Tensor, "N V"]

Processor = Callable[[Tensor, Tensor], Tensor]
"""A caller's own: processor(ids N S, scores N V) -> scores."""


@dataclass(frozen=True)
class Seen:
    """The ids of all rows so far.

    Args:
        given: the prompt's ids as the caller gave them, padding included.
        prompt: the same with each row's real ids moved to its end.
        real: True where `prompt` is real; None when all of it is.
        new: the ids generated so far.
        encoder: the ids an encoder read, or the prompt of a decoder-only model; None when unknown.
        encoder_real: True where `encoder` is real; None when all of it is.
    """

    given: Int[Tensor, "N n"]
    prompt: Int[Tensor, "N n"]
    real: Bool[Tensor, "N n"] | None
    new: Int[Tensor, "N t"]
    encoder: Int[Tensor, "N m"] | None = None
    encoder_real: Bool[Tensor, "N m"] | None = None

    @classmethod
    def start(
        cls,
        ids: Int[Tensor, "N n"],
        mask: Bool[Tensor, "N n"] | None = None,
        encoder: Int[Tensor, "N m"] | None = None,
        encoder_mask: Bool[Tensor, "N m"] | None = None,
    ) -> "Seen":
        """Nothing generated yet."""
        prompt, real = _right(ids, mask)
        read = (None, None) if encoder is None else _right(encoder, encoder_mask)
        return cls(ids, prompt, real, ids[:, :0], *read)

    def grown(self, new: Int[Tensor, "N t"]) -> "Seen":
        """The same rows with all of these generated ids."""
        return replace(self, new=new)

    @property
    def whole(self) -> Int[Tensor, "N S"]:
        """The sequence as the caller sees it: the prompt as given, then what was generated."""
        return torch.cat([self.given, self.new], dim=1)

    @property
    def ids(self) -> Int[Tensor, "N S"]:
        """Prompt and generated ids; see `mask`."""
        return torch.cat([self.prompt, self.new], dim=1)

    @property
    def mask(self) -> Bool[Tensor, "N S"]:
        """True where `ids` is real."""
        fresh = torch.ones_like(self.new, dtype=torch.bool)
        real = torch.ones_like(self.prompt, dtype=torch.bool) if self.real is None else self.real
        return torch.cat([real, fresh], dim=1)


def _right(ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Real ids at the end of each row, in their order."""
    if mask is None or bool(mask.all()):
        return ids, None
    order = mask.to(torch.uint8).argsort(dim=1, stable=True)
    return ids.gather(1, order), mask.gather(1, order)


def process(
    scores: Scores,
    seen: Seen,
    options: GenerationOptions,
    own: Iterable[Processor] = (),
) -> Scores:
    """Apply everything in its order; `own` are the caller's processors, called as processor(ids, scores)."""
    for penalty in PENALTIES:
        scores = penalty(scores, seen, options)
    for processor in own:
        scores = processor(seen.whole, scores)
    for filter_ in FILTERS if options.do_sample else ():
        scores = filter_(scores, options)
    return scores.log_softmax(dim=-1) if options.renormalize_logits else scores


def marked(ids: Int[Tensor, "N n"], where: Bool[Tensor, "N n"], scores: Scores) -> Bool[Tensor, "N V"]:
    """True at each row's ids; those not `where`, and those the vocabulary does not have, mark nothing."""
    size = scores.shape[1]
    marks = torch.zeros(len(scores), size + 1, dtype=torch.bool, device=scores.device)
    return marks.scatter_(1, ids.where(where & (ids < size), size), True)[:, :size]


def without(scores: Scores, ids: tuple[int, ...]) -> Scores:
    """These ids can not be chosen. Those below 0, which old configs say for none, are none."""
    ids = tuple(one for one in ids if one >= 0)
    _check_ids(ids, scores, "eos_token_id, suppress_tokens or begin_suppress_tokens")
    return scores.index_fill(1, torch.tensor(ids, device=scores.device), NEVER)


def only(scores: Scores, ids: tuple[int, ...]) -> Scores:
    """Nothing but these ids can be chosen."""
    _check_ids(ids, scores, "forced_bos_token_id or forced_eos_token_id")
    return torch.full_like(scores, NEVER).index_fill(1, torch.tensor(ids, device=scores.device), 0.0)


# ---- penalties, in the order of the list below


def bias_sequences(scores: Scores, seen: Seen, options: GenerationOptions) -> Scores:
    """`sequence_bias`: an own summand for the last id of a sequence."""
    return _biased(scores, seen, options.sequence_bias)


def reward_encoder_ids(scores: Scores, seen: Seen, options: GenerationOptions) -> Scores:
    """`encoder_repetition_penalty`: what the encoder read becomes likelier."""
    if options.encoder_repetition_penalty == 1:
        return scores
    ids, real = _encoder(seen, "encoder_repetition_penalty", options.encoder_repetition_penalty)
    return _penalized(scores, marked(ids, real, scores), 1 / options.encoder_repetition_penalty)


def penalize_repetition(scores: Scores, seen: Seen, options: GenerationOptions) -> Scores:
    """`repetition_penalty`: each id of the sequence so far becomes less likely, once."""
    if options.repetition_penalty == 1:
        return scores
    return _penalized(scores, marked(seen.ids, seen.mask, scores), options.repetition_penalty)


def forbid_repeated_ngrams(scores: Scores, seen: Seen, options: GenerationOptions) -> Scores:
    """`no_repeat_ngram_size`: no n-gram twice in prompt and answer."""
    size = options.no_repeat_ngram_size
    return _without_ngrams(scores, seen, seen.ids, seen.mask, size) if size else scores


def forbid_encoder_ngrams(scores: Scores, seen: Seen, options: GenerationOptions) -> Scores:
    """`encoder_no_repeat_ngram_size`: no n-gram of what the encoder read."""
    size = options.encoder_no_repeat_ngram_size
    if not size:
        return scores
    ids, real = _encoder(seen, "encoder_no_repeat_ngram_size", size)
    return _without_ngrams(scores, seen, ids, real, size)


def forbid_bad_words(scores: Scores, seen: Seen, options: GenerationOptions) -> Scores:
    """`bad_words_ids`: these sequences are never completed."""
    ends = {(one,) for one in options.eos_token_ids}  # the end itself can not be forbidden
    return _biased(scores, seen, tuple((word, NEVER) for word in options.bad_words_ids if word not in ends))


def forbid_early_end(scores: Scores, seen: Seen, options: GenerationOptions) -> Scores:
    """`min_new_tokens`: no end before it."""
    if not options.eos_token_ids or seen.new.shape[1] >= (options.min_new_tokens or 0):
        return scores
    return without(scores, options.eos_token_ids)


def allow_prefixes(scores: Scores, seen: Seen, options: GenerationOptions) -> Scores:
    """`prefix_allowed_tokens_fn`: nothing but what it allows."""
    allowed = options.prefix_allowed_tokens_fn
    if allowed is None:
        return scores
    kept = torch.full_like(scores, NEVER)
    for row, ids in enumerate(seen.whole):
        item = row // options.num_beams
        tokens = list(allowed(item, ids))
        if not tokens:
            raise RequestError(
                f"prefix_allowed_tokens_fn: no token for row {item} after {ids.tolist()}; "
                "it must return at least one id"
            )
        kept[row, tokens] = 0
    return scores + kept


def force_first(scores: Scores, seen: Seen, options: GenerationOptions) -> Scores:
    """`forced_bos_token_id`: the second id of a sequence of one."""
    length = seen.prompt.shape[1] + seen.new.shape[1]
    if options.forced_bos_token_id is None or length != 1:
        return scores
    return only(scores, (options.forced_bos_token_id,))


def force_end(scores: Scores, seen: Seen, options: GenerationOptions) -> Scores:
    """`forced_eos_token_id`: the last id that fits."""
    last = options.max_new_tokens is not None and seen.new.shape[1] == options.max_new_tokens - 1
    return only(scores, options.forced_eos_token_ids) if options.forced_eos_token_ids and last else scores


def remove_invalid(scores: Scores, seen: Seen, options: GenerationOptions) -> Scores:
    """`remove_invalid_values`: nan becomes 0, infinities the largest finite values."""
    return torch.nan_to_num(scores, nan=0.0) if options.remove_invalid_values else scores


def favour_end(scores: Scores, seen: Seen, options: GenerationOptions) -> Scores:
    """`exponential_decay_length_penalty`: after a while, the end becomes likelier from token to token."""
    if options.exponential_decay_length_penalty is None:
        return scores
    start, factor = options.exponential_decay_length_penalty
    over = seen.new.shape[1] - start
    if over <= 0:
        return scores
    ends = torch.tensor(options.eos_token_ids, device=scores.device)
    before = scores[:, ends]
    after = before + before.abs() * (factor**over - 1)
    return scores.index_copy(1, ends, after.where(before.isfinite(), before))  # forbidden ends stay forbidden


def suppress(scores: Scores, seen: Seen, options: GenerationOptions) -> Scores:
    """`suppress_tokens`: never these."""
    return without(scores, options.suppress_tokens) if options.suppress_tokens else scores


def suppress_at_begin(scores: Scores, seen: Seen, options: GenerationOptions) -> Scores:
    """`begin_suppress_tokens`: not these as the first free choice."""
    if not options.begin_suppress_tokens:
        return scores
    forced = seen.prompt.shape[1] <= 1 and options.forced_bos_token_id is not None
    return without(scores, options.begin_suppress_tokens) if seen.new.shape[1] == int(forced) else scores


PENALTIES: list[Callable[[Scores, Seen, GenerationOptions], Scores]] = [
    bias_sequences,
    reward_encoder_ids,
    penalize_repetition,
    forbid_repeated_ngrams,
    forbid_encoder_ngrams,
    forbid_bad_words,
    forbid_early_end,
    allow_prefixes,
    force_first,
    force_end,
    remove_invalid,
    favour_end,
    suppress,
    suppress_at_begin,
]


# ---- shared by several of the above


def _penalized(scores: Scores, where: Bool[Tensor, "N V"], penalty: Real) -> Scores:
    return scores.where(~where, torch.where(scores < 0, scores * penalty, scores / penalty))


def _encoder(seen: Seen, name: str, value: Real) -> tuple[Tensor, Tensor]:
    if seen.encoder is None:
        raise RequestError(
            f"generate: {name}={value} needs the prompt's ids, but it came as embeddings; pass input_ids"
        )
    real = seen.encoder_real
    return seen.encoder, torch.ones_like(seen.encoder, dtype=torch.bool) if real is None else real


def _check_ids(ids: Sequence[int], scores: Scores, names: str) -> None:
    size = scores.shape[1]
    if over := [one for one in ids if not 0 <= one < size]:
        raise RequestError(
            f"generate: ids {over} in {names}, but the vocabulary has {size}; expected ids from 0 to "
            f"{size - 1}"
        )


def _biased(scores: Scores, seen: Seen, biases: tuple[tuple[tuple[int, ...], Real], ...]) -> Scores:
    """Add each bias to its sequence's last id, in the rows that just wrote the ids before it."""
    if not biases:
        return scores
    for sequence, _ in biases:
        _check_ids(sequence, scores, "sequence_bias or bad_words_ids")
    ids, mask = seen.ids, seen.mask
    bias = torch.zeros_like(scores)
    for (*before, last), value in biases:
        length = len(before)
        if length > ids.shape[1] - (length > 0):
            continue
        tail = slice(ids.shape[1] - length, None)
        match = (ids[:, tail] == torch.tensor(before, dtype=ids.dtype, device=ids.device)) & mask[:, tail]
        bias[:, last] += torch.where(match.all(dim=1), value, 0.0)
    return scores + bias


def _without_ngrams(scores: Scores, seen: Seen, ids: Tensor, real: Tensor, size: int) -> Scores:
    """Forbid what would complete an n-gram of `ids` with the last ids of each row."""
    past, known = seen.ids, seen.mask
    if ids.shape[1] < size or past.shape[1] < size - 1:
        return scores
    grams = ids.unfold(1, size, 1)  # N W size
    tail = slice(past.shape[1] - (size - 1), None)
    same = (grams[..., :-1] == past[:, None, tail]).all(dim=-1)
    same &= real.unfold(1, size, 1).all(dim=-1) & known[:, tail].all(dim=-1, keepdim=True)
    return scores.masked_fill(marked(grams[..., -1], same, scores), NEVER)
