"""What a running request does with the scores of its rows: samples grow apart, beams grow together."""

import hashlib
from dataclasses import dataclass, fields
from typing import Protocol, runtime_checkable

import torch

from watchword.errors import RequestError
from watchword.generation.choose import greedy, sample
from watchword.generation.ends import Ends
from watchword.generation.logits import Seen, process
from watchword.generation.options import GenerationOptions
from watchword.generation.requests import Job, Ticket, Token
from watchword.generation.search import Search, candidates
from watchword.shapes import Float, Tensor

SILENT = {
    "max_new_tokens", "eos_token_ids", "pad_token_id", "num_return_sequences", "early_stopping",
    "length_penalty", "temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff",
}  # fmt: skip
"""Options that change no score when nothing is sampled and nothing searched."""


@dataclass(frozen=True)
class Choice:
    """What comes next.

    Args:
        ids: the next token of every row that goes on.
        rows: which of the request's rows each of them continues.
    """

    ids: list[int]
    rows: list[int]


@runtime_checkable
class Answering(Protocol):
    """A request whose prompt is run."""

    def choose(self, logits: Float[Tensor, "N V"], rows: list[int], best: list[int]) -> Choice:
        """The next tokens, given the scores of the whole batch, the rows that are its own, and every row's
        best token."""
        ...


def answering(ticket: Ticket, device: torch.device) -> Answering:
    """Samples or beams, as the request's options say."""
    return Beamed(ticket, device) if ticket.options.num_beams > 1 else Samples(ticket, device)


class Samples:
    """One or more answers, each a row of its own that leaves when it ends."""

    def __init__(self, ticket: Ticket, device: torch.device) -> None:
        self.lines = [Line(ticket, number, device) for number in range(ticket.options.num_return_sequences)]

    def choose(self, logits: Float[Tensor, "N V"], rows: list[int], best: list[int]) -> Choice:
        """One token for every answer."""
        over = [line.take(logits, row, best[row]) for line, row in zip(self.lines, rows)]
        left = [place for place, ended in enumerate(over) if not ended]
        self.lines = [self.lines[place] for place in left]
        return Choice([line.last for line in self.lines], left)


class Line:
    """One answer by greedy choice or sampling."""

    def __init__(self, ticket: Ticket, number: int, device: torch.device) -> None:
        job, options = ticket.job, ticket.options
        self._ticket, self._number, self._options = ticket, number, options
        self._ends = Ends(options, job.stop)
        plain = not job.processors and not job.stop and is_plain(options)
        self._seen = None if plain else seen_by(job, 1, device)
        self._generator = generator(job.seed, number, device) if options.do_sample else None

    @property
    def ids(self) -> list[int]:
        """The answer so far."""
        return self._ticket.sequences[self._number]

    @property
    def last(self) -> int:
        """Its last token."""
        return self.ids[-1]

    def take(self, logits: Float[Tensor, "N V"], row: int, best: int) -> bool:
        """Choose the next token by the scores in this row, and say whether it was the last."""
        if self._seen is None:
            token, over = best, self._is_last(best)
        else:
            token, over = self._processed(logits, row, self._seen)
        self._ticket.deliver(Token(token, self._number, *self._logprobs(logits, row, token)))
        if over:
            self._ticket.end(self._number)
        return over

    def _is_last(self, token: int) -> bool:
        return token in self._options.eos_token_ids or len(self.ids) + 1 >= self._options.most

    def _processed(self, logits: Float[Tensor, "N V"], row: int, seen: Seen) -> tuple[int, bool]:
        new = torch.tensor([self.ids], dtype=torch.long, device=logits.device)
        so_far = seen.grown(new)
        own = logits[row : row + 1].clone()  # a processor may write
        scores = process(own, so_far, self._options, self._ticket.job.processors)
        chosen = sample(scores, self._generator) if self._options.do_sample else greedy(scores)
        over = self._ends(so_far.grown(torch.cat([new, chosen[:, None]], dim=1)), scores)
        token = int(chosen)
        return token, bool(over) or self._is_last(token)

    def _logprobs(
        self, logits: Float[Tensor, "N V"], row: int, token: int
    ) -> tuple[float | None, tuple[tuple[int, float], ...]]:
        count = self._ticket.job.logprobs
        if count is None:
            return None, ()
        logs = logits[row].log_softmax(dim=-1)
        top = logs.topk(min(count, len(logs)))
        return float(logs[token]), tuple(zip(top.indices.tolist(), top.values.tolist()))


class Beamed:
    """One beam search, whose rows are exchanged at every step and leave together."""

    def __init__(self, ticket: Ticket, device: torch.device) -> None:
        job, options = ticket.job, ticket.options
        width = options.num_beams
        self._ticket = ticket
        many = seen_by(job, width * candidates(options), device)
        own = generator(job.seed, 0, device) if options.do_sample else None
        self._search = Search(
            seen_by(job, width, device), many, options, Ends(options, job.stop), job.processors, own
        )

    def choose(self, logits: Float[Tensor, "N V"], rows: list[int], best: list[int]) -> Choice:
        """One token for every beam; those that all agree on are delivered when there is one answer."""
        search, ticket = self._search, self._ticket
        ids, sources = search.step(search.scores(logits[rows]))
        if search.done:
            self._close()
            return Choice([], [])
        if ticket.options.num_return_sequences == 1:
            for token in search.beams.settled()[len(ticket.sequences[0]) :]:
                ticket.deliver(Token(token))
        return Choice(ids.tolist(), sources.tolist())

    def _close(self) -> None:
        ticket, best = self._ticket, self._search.beams.result()
        ticket.sequences_scores = best.scores[0].tolist()
        for number, (ids, origin) in enumerate(zip(best.ids[0].tolist(), best.origin[0].tolist())):
            length = sum(beam >= 0 for beam in origin)
            for token in ids[len(ticket.sequences[number]) : length]:
                ticket.deliver(Token(token, number))
            ticket.end(number)


def is_plain(options: GenerationOptions) -> bool:
    """Whether the best raw score is the choice."""
    if options.do_sample or options.num_beams > 1:
        return False
    loud = (field for field in fields(options) if field.name not in SILENT)
    neutral = {"min_new_tokens": (None, 0)}
    return all(getattr(options, field.name) in neutral.get(field.name, (field.default,)) for field in loud)


def seen_by(job: Job, copies: int, device: torch.device) -> Seen:
    """The ids so far, `copies` times."""

    def rows(ids: tuple[int, ...]) -> Tensor:
        return torch.tensor([ids] * copies, dtype=torch.long, device=device).view(copies, -1)

    return Seen.start(rows(job.history), None, None if job.encoder_ids is None else rows(job.encoder_ids))


def generator(seed: int | None, number: int, device: torch.device) -> torch.Generator:
    """A source of random numbers for answer `number` of a request, depending on nothing else.

    The first answer's numbers are those that `torch.manual_seed(seed)` would give.
    """
    own = torch.Generator(device)
    if seed is None:
        seed = int(torch.randint(2**62, ()))
    elif number:
        digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
        seed = int.from_bytes(digest[:8], "big") >> 1
    if not -(2**63) <= seed < 2**64:
        raise RequestError(f"engine: seed={seed}; expected a whole number of at most 64 bits")
    return own.manual_seed(seed)
