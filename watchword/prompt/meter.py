"""How much a template may do: a meter, and how large the result of an operation will be before it is done."""

import re
import time
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any

from watchword.errors import CapacityError

MAX_SECONDS = 2.0
"""Of this thread at work; a busy machine does not count."""
MAX_STEPS = 1_000_000
"""Loop rounds, calls, operators and filters of one rendering."""
MAX_VALUE = 1_000_000
"""Characters (or elements) of one value, and of the whole output."""
MAX_TOTAL = 20_000_000
"""Characters and elements made in one rendering, those that are thrown away included."""
MAX_CONSTANTS = 100_000_000
"""Constant text and elements of literals that loops and macros may go through."""
MAX_NUMBER = 100_000
"""Largest whole number given to a method or filter: widths, counts, positions."""
MAX_BITS = 4096
"""Length of whole numbers."""


class Meter:
    """What one rendering may still do, and what it has written so far."""

    def __init__(self) -> None:
        self.deadline = time.thread_time() + MAX_SECONDS
        self.steps = MAX_STEPS
        self.total = MAX_TOTAL
        self.constants = MAX_CONSTANTS
        self.written = 0
        self.spans: list[tuple[int, int]] = []

    def step(self, count: int = 1) -> None:
        """Charge pieces of work.

        Raises:
            CapacityError: too many, or out of time.
        """
        self.steps -= count
        if self.steps < 0:
            raise CapacityError(
                f"chat template: more than {MAX_STEPS:,} steps; a template needs a few thousand"
            )
        if time.thread_time() > self.deadline:
            raise CapacityError(
                f"chat template: not done after {MAX_SECONDS} seconds of work; a template needs milliseconds"
            )

    def size(self, count: int) -> None:
        """Charge a value of so many characters or elements.

        Raises:
            CapacityError: the value, or all of them together, are too large.
        """
        self.total -= count
        if count > MAX_VALUE or self.total < 0:
            raise CapacityError(
                f"chat template: makes a value of {count:,} characters or elements, or too many of them; the "
                f"limits are {MAX_VALUE:,} and {MAX_TOTAL:,} in all"
            )

    def constant(self, count: int) -> None:
        """Charge what a loop or macro may write or make out of constants, whether it does or not.

        Raises:
            CapacityError: too much of it.
        """
        self.constants -= count
        if self.constants < 0:
            raise CapacityError(
                f"chat template: repeats more than {MAX_CONSTANTS:,} characters of its own text or literals"
            )


METER: ContextVar[Meter] = ContextVar("meter")
"""The meter of the rendering that is under way."""


def weigh(value: Any) -> int:
    """About how many characters `str(value)` has; stops counting soon after the limit."""
    total, waiting = 0, [value]
    while waiting and total <= MAX_VALUE:
        one = waiting.pop()
        if isinstance(one, str | bytes):
            total += len(one)
        elif isinstance(one, int):
            total += one.bit_length() // 3 + 1
        elif isinstance(one, Mapping | list | tuple | set | frozenset):
            total += 2 + 4 * len(one)
            waiting.extend(one)
            waiting.extend(one.values() if isinstance(one, Mapping) else ())
        else:
            total += 32
    return total


def check_whole(value: Any) -> Any:
    """Charge a value that will be compared, hashed or written as a whole, however often it holds the same
    part."""
    if not isinstance(value, str | int | float | None):
        METER.get().size(weigh(value))
    return value


def check_result(value: Any) -> Any:
    """Charge what an operation has made; an element of a list takes the room of eight characters or more."""
    if hasattr(value, "__len__"):
        METER.get().size(len(value) * (1 if isinstance(value, str | bytes) else 8))
    return value


def check_numbers(values: Iterable[Any]) -> None:
    """Charge whole numbers that may be widths or counts.

    Raises:
        CapacityError: one is too large.
    """
    for value in values:
        if isinstance(value, int):
            if abs(value) > MAX_NUMBER:
                raise CapacityError(
                    f"chat template: passes the number {value:.3g}; the largest allowed is {MAX_NUMBER:,}"
                )
            METER.get().step(abs(value) // 8)


def check_method(owner: Any, name: str, args: list[Any]) -> None:
    """Charge a method of a plain value before it is called.

    Raises:
        CapacityError: its result would be too large, or cannot be foreseen.
    """
    check_numbers(args)
    for value in (owner, *args):
        check_whole(value)
    if not isinstance(owner, str | bytes):
        return
    if name == "translate":
        raise CapacityError("chat template: uses translate(), whose result cannot be foreseen; use replace()")
    if name in ("format", "format_map"):
        check_format(owner, args)
    elif name == "replace":
        check_replace(owner, args)
    elif name == "join":
        check_join(owner, args[0] if args else ())
    elif name == "expandtabs":
        tabs = owner.count("\t") if isinstance(owner, str) else owner.count(b"\t")
        METER.get().size(len(owner) + tabs * next((n for n in args if isinstance(n, int)), 8))
    else:
        METER.get().size(len(owner) + sum(abs(n) for n in args if isinstance(n, int)))


def check_replace(text: Any, args: list[Any]) -> None:
    """Charge `text.replace(old, new)`."""
    strings = [value for value in args if isinstance(value, str | bytes)]
    if len(strings) >= 2:
        old, new = strings[:2]
        METER.get().size(len(text) + (text.count(old) if old else len(text) + 1) * len(new))


def check_join(glue: Any, parts: Any) -> None:
    """Charge `glue.join(parts)`."""
    count = len(parts) if hasattr(parts, "__len__") else MAX_NUMBER
    METER.get().size(weigh(parts) + count * len(glue))


def check_format(pattern: Any, args: Any) -> None:
    """Charge `pattern % args` and `pattern.format(args)`.

    Raises:
        CapacityError: too large, or a width that comes from an argument.
    """
    text = pattern if isinstance(pattern, str) else pattern.decode("latin-1")
    if re.search(r"\{[^{}]*\{|%[^a-zA-Z%]*\*", text):
        raise CapacityError(
            "chat template: takes a width for formatting from a value; write the width in the format"
        )
    fields = text.count("%") + text.count("{")
    widths = sum(int(digits[:9]) for digits in re.findall(r"\d+", text))
    METER.get().size(len(text) + widths + fields * weigh(args))


def check_operator(operator: str, left: Any, right: Any) -> None:
    """Charge a binary operator before it is applied.

    Raises:
        CapacityError: its result would be too large.
    """
    meter = METER.get()
    if isinstance(left, int) and isinstance(right, int):
        bits = 0
        if operator == "*":
            bits = left.bit_length() + right.bit_length()
        elif operator == "**":
            bits = left.bit_length() * max(right, 0)
        if bits > MAX_BITS:
            raise CapacityError(
                f"chat template: makes a whole number of {bits:.3g} bits; the limit is {MAX_BITS}"
            )
    elif operator == "*":
        for sequence, count in ((left, right), (right, left)):
            if hasattr(sequence, "__len__") and isinstance(count, int):
                meter.size(len(sequence) * max(count, 0))
    elif operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
        meter.size(len(left) + len(right))
    elif operator == "%" and isinstance(left, str | bytes):
        check_format(left, right)
