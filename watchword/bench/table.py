"""Measured times beside what the machine allows."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from watchword import __version__
from watchword.bench.machine import matrix_rate, read_rate
from watchword.bench.ours import Measured, Work
from watchword.bench.plan import Plan
from watchword.nn.memory import gib


@dataclass(frozen=True)
class Limits:
    """What the machine allows: bytes per second, and operations per second in the type of the products."""

    read: float
    matrix: float
    kind: str


def limits(plan: Plan, device: torch.device) -> Limits:
    """Measured now. The products of int4 and nf4 with many rows are those of the dense type."""
    kind = "int8" if plan.form == "int8" else str(plan.dtype).removeprefix("torch.")
    return Limits(read_rate(device), matrix_rate(kind, device), kind)


@dataclass(frozen=True)
class Row:
    """One line: what, how much in which unit, and the share of a limit that it is, or why there is none."""

    what: str
    value: float
    unit: str
    share: float | None = None
    note: str = ""

    def told(self) -> tuple[str, str, str]:
        """As text."""
        value = gib(self.value) if self.unit == "bytes" else f"{self.value:.4g} {self.unit}"
        return self.what, value, self.note if self.share is None else f"{self.share:.0%} {self.note}"


def rows(found: Measured, work: Work, plan: Plan, most: Limits) -> list[Row]:
    """The table of one side.

    Loading and tokens are held against reading memory: all weights once, and what one step must read. The
    first token and frames are held against the matrix rate, by the operations of the products. Mapped
    weights are read when they are first used, and those that nothing used never: then loading, or memory, has
    no share.
    """
    weights = sum(plan.need(1).weights.values())
    step = plan.step_bytes(found.positions + work.tokens // 2, work.beams)
    first = plan.prompt_flops(found.positions, work.frames)
    reading, products = f"of {most.read / 1e9:.1f} GB/s", f"of {most.matrix / 1e9:.0f} GFLOP/s ({most.kind})"
    loading = weights / most.read / found.load
    load = (loading, reading) if loading <= 1 else (None, "mapped: read when first used")
    table = [
        Row("load", found.load, "s", *load),
        Row("first token", found.first_token, "s", first / most.matrix / found.first_token, products),
        Row("steps" if work.beams > 1 else "tokens", 1 / found.step, "per s", step / most.read / found.step,
            reading),
    ]  # fmt: skip
    if found.vision is not None:
        frames = work.frames or 1
        looking = plan.tower_flops(work.frames) / most.matrix / found.vision
        table.append(Row("frames", frames / found.vision, "per s", looking, products))
    if found.peak is not None:
        held = weights / found.peak
        peak = (
            (held, "of it weights") if held <= 1 else (None, f"{gib(weights)} of weights, not all were read")
        )
        table.append(Row("peak memory", found.peak, "bytes", *peak))
    return table


@dataclass(frozen=True)
class Found:
    """A whole run.

    Attributes:
        sides: ours, and the peer's if there is one.
        tables: of each side.
        work: what was asked.
        form: how our weights were held.
        model: folder or hub id; "embedded" for that one.
        device: where it ran.
        threads: of the processor.
        most: what the machine allows.
    """

    sides: list[Measured]
    tables: list[list[Row]]
    work: Work
    form: str
    model: str
    device: str
    threads: int
    most: Limits

    def ratios(self) -> list[str]:
        """How many times quicker or smaller than the peer, in words; nothing without one."""
        if len(self.sides) == 1:
            return []
        mine, theirs = self.sides
        told = [f"{name} {faster(getattr(theirs, field) / getattr(mine, field))}" for name, field in
                (("first token", "first_token"), ("further tokens", "step"), ("load", "load"))]  # fmt: skip
        if mine.peak and theirs.peak:
            told.append(f"peak memory {mine.peak / theirs.peak:.2f} x as large")
        return [f"against {theirs.name}: {', '.join(told)}"]


def faster(ratio: float) -> str:
    """A ratio of times in words."""
    return f"{ratio:.2f} x quicker" if ratio >= 1 else f"{1 / ratio:.2f} x slower"


def to_dict(found: Found) -> dict[str, Any]:
    """All of it as plain values."""
    most = found.most
    return {
        "watchword": __version__,
        "torch": torch.__version__,
        "model": found.model,
        "device": found.device,
        "units": {"load": "s", "first_token": "s", "step": "s", "vision": "s", "runs": "s", "peak": "bytes"},
        "threads": found.threads,
        "format": found.form,
        "work": asdict(found.work),
        "limits": {"read_bytes_per_s": most.read, "matrix_flops": most.matrix, "matrix_type": most.kind},
        "sides": [
            one.to_dict() | {"shares": {row.what: row.share for row in table if row.share is not None}}
            for one, table in zip(found.sides, found.tables)
        ],
    }
