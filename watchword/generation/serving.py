"""The engine: many requests at any time, one model.

There is no thread of its own. Whoever waits for a token takes a turn for everybody (`Engine.step`), or waits
while another one does. A turn lets out those who leave, gives every running row one more token, and runs a
piece of a prompt that waits, or several short prompts at once; so a long prompt never holds up running
answers for longer than a piece.

One lock guards who is open, who waits and whose turn it is. It is never held while a model runs. Whoever
leaves only sets a mark: garbage collection may end a request at any time, in any thread, in the middle of
anything, so ending one must not wait for a lock. The marks are seen to before the next turn at the latest.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch

from watchword.errors import CapacityError, RequestError
from watchword.generation.batch import Batch, told
from watchword.generation.engine import Decoder
from watchword.generation.entry import Entry, Scoring, fits_beside, known, may_join, step_together
from watchword.generation.kept import Kept
from watchword.generation.limits import USUAL, Limits, Measure
from watchword.generation.requests import Job, Ticket, Token
from watchword.shapes import Tensor

__all__ = ["Engine", "Limits"]

PATIENCE = 1.0
"""Seconds after which a thread that waits for another's turn looks for itself whether it is over."""


class Engine:
    """Runs requests of all kinds together; the answer of each is what it would be alone.

    Safe to share between threads.

    Args:
        decoder: the model.
        limits: what it takes on.
        kept: where the keys and values of prompts and answers are kept for those that begin alike.
        piece: positions of prompts that are run at once; fewer of one that has many before them, more of one
            that keeps nobody waiting.
        dtype: type of the model's embeddings.
        device: where the model is.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        limits: Limits = USUAL,
        kept: Kept | None = None,
        piece: int = 512,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.limits = limits
        self.kept = kept
        self._decoder, self._piece, self._dtype = decoder, piece, dtype
        self._device = torch.device(device)
        self._measure = Measure(decoder, limits, piece, dtype)
        self._batch = Batch(decoder, kept, dtype, self._device)
        self._waiting: deque[Ticket] = deque()
        self._entry: Entry | Scoring | None = None
        self._open: set[Ticket] = set()
        self._lock = threading.Lock()
        self._turn = threading.Condition(self._lock)
        self._stepping = self._closed = False

    def submit(self, job: Job) -> Ticket:
        """Take on a request. Nothing is run yet.

        Raises:
            RequestError: the request contradicts itself, or the engine is closed.
            CapacityError: too many requests are open, or this one is larger than the limits.
        """
        ticket = self._ticket(job)
        if not self._place(ticket):
            raise CapacityError(
                f"engine: {self.limits.requests} requests are open, which is the limit; wait for one of "
                "them, or set limits.requests higher"
            )
        return ticket

    def steps(self, ticket: Ticket) -> Iterator[Token]:
        """The tokens of a request as they come. Leaving the loop early cancels the request.

        Raises:
            Exception: whatever made the request fail.
        """
        if ticket.reason is None and ticket not in self._open:
            raise RequestError("engine: this ticket is another engine's; ask the one that gave it")
        try:
            while True:
                over = ticket.is_over()
                while ticket.fresh:
                    yield ticket.fresh.popleft()
                if over:
                    break
                self._take_turn(lambda: bool(ticket.fresh) or ticket.is_over())
        finally:
            self.cancel(ticket)
        if ticket.error is not None:
            raise ticket.error

    def run(self, job: Job) -> Ticket:
        """One request from its beginning to its end."""
        ticket = self.submit(job)
        deque(self.steps(ticket), maxlen=0)
        return ticket

    def run_all(self, jobs: Iterable[Job]) -> list[Ticket]:
        """Many requests together, as many at a time as the limits allow.

        Returns:
            Their tickets, in order; one that failed says so in its ticket. The tokens are there for `steps`.

        Raises:
            RequestError: a request contradicts itself, or the engine is closed.
            CapacityError: a request is larger than the limits.
        """
        tickets = [self._ticket(job) for job in jobs]
        try:
            for ticket in tickets:
                while not self._place(ticket):
                    self._take_turn(lambda: len(self._open) < self.limits.requests)
            for ticket in tickets:
                while ticket.reason is None:
                    self._take_turn(ticket.is_over)
        finally:
            for ticket in tickets:
                self.cancel(ticket)
        return tickets

    def cancel(self, ticket: Ticket) -> None:
        """Stop a request, wherever it is: at once, or where a turn is going on, at its end. Never waits.

        If it runs alone, its prompt is kept for the next one here: of 2,087 positions of a 7B model, 1.1 GB,
        a copy takes 0.3 to 0.8 s.
        """
        ticket.cancelled = True
        if ticket.reason is None and self._lock.acquire(blocking=False):
            try:
                if not self._stepping:
                    self._let_out()
                self._turn.notify_all()
            finally:
                self._lock.release()

    def known(self, job: Job) -> int:
        """Leading positions of a prompt that would not have to be run now."""
        return known(job, self.kept, self._decoder)

    def step(self) -> bool:
        """One turn; False when there is nothing to do."""
        self._take_turn(lambda: False)
        return bool(self._open)

    def close(self) -> None:
        """End all requests with an error, and take no more."""
        self._closed = True
        with self._lock:
            if not self._stepping:
                self._let_out()
            self._turn.notify_all()

    def _ticket(self, job: Job) -> Ticket:
        """The request with its options complete, if it fits at all."""
        ticket = Ticket(job, job.options.resolved(len(job.history)))
        self._measure.check(ticket)
        return ticket

    def _place(self, ticket: Ticket) -> bool:
        """Let the request wait for its start; False when too many are open."""
        with self._lock:
            if self._closed:
                raise RequestError("engine: it is closed and takes no requests; make another one")
            if len(self._open) >= self.limits.requests and not self._stepping:
                self._let_out()
            if len(self._open) >= self.limits.requests:
                return False
            self._open.add(ticket)
            self._waiting.append(ticket)
            return True

    # ---- turns

    def _take_turn(self, happened: Callable[[], bool]) -> None:
        """Do one step, or wait while another thread does one; nothing if what is waited for has happened."""
        mine = False
        try:
            with self._lock:
                while not happened():
                    if self._stepping:
                        self._turn.wait(PATIENCE)
                        continue
                    self._let_out()
                    if not happened():
                        self._stepping = mine = True
                    break
            if mine:
                self._step()
        except BaseException as error:
            if mine:
                self._abandon(error)
            raise
        finally:
            if mine:
                self._stepping = False  # first of all: an interrupt of the rest must not stop the others
                with self._lock:
                    self._turn.notify_all()
                    if not self._stepping:
                        self._let_out()

    @torch.no_grad()
    def _step(self) -> None:
        self._batch.step()  # first, so that a first token need not wait for the others' next
        left = self._piece
        while left > 0 and (company := self._next_in(left)):
            left -= sum(entry.coming for entry in company)
            self._enter(company)

    def _next_in(self, left: int) -> Sequence[Entry | Scoring]:
        """Whose prompts are run next: one, or several short ones together; nobody if it would take too long.

        Args:
            left: positions that may still be run in this step.
        """
        first = self._entry or self._admit(())
        self._entry = first
        if first is not None:
            self._batch.keep_owed()
        if isinstance(first, Entry):
            first.alone = not self._batch.running
        if first is None or first.coming > left < self._piece:
            return ()
        self._entry = None
        if isinstance(first, Scoring) or first.ticket.job.answers is not None or not self._begin(first):
            return (first,)
        company = [first]
        while first.coming and first.is_last and (other := self._admit(company)):
            self._entry = other
            if not may_join(other, company) or not self._begin(other):
                break
            if not fits_beside(other, company, left):
                break
            company.append(other)
            self._entry = None
        return company

    def _begin(self, entry: Entry) -> bool:
        """Take over what is known of its prompt; whether that went well."""
        try:
            entry.begin()
        except Exception as error:
            entry.ticket.finish("failed", told(error))
        return entry.ticket.reason is None

    def _admit(self, company: Sequence[Entry]) -> Entry | None:
        """Let the first in the queue begin, if there is room for it now, beside those that begin with it."""
        if not self._waiting:
            return None
        size = self._measure.size
        coming = [*(size(one.ticket) for one in company), size(self._waiting[0])]
        if not self._measure.fits([size(one.ticket, len(one.rows)) for one in self._batch.running], coming):
            return None
        ticket = self._waiting.popleft()
        try:
            return Entry(self._decoder, ticket, self.kept, self._piece, self._dtype, self._device)
        except Exception as error:
            ticket.finish("failed", told(error))
            return None

    def _enter(self, company: Sequence[Entry | Scoring]) -> None:
        """Run one piece of what is entering. If that fails, nobody else does."""
        if len(company) > 1:
            try:
                found = step_together([entry for entry in company if isinstance(entry, Entry)])
            except Exception:
                for entry in company:  # let each try alone, so that only the guilty one fails
                    self._enter((entry,))
                return
            for entry, logits in zip(company, found):
                self._go_on(entry, logits)
        elif company[0].ticket.reason is None:
            self._go_on(company[0])

    def _go_on(self, entry: Entry | Scoring, logits: Tensor | None = None) -> None:
        """Run the next piece, unless its scores are there already, and see where the request is then."""
        ticket = entry.ticket
        try:
            if isinstance(entry, Scoring):
                if entry.step():
                    ticket.finish("done")
                else:
                    self._entry = entry
                return
            found = entry.step() if logits is None else logits
            if found is None:
                self._entry = entry
            elif ticket.job.answers is not None:
                rows = self._measure.size(ticket).rows
                self._entry = Scoring(self._decoder, entry, found, rows, self._piece)
            else:
                self._batch.join(entry, found)
        except Exception as error:
            ticket.finish("failed", told(error))

    def _let_out(self) -> None:
        """The cancelled leave, and all if the engine was closed; the finished are forgotten."""
        while self._leave():
            pass

    def _leave(self) -> bool:
        """Whether anybody left."""
        leaving = [ticket for ticket in self._open if ticket.cancelled or self._closed]
        running = {one.ticket: one for one in self._batch.running}
        for ticket in leaving:
            error = None
            if not ticket.cancelled:
                count = sum(len(ids) for ids in ticket.sequences)
                error = RequestError(f"engine: closed after {count} tokens of this request; make another one")
            reason = "cancelled" if error is None else "failed"
            if ticket in running:
                self._batch.leave([running[ticket]], reason, error)
            elif ticket.reason is None:
                ticket.finish(reason, error)
        if self._entry is not None and self._entry.ticket.reason is not None:
            self._entry = None
        if leaving:
            self._waiting = deque(ticket for ticket in self._waiting if ticket.reason is None)
        self._open = {ticket for ticket in self._open if ticket.reason is None}
        return bool(leaving)

    def _abandon(self, error: BaseException) -> None:
        """An interrupt: nobody knows how far the step got, so what was running is lost."""
        batch, self._batch = self._batch, Batch(self._decoder, self.kept, self._dtype, self._device)
        self._entry = None
        with self._lock:
            waiting = set(self._waiting)
            lost = [ticket for ticket in self._open if ticket not in waiting]
        for ticket in lost:
            if ticket.reason is None:
                ticket.finish(
                    "failed", RequestError(f"engine: interrupted by {type(error).__name__}; ask again")
                )
        batch.keep_owed()  # prompts were run to their end before
