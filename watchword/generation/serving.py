"""The engine: many requests at any time, one model.

There is no thread of its own. Whoever waits for a token takes a turn for everybody (`Engine.step`), or waits
while another one does. A turn lets out those who leave, gives every running row one more token, and runs a
piece of a prompt that waits; so a long prompt never holds up running answers for longer than a piece.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from watchword.errors import CapacityError, RequestError
from watchword.generation.batch import Batch, told
from watchword.generation.cache import PLACES, STEP
from watchword.generation.engine import Decoder
from watchword.generation.entry import Entry, Scoring, known
from watchword.generation.kept import Kept
from watchword.generation.requests import Job, Ticket, Token


@dataclass(frozen=True)
class Limits:
    """What an engine takes on.

    Args:
        requests: requests at a time, those that wait included.
        rows: rows at a time; beams and samples count each. Requests wait for rows.
        positions: of the prompt and the answer together, per request; the model's own limit holds anyway.
        bytes: of keys and values at a time. Requests wait for bytes.
    """

    requests: int = 64
    rows: int = 32
    positions: int | None = None
    bytes: int | None = None


class Engine:
    """Runs requests of all kinds together; the answer of each is what it would be alone.

    Safe to share between threads.

    Args:
        decoder: the model.
        limits: what it takes on.
        kept: where the keys and values of prompts and answers are kept for those that begin alike.
        piece: positions of a prompt that are run at once.
        dtype: type of the model's embeddings.
        device: where the model is.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        limits: Limits = Limits(),
        kept: Kept | None = None,
        piece: int = 512,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.limits = limits
        self.kept = kept
        self._decoder, self._piece, self._dtype = decoder, piece, dtype
        self._device = torch.device(device)
        self._batch = Batch(decoder, kept, dtype, self._device)
        self._waiting: deque[Ticket] = deque()
        self._entry: Entry | Scoring | None = None
        self._open: set[Ticket] = set()
        self._turn = threading.Condition()
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
        """Stop a request, wherever it is; its place is free before the next step."""
        with self._turn:
            if ticket.reason is None:
                ticket.cancelled = True
                if not self._stepping:
                    self._let_out()

    def known(self, job: Job) -> int:
        """Leading positions of a prompt that would not have to be run now."""
        return known(job, self.kept, self._decoder)

    def step(self) -> bool:
        """One turn; False when there is nothing to do."""
        self._take_turn(lambda: False)
        return bool(self._open)

    def close(self) -> None:
        """End all requests with an error, and take no more."""
        with self._turn:
            self._closed = True
            if not self._stepping:
                self._let_out()
            self._turn.notify_all()

    def _ticket(self, job: Job) -> Ticket:
        """The request with its options complete, if it fits at all."""
        ticket = Ticket(job, job.options.resolved(len(job.history)))
        size, limits = self._size(ticket), self.limits
        positions = size.slots + size.memory
        if size.rows > limits.rows:
            raise CapacityError(
                f"engine: {size.rows} beams or samples, but there are {limits.rows} rows; "
                "ask for fewer, or set limits.rows higher"
            )
        if limits.positions is not None and positions > limits.positions:
            raise CapacityError(
                f"engine: {job.length} positions and up to {ticket.options.most} new ones, but the limit is "
                f"{limits.positions}; use a shorter prompt or fewer new tokens, or raise limits.positions"
            )
        # the last token is never run
        if self._decoder.max_positions is not None and size.slots - 1 > self._decoder.max_positions:
            raise CapacityError(
                f"engine: {job.length} positions and up to {ticket.options.most} new ones, but the model has "
                f"{self._decoder.max_positions}; use a shorter prompt or fewer new tokens"
            )
        if limits.bytes is not None and self._bytes([size], size) > limits.bytes:
            raise CapacityError(
                f"engine: {size.rows} rows of {positions} positions take {self._bytes([size], size)} bytes, "
                f"but the limit is {limits.bytes}; ask for less, or set limits.bytes higher"
            )
        return ticket

    def _place(self, ticket: Ticket) -> bool:
        """Let the request wait for its start; False when too many are open."""
        with self._turn:
            if self._closed:
                raise RequestError("engine: it is closed and takes no requests; make another one")
            if len(self._open) >= self.limits.requests:
                return False
            self._open.add(ticket)
            self._waiting.append(ticket)
            return True

    # ---- turns

    def _take_turn(self, happened: Callable[[], bool]) -> None:
        """Do one step, or wait while another thread does one; nothing if what is waited for has happened."""
        with self._turn:
            while self._stepping and not happened():
                self._turn.wait()
            if happened():
                return
            self._let_out()
            self._stepping = True
        try:
            self._step()
        except BaseException as error:
            self._abandon(error)
            raise
        finally:
            with self._turn:
                self._stepping = False
                self._let_out()
                self._turn.notify_all()

    @torch.no_grad()
    def _step(self) -> None:
        self._batch.step()  # first, so that a first token need not wait for the others' next
        left = self._piece
        while left > 0 and (entry := self._entry or self._admit()):
            if entry.coming > left < self._piece:
                break
            left -= entry.coming
            self._enter(entry)

    def _admit(self) -> Entry | None:
        """Let the first in the queue begin, if there is room for it now."""
        if not self._waiting:
            return None
        size = self._size(self._waiting[0])
        others = [self._size(one.ticket, len(one.rows)) for one in self._batch.running]
        if sum(one.rows for one in others) + size.rows > self.limits.rows:
            return None
        if self.limits.bytes is not None and self._bytes([*others, size], size) > self.limits.bytes:
            return None
        ticket = self._waiting.popleft()
        entry = Entry(self._decoder, ticket, self.kept, self._piece, self._dtype, self._device)
        self._entry = entry
        return entry

    def _enter(self, entry: Entry | Scoring) -> None:
        """Run one piece of what is entering. If that fails, nobody else does."""
        ticket = entry.ticket
        try:
            if isinstance(entry, Scoring):
                if entry.step():
                    self._entry = None
                    ticket.finish("done")
                return
            logits = entry.step()
            if logits is None:
                return
            self._entry = None
            if ticket.job.answers is not None:
                self._entry = Scoring(self._decoder, entry, logits, self._size(ticket).rows, self._piece)
            else:
                self._batch.join(entry, logits)
        except Exception as error:
            self._entry = None
            ticket.finish("failed", told(error))

    def _let_out(self) -> None:
        """The cancelled leave, and all if the engine was closed; the finished are forgotten."""
        self._stepping = True  # a stream collected meanwhile, in this very thread, must not begin this anew
        try:
            while self._leave():
                pass
        finally:
            self._stepping = False

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
        lost = [one.ticket for one in self._batch.running]
        lost += [] if self._entry is None else [self._entry.ticket]
        for ticket in lost:
            if ticket.reason is None:
                ticket.finish(
                    "failed", RequestError(f"engine: interrupted by {type(error).__name__}; ask again")
                )
        self._entry = None
        self._batch = Batch(self._decoder, self.kept, self._dtype, self._device)

    # ---- sizes

    def _size(self, ticket: Ticket, rows: int | None = None) -> "Size":
        """What a request takes in the end, at most."""
        job = ticket.job
        most = ticket.options.most
        if job.answers is not None:
            most = max(len(answer) for answer in job.answers)
            rows = min(len(job.answers), self.limits.rows, max(1, self._piece // most))
        rows = job.width if rows is None else rows
        if job.start_ids is None:
            return Size(rows, job.length + most, 0)
        return Size(rows, len(job.start_ids) + most, job.length)

    def _bytes(self, sizes: list["Size"], entering: "Size") -> int:
        """Keys and values of these together, and of one more row that is entering."""
        spec = self._decoder.cache_spec
        each = 2 * spec.layers * spec.heads * spec.head_dim * self._dtype.itemsize
        places = -(-sum(one.rows for one in sizes) // PLACES) * PLACES
        widest = max(one.slots for one in sizes) + STEP + max(one.memory for one in sizes)
        return each * (places * widest + entering.slots + entering.memory)


@dataclass(frozen=True)
class Size:
    """What a request takes: rows, and in each of them slots for its own keys and for the encoder's."""

    rows: int
    slots: int
    memory: int
