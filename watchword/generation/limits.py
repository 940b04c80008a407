"""How much an engine takes on: what a request takes in the end, and whether that fits. No tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from watchword.errors import CapacityError
from watchword.generation.engine import Decoder
from watchword.generation.requests import Ticket
from watchword.generation.rows import PLACES, STEP


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


USUAL = Limits()
"""What an engine takes on unless told otherwise."""


@dataclass(frozen=True)
class Size:
    """What a request takes: rows, and in each of them slots for its own keys and for the encoder's."""

    rows: int
    slots: int
    memory: int


@dataclass(frozen=True)
class Measure:
    """Says what requests take of a model, and whether that is within limits.

    Args:
        decoder: the model.
        limits: what is taken on.
        piece: positions that are run at once.
        dtype: type of the keys and values.
    """

    decoder: Decoder
    limits: Limits
    piece: int
    dtype: torch.dtype

    def size(self, ticket: Ticket, rows: int | None = None) -> Size:
        """What a request takes in the end, at most; `rows` of it are left."""
        job = ticket.job
        most = ticket.options.most
        if job.answers is not None:
            most = max(len(answer) for answer in job.answers)
            rows = min(len(job.answers), self.limits.rows, max(1, self.piece // most))
        rows = job.width if rows is None else rows
        if job.start_ids is None:
            return Size(rows, job.length + most, 0)
        return Size(rows, len(job.start_ids) + most, job.length)

    def bytes(self, sizes: Sequence[Size], entering: Sequence[Size]) -> int:
        """Keys and values of these together, and of rows that are entering, one or several at once."""
        spec = self.decoder.cache_spec
        each = 2 * spec.layers * spec.heads * spec.head_dim * self.dtype.itemsize
        total = sum(one.slots + one.memory for one in entering)
        for some in (sizes, entering if len(entering) > 1 else ()):
            places = -(-sum(one.rows for one in some) // PLACES) * PLACES
            total += places * max((one.slots for one in some), default=0)
            total += places * (STEP + max((one.memory for one in some), default=0))
        return each * total

    def fits(self, running: Sequence[Size], coming: Sequence[Size]) -> bool:
        """Whether there is room for those that are coming beside those that are running."""
        if sum(one.rows for one in (*running, *coming)) > self.limits.rows:
            return False
        most = self.limits.bytes
        return most is None or self.bytes([*running, *coming], coming) <= most

    def check(self, ticket: Ticket) -> None:
        """Refuse what would not even fit alone.

        Raises:
            CapacityError: it is larger than the limits, or than the model.
        """
        job, size, limits = ticket.job, self.size(ticket), self.limits
        positions = size.slots + size.memory
        asked = f"engine: {job.length} positions and up to {ticket.options.most} new ones"
        if size.rows > limits.rows:
            raise CapacityError(
                f"engine: {size.rows} beams or samples, but there are {limits.rows} rows; "
                "ask for fewer, or set limits.rows higher"
            )
        if limits.positions is not None and positions > limits.positions:
            raise CapacityError(
                f"{asked}, but the limit is {limits.positions}; use a shorter prompt or fewer new tokens, or "
                "raise limits.positions"
            )
        # the last token is never run
        if self.decoder.max_positions is not None and size.slots - 1 > self.decoder.max_positions:
            raise CapacityError(
                f"{asked}, but the model has {self.decoder.max_positions}; use a shorter prompt or fewer new "
                "tokens"
            )
        if limits.bytes is not None and self.bytes([size], [size]) > limits.bytes:
            raise CapacityError(
                f"engine: {size.rows} rows of {positions} positions take {self.bytes([size], [size])} bytes, "
                f"but the limit is {limits.bytes}; ask for less, or set limits.bytes higher"
            )
