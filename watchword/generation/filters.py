"""What narrows the choice when sampling, in the order of `FILTERS`. Each puts what it drops at minus
infinity, and returns the scores untouched when its option is off."""

import math
from collections.abc import Callable

import torch

from watchword.generation.options import GenerationOptions
from watchword.shapes import Float, Tensor

NEVER = -math.inf
Scores = Float[Tensor, "N V"]


def temperature(scores: Scores, options: GenerationOptions) -> Scores:
    """Divide: below 1 sharper, above 1 flatter."""
    return scores if options.temperature == 1 else scores / options.temperature


def top_k(scores: Scores, options: GenerationOptions) -> Scores:
    """Keep the `top_k` best, and what equals the last of them."""
    if not options.top_k:
        return scores
    return scores.masked_fill(scores < _nth_best(scores, max(options.top_k, options.kept_at_least)), NEVER)


def top_p(scores: Scores, options: GenerationOptions) -> Scores:
    """Keep the best until they hold `top_p` of the probability."""
    if options.top_p >= 1:
        return scores
    rising, order = scores.sort()
    gone = rising.softmax(dim=-1).cumsum(dim=-1) <= 1 - options.top_p
    gone[:, -options.kept_at_least :] = False
    return scores.masked_fill(gone.scatter(1, order, gone), NEVER)


def min_p(scores: Scores, options: GenerationOptions) -> Scores:
    """Keep what is at least `min_p` times as likely as the best."""
    if options.min_p is None:
        return scores
    probs = scores.softmax(dim=-1)
    order = scores.argsort(dim=-1, descending=True)
    gone = (probs < options.min_p * probs.amax(dim=-1, keepdim=True)).gather(1, order)
    gone[:, : options.kept_at_least] = False
    return scores.masked_fill(gone.scatter(1, order, gone), NEVER)


def typical_p(scores: Scores, options: GenerationOptions) -> Scores:
    """Keep tokens whose surprise is nearest to the expected one, until they hold this much probability."""
    if options.typical_p >= 1:
        return scores
    surprise = -scores.log_softmax(dim=-1)
    expected = (surprise * (-surprise).exp()).nansum(dim=-1, keepdim=True)
    distance, order = (surprise - expected).abs().sort()
    held = scores.gather(1, order).softmax(dim=-1).cumsum(dim=-1)
    last = (held < options.typical_p).sum(dim=1, keepdim=True).clamp(max=scores.shape[1] - 1)
    gone = distance > distance.gather(1, last)
    gone[:, : options.kept_at_least] = False
    return scores.masked_fill(gone.scatter(1, order, gone), NEVER)


def epsilon_cutoff(scores: Scores, options: GenerationOptions) -> Scores:
    """Drop what is rarer than this."""
    if not 0 < options.epsilon_cutoff < 1:
        return scores
    return _above(scores, options.epsilon_cutoff, options)


def eta_cutoff(scores: Scores, options: GenerationOptions) -> Scores:
    """Drop what is rarer than a bound that falls with the entropy."""
    if not 0 < options.eta_cutoff < 1:
        return scores
    logs = scores.log_softmax(dim=-1)
    # a forbidden token adds nothing; its logarithm is cut off so that 0 · -inf does not become nan
    entropy = -(logs.exp() * logs.clamp(min=torch.finfo(logs.dtype).min)).sum(dim=-1, keepdim=True)
    bound = (math.sqrt(options.eta_cutoff) * (-entropy).exp()).clamp(max=options.eta_cutoff)
    return _above(scores, bound, options)


def _nth_best(scores: Scores, n: int) -> Float[Tensor, "N 1"]:
    return scores.topk(min(n, scores.shape[1])).values[:, -1:]


def _above(scores: Scores, bound: Tensor | float, options: GenerationOptions) -> Scores:
    gone = (scores.softmax(dim=-1) < bound) & (scores < _nth_best(scores, options.kept_at_least))
    return scores.masked_fill(gone, NEVER)


FILTERS: list[Callable[[Scores, GenerationOptions], Scores]] = [
    temperature,
    top_k,
    top_p,
    min_p,
    typical_p,
    epsilon_cutoff,
    eta_cutoff,
]
