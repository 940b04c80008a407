"""Training in stages, each with its own schedule; it can stop at any moment and go on from its last save.

Everything that a run needs to continue lies in one file in its folder, written in one go. `curve.csv`
beside it holds what the run reported, one line per report.
"""

import csv
import logging
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from watchword.train.lessons import Batch, Lessons, Look
from watchword.train.student import Student, step_size

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """A stretch of training with one schedule.

    Args:
        clips: clips in a batch; of pictures there are more, see `Lessons`.
        asks: with questions, or only learning to see.
        pictures: each so many batches one is of pictures; 0: none.
        tower: share of the learning rate that the vision tower gets; what it has learned is soon lost at a
            full one.
        free: questions are worded in more ways.
    """

    name: str
    steps: int
    peak: float
    clips: int
    asks: bool
    pictures: int = 0
    warm_up: int = 100
    tower: float = 1.0
    free: bool = False


@dataclass
class Run:
    """A run's place in its course, and where it is kept."""

    folder: Path
    student: Student
    stage: int = 0
    step: int = 0
    seconds: float = 0.0

    @property
    def state_file(self) -> Path:
        """Everything needed to go on."""
        return self.folder / "state.pt"

    def save(self, optimizer: torch.optim.Optimizer) -> None:
        """Write the state in one go, so that a run killed while saving still has its last one."""
        partial = self.state_file.with_suffix(".partial")
        state = {
            "student": self.student.state_dict(),
            "optimizer": optimizer.state_dict(),
            "stage": self.stage,
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, partial)
        os.replace(partial, self.state_file)

    def resume(self) -> dict[str, Any] | None:
        """Take the state up again if there is one; returns the optimizer's."""
        if not self.state_file.exists():
            return None
        state = torch.load(self.state_file, weights_only=True)
        self.student.load_state_dict(state["student"])
        self.stage, self.step, self.seconds = state["stage"], state["step"], state["seconds"]
        optimizer: dict[str, Any] = state["optimizer"]
        return optimizer

    def note(self, values: dict[str, float]) -> None:
        """Append a line to the curve: the stage, the step, the seconds, a name and a value each."""
        path = self.folder / "curve.csv"
        fresh = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(("stage", "step", "seconds", "name", "value"))
            writer.writerows(
                (self.stage, self.step, round(self.seconds), k, round(v, 4)) for k, v in values.items()
            )


def train(
    run: Run,
    stages: list[Stage],
    *,
    seed: int,
    look: Look,
    examine: Callable[[Student], dict[str, float]],
    report_each: int = 50,
    examine_each: int = 500,
) -> None:
    """Run all stages to their end, from wherever the run stands.

    Args:
        examine: measures the model from time to time and at the end of each stage; its figures go into the
            curve.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    kept = run.resume()
    while run.stage < len(stages):
        stage = stages[run.stage]
        optimizer = make_optimizer(run.student)
        if kept is not None and run.step:
            optimizer.load_state_dict(kept)
        kept = None
        play(run, stage, optimizer, batches(run, stage, seed, look), examine, report_each, examine_each)
        run.stage, run.step = run.stage + 1, 0
        run.save(optimizer)


def play(
    run: Run,
    stage: Stage,
    optimizer: torch.optim.Optimizer,
    material: Iterator[Batch],
    examine: Callable[[Student], dict[str, float]],
    report_each: int,
    examine_each: int,
) -> None:
    """One stage, step by step."""
    sums: dict[str, list[float]] = defaultdict(list)
    run.student.train()
    while run.step < stage.steps:
        began = time.perf_counter()
        for group in optimizer.param_groups:
            rate = step_size(run.step, stage.steps, stage.peak, warm_up=stage.warm_up)
            group["lr"] = rate * (stage.tower if group["tower"] else 1.0)
        loss, report = run.student.loss(next(material))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(run.student.parameters(), 1.0)
        optimizer.step()
        run.step += 1
        run.seconds += time.perf_counter() - began
        for name, value in report.items():
            sums[name].append(float(value))
        if run.step % report_each == 0:
            means = {name: sum(values) / len(values) for name, values in sums.items()}
            sums.clear()
            run.note(means)
            logger.info(
                "%s %d/%d, %.0f s: %s",
                stage.name,
                run.step,
                stage.steps,
                run.seconds,
                "  ".join(f"{k} {v:.3f}" for k, v in means.items()),
            )
        if stage.asks and (run.step % examine_each == 0 or run.step == stage.steps):
            found = examine(run.student)
            run.note(found)
            logger.info("examined: %s", "  ".join(f"{k} {v:.3f}" for k, v in found.items()))
        if run.step % (2 * report_each) == 0:
            run.save(optimizer)


def batches(run: Run, stage: Stage, seed: int, look: Look) -> Iterator[Batch]:
    """The stage's material from the run's place on, drawn ahead in one process."""
    first = run.stage * 10_000_000 + run.step  # no batch of one stage comes again in another
    lessons = Lessons(
        seed,
        first,
        clips=stage.clips,
        look=look,
        asks=stage.asks,
        pictures=stage.pictures,
        free=stage.free,
    )
    return iter(DataLoader(lessons, batch_size=None, num_workers=1, prefetch_factor=4))


def make_optimizer(student: Student) -> torch.optim.AdamW:
    """AdamW in four groups: the vision tower with its heads and the rest, matrices (which decay) and
    vectors."""
    seeing = {
        id(p)
        for part in (student.model.video_tower, student.outline, student.sight)
        for p in part.parameters()
    }
    groups = [
        {"params": chosen, "weight_decay": 0.03 if matrix else 0.0, "tower": tower}
        for matrix in (True, False)
        for tower in (True, False)
        if (
            chosen := [
                p for p in student.parameters() if (p.ndim > 1) == matrix and (id(p) in seeing) == tower
            ]
        )
    ]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98))
