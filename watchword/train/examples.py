"""What is learned from: pictures and clips, each with what is asked about it and what is to be answered."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from watchword.errors import MediaError

Kind = Literal["picture", "video"]
KINDS: dict[str, Kind] = {"image": "picture", "video": "video"}
"""The fields that name media, and what lies behind them."""


@dataclass(frozen=True, eq=False)
class Cell:
    """A medium inside a table: read when it is needed, for tables may be larger than memory.

    Args:
        table: anything that gives a row as a dict under `table[row]`.
        item: which of several media of the field; None where the field holds one.
    """

    table: Any = field(repr=False)
    row: int
    column: str
    item: int | None = None

    def open(self) -> Any:
        """The path, the bytes, or the frames."""
        value = self.table[self.row][self.column]
        value = value if self.item is None else value[self.item]
        if isinstance(value, Mapping):  # as tables of the hub keep media: {"bytes": ..., "path": ...}
            value = value.get("bytes") or value.get("path")
        if value is None:
            raise MediaError(f"row {self.row}: {self.column} is empty; expected a path, bytes or frames")
        return value


@dataclass(frozen=True)
class Medium:
    """A picture or a clip by its path, or by its place in a table."""

    kind: Kind
    source: str | Cell

    @property
    def name(self) -> str:
        """For messages."""
        where = self.source
        return where if isinstance(where, str) else f"row {where.row}, column {where.column!r}"

    def open(self) -> Any:
        """What `media.read_media` takes."""
        return self.source if isinstance(self.source, str) else self.source.open()

    def identity(self) -> tuple[Any, ...]:
        """What tells it from others: of a file also its size and the time of its last change."""
        if isinstance(self.source, Cell):
            return ("cell", self.source.row, self.source.column, self.source.item)
        try:
            found = os.stat(self.source)
        except OSError:
            return ("file", self.source)
        return ("file", self.source, found.st_size, found.st_mtime_ns)


@dataclass(frozen=True)
class Turn:
    """A question and its answer. Without a question the task's wordings give one."""

    question: str | None
    answer: str


@dataclass(frozen=True)
class Example:
    """One line of a data set.

    Attributes:
        where: the file and the line, for messages.
        raw: the line as it was read, to be written aside.
        media: the pictures and clips that it is about; none in a text alone.
        turns: a conversation about them.
        task: a key of `templates.TASKS`, or None where the questions stand as they are to be asked.
    """

    where: str
    raw: str = field(repr=False)
    media: tuple[Medium, ...]
    turns: tuple[Turn, ...]
    task: str | None = None


@dataclass(frozen=True)
class Fault:
    """A line that cannot be learned from, and why."""

    where: str
    message: str
    raw: str = field(repr=False, default="")

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass
class DataSet:
    """What one source held.

    Attributes:
        name: the file, folder or object.
        unused: fields that nothing here understands, and how many lines have them.
    """

    name: str
    examples: list[Example] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    unused: Counter = field(default_factory=Counter)

    @property
    def notes(self) -> Sequence[str]:
        """What a user should know though nothing is wrong."""
        if not self.unused:
            return ()
        told = ", ".join(f"{name!r} ({count} lines)" for name, count in sorted(self.unused.items()))
        return (f"{self.name}: fields that are not used: {told}",)
