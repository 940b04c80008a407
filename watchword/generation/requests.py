"""What a caller hands to the engine, and what comes back."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from watchword.errors import RequestError
from watchword.generation.ends import Stop
from watchword.generation.logits import Processor
from watchword.generation.options import GenerationOptions
from watchword.generation.prefix import Key
from watchword.shapes import Float, Tensor

Embed = Callable[[int, int], Float[Tensor, "1 n D"]]
"""embed(start, end): the embedded positions from `start` to `end` - 1 of a prompt."""


@dataclass(frozen=True, eq=False)
class Job:
    """One request.

    Args:
        embed: gives the prompt's embeddings piece by piece; called only for what is not known already.
        length: positions of the prompt.
        options: how to choose and when to stop.
        keys: names the prompt's positions, so that equal beginnings are run once; None shares nothing.
        scope: only jobs of one scope share. It must say whatever else the numbers depend on: the weights, and
            the caller, where callers should not learn from the time of an answer what others asked.
        history: ids that count as the sequence so far: the prompt's, or the decoder's start ids.
        encoder_ids: ids for the penalties that look at the prompt; None when unknown.
        start_ids: what an encoder-decoder model's decoder begins with; None for decoder-only models.
        seed: what sampling depends on, whatever runs beside it; None takes one from torch's global generator.
        logprobs: give log-probabilities, of the chosen token and of so many of the likeliest.
        processors: applied to the scores after all penalties and before the sampling filters.
        stop: further reasons to end.
        answers: not to generate, but to say how likely these answers are.
        adapter: the LoRA adapter that it runs with, by name, see `nn.lora`; None for the model's active one.
    """

    embed: Embed
    length: int
    options: GenerationOptions
    keys: Sequence[Key] | None = None
    scope: str = ""
    history: tuple[int, ...] = ()
    encoder_ids: tuple[int, ...] | None = None
    start_ids: tuple[int, ...] | None = None
    seed: int | None = None
    logprobs: int | None = None
    processors: Sequence[Processor] = ()
    stop: Sequence[Stop] = ()
    answers: tuple[tuple[int, ...], ...] | None = None
    adapter: str | None = None

    def __post_init__(self) -> None:
        options = self.options
        if self.length < 1:
            raise RequestError(f"engine: a prompt of {self.length} positions; expected at least one")
        if self.keys is not None and len(self.keys) != self.length:
            raise RequestError(
                f"engine: {len(self.keys)} keys for {self.length} positions; expected one for each"
            )
        if options.output_scores or options.output_logits:
            raise RequestError(
                "engine: output_scores and output_logits hold whole vocabularies; use logprobs"
            )
        if self.logprobs is not None and (self.logprobs < 0 or options.num_beams > 1):
            raise RequestError(
                f"engine: logprobs={self.logprobs} with {options.num_beams} beams; expected 0 or more, "
                "and beams have a score as a whole: set num_beams=1"
            )
        if self.answers is not None and not (self.answers and all(self.answers)):
            raise RequestError(
                f"engine: {len(self.answers)} answers to score, some of them without tokens; "
                "expected at least one answer, and tokens in each"
            )

    @property
    def width(self) -> int:
        """Rows that this job takes in the running batch."""
        return max(self.options.num_beams, self.options.num_return_sequences)


@dataclass(frozen=True)
class Token:
    """One token of an answer.

    Args:
        id: the token.
        sample: of which answer, if the request asks for several.
        logprob: its log-probability by the model alone, before penalties and temperature, if asked for.
        top: the likeliest ids and their log-probabilities, as many as asked for.
    """

    id: int
    sample: int = 0
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Ticket:
    """A request in the engine, to be read by its caller and written by the engine.

    Attributes:
        job: the request.
        options: its options, with limits in new tokens.
        reason: why it is over: "done", "cancelled" or "failed"; None while it is not.
        error: why it failed.
        sequences: the ids of every answer so far, end tokens included; with beams at the end, best first.
        ends: why each answer ended: "eos", "length" or "stop"; None before.
        sequences_scores: the final score of each beam.
        scores: log-probabilities of every token of `job.answers`.
        reused: positions of the prompt that did not have to be run.
        seconds: since it was submitted: "waiting" until work began, "prompt" until the prompt was run,
            "first_token", "total".
    """

    def __init__(self, job: Job, options: GenerationOptions) -> None:
        self.job = job
        self.options = options
        self.reason: str | None = None
        self.error: Exception | None = None
        self.sequences: list[list[int]] = [[] for _ in range(options.num_return_sequences)]
        self.ends: list[str | None] = [None] * options.num_return_sequences
        self.sequences_scores: list[float] | None = None
        self.scores: list[list[float]] | None = None
        self.reused = 0
        self.seconds: dict[str, float] = {}
        self.cancelled = False
        self.fresh: deque[Token] = deque()
        self._start = time.monotonic()

    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self.reason is not None

    def deliver(self, token: Token) -> None:
        """One more token, for whoever waits."""
        self.mark("first_token")
        self.sequences[token.sample].append(token.id)
        self.fresh.append(token)

    def end(self, sample: int) -> None:
        """This answer is complete; say why."""
        ids = self.sequences[sample]
        if ids and ids[-1] in self.options.eos_token_ids:
            self.ends[sample] = "eos"
        else:
            self.ends[sample] = "length" if len(ids) >= self.options.most else "stop"

    def finish(self, reason: str, error: Exception | None = None) -> None:
        """The request is over."""
        self.mark("total")
        self.error = error
        self.reason = reason

    def mark(self, name: str) -> None:
        """Note the seconds up to now, once."""
        self.seconds.setdefault(name, time.monotonic() - self._start)
