"""The running batch: requests join with their prompts run, take one step together, and leave one by one."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from watchword.errors import CapacityError
from watchword.generation.cache import KVCache, headroom
from watchword.generation.engine import Decoder
from watchword.generation.entry import Entry, keep
from watchword.generation.graphs import StaticCache, Stepper
from watchword.generation.kept import Kept
from watchword.generation.prefix import Chain
from watchword.generation.requests import Ticket
from watchword.generation.running import Answering, answering
from watchword.nn.lora import using
from watchword.shapes import Float, Int, Tensor


@dataclass
class Running:
    """A request in the batch.

    Args:
        ticket: the request.
        answering: what it does with scores.
        rows: its rows in the batch.
        start: slots before this one are the same in all its rows.
        chain: names of its prompt's blocks; None when nothing is kept.
        owed: whether those are not kept yet. It is the only one then: memory need not hold its keys and
            values twice until somebody else comes, or it leaves.
    """

    ticket: Ticket
    answering: Answering
    rows: list[int]
    start: int
    chain: Chain | None
    owed: bool = False


class Batch:
    """Rows of several requests in one cache.

    Args:
        decoder: the model.
        kept: where blocks go when an answer leaves; None without.
        dtype: type of the keys and values.
        device: where the model is.
    """

    def __init__(self, decoder: Decoder, kept: Kept | None, dtype: torch.dtype, device: torch.device) -> None:
        self.running: list[Running] = []
        self._decoder, self._kept, self._device = decoder, kept, device
        self.cache: KVCache | StaticCache = KVCache(decoder.cache_spec, 0, 0, dtype, device)
        self._fixed = StaticCache(decoder.cache_spec, dtype, device) if isinstance(decoder, Stepper) else None
        self._next: list[int] = []

    def join(self, entry: Entry, logits: Float[Tensor, "1 V"]) -> None:
        """A request whose prompt is run gets its first tokens and, unless they are all, its rows."""
        ticket = entry.ticket
        own = answering(ticket, self._device)
        width = ticket.job.width
        choice = own.choose(
            logits.expand(width, -1), list(range(width)), logits.argmax(dim=-1).tolist() * width
        )
        if not choice.ids:
            if entry.owed:
                entry.keep(last=True)
            ticket.finish("done")
            return
        if entry.owed and self._fixed is not None:
            entry.keep()
        if len(choice.ids) > 1:
            entry.cache.fork(len(choice.ids))
        start, at = entry.cache.longest, self.cache.rows
        if at == 0:
            self.cache = entry.cache if self._fixed is None else self._fixed.restarted(entry.cache)
        else:
            # all the room it will want, so that nothing moves while it runs; the most patient ones grow later
            self.cache.capacity = max(self.cache.capacity, start + min(ticket.options.most, headroom(start)))
            self.cache.append_rows(entry.cache)
        rows = list(range(at, self.cache.rows))
        self.running.append(Running(ticket, own, rows, start, entry.chain, entry.owed))
        self._next += choice.ids

    @torch.no_grad()
    def step(self) -> None:
        """One more token for every row."""
        if not self.running:
            return
        logits = self._decode(torch.tensor(self._next, device=self._device))
        if not self.running:
            return
        best = logits.argmax(dim=-1).tolist()
        gone: list[int] = []
        for one in self.running:
            try:
                gone += self._go_on(one, logits, best)
            except Exception as error:
                self._keep(one, answered=False)
                one.ticket.finish("failed", error)
                gone += one.rows
                one.rows = []
        self._close_up(gone)

    def leave(self, over: Iterable[Running], reason: str, error: Exception | None = None) -> None:
        """These requests are over."""
        gone = []
        for one in tuple(over):
            self._keep(one, answered=error is None)
            gone += one.rows
            one.rows = []
            one.ticket.finish(reason, error)
        self._close_up(gone)

    def _go_on(self, one: Running, logits: Float[Tensor, "N V"], best: list[int]) -> list[int]:
        """Let one request choose; the rows that it leaves."""
        choice = one.answering.choose(logits, one.rows, best)
        sources = [one.rows[place] for place in choice.rows]
        if not sources:
            gone = one.rows
            self._keep(one)
            one.rows = []
            one.ticket.finish("done")
            return gone
        if len(sources) < len(one.rows):
            gone = [row for row in one.rows if row not in sources]
            one.rows = sources
        else:
            gone = []
            if sources != one.rows:
                self.cache.exchange(one.rows, sources, one.start)
        for row, token in zip(one.rows, choice.ids):
            self._next[row] = token
        return gone

    def keep_owed(self) -> None:
        """Somebody else comes, who may begin alike: keep what is owed."""
        for one in self.running:
            if one.owed and one.chain is not None and self._kept is not None:
                one.owed = False
                keep(self._kept, one.chain.hashes, one.chain.block, self.cache, one.rows[0])

    def _keep(self, one: Running, *, answered: bool = True) -> None:
        """Keep the blocks of a single answer, for whoever goes on from it. Its last token was never run.

        Args:
            answered: False keeps those of its prompt alone, if they are owed.
        """
        options = one.ticket.options
        if (
            self._kept is None
            or one.chain is None
            or max(options.num_beams, options.num_return_sequences) > 1
        ):
            return
        last, one.owed = one.owed, False
        if answered:
            one.chain.grow(one.ticket.sequences[0][:-1])
        elif not last:
            return
        keep(self._kept, one.chain.hashes, one.chain.block, self.cache, one.rows[0], last=last)

    def _close_up(self, gone: list[int]) -> None:
        if gone:
            order = self.cache.remove(gone)
            place = {old: new for new, old in enumerate(order)}
            self._next = [self._next[old] for old in order]
            for one in self.running:
                one.rows = [place[row] for row in one.rows]
        self.running = [one for one in self.running if one.ticket.reason is None]

    def _decode(self, ids: Int[Tensor, "N"]) -> Float[Tensor, "R V"]:
        """Scores of all rows, or of those that are left after others failed."""
        try:
            with using(self._adapters(len(ids)), self._device):
                # only a `Stepper` gets a `StaticCache`
                return self._decoder.decode(ids, self.cache).to(torch.float32)  # type: ignore[arg-type]
        except Exception as error:
            if len(self.running) == 1:
                self.leave(self.running, "failed", told(error))
                return torch.empty(0, 0, device=self._device)
        return self._apart(ids)

    def _adapters(self, rows: int) -> list[str | None]:
        """The adapter of every row."""
        names: list[str | None] = [None] * rows
        for one in self.running:
            for row in one.rows:
                names[row] = one.ticket.job.adapter
        return names

    def _apart(self, ids: Int[Tensor, "N"]) -> Float[Tensor, "R V"]:
        """Something failed in company: let each request try alone, so that only the guilty one fails."""
        whole, self.cache = self.cache, self.cache.picked([])
        rows: list[int] = []
        logits: list[Tensor] = []
        for one in self.running:
            alone = whole.picked(one.rows)
            try:
                with using(one.ticket.job.adapter):
                    logits.append(self._decoder.decode(ids[one.rows], alone).to(torch.float32))
            except Exception as error:
                one.ticket.finish("failed", told(error))
                continue
            at = len(rows)
            rows += one.rows
            one.rows = list(range(at, len(rows)))
            self.cache.append_rows(alone)
        self._next = [self._next[row] for row in rows]
        self.running = [one for one in self.running if one.ticket.reason is None]
        return torch.cat(logits) if logits else torch.empty(0, 0, device=self._device)


def told(error: Exception) -> Exception:
    """The same error, or one that says what to do about it."""
    if not isinstance(error, torch.OutOfMemoryError):
        return error
    full = CapacityError(f"engine: out of memory ({error}); set limits.rows or limits.bytes lower")
    full.__cause__ = error
    return full
