"""Training in stages, each with its own schedule; it can stop at any moment and go on from its last save.

Everything that a run needs to continue lies in one file in its folder, written in one go. `curve.csv`
beside it holds what the run reported, one line per report.
"""

import csv
import logging
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader

from watchword.train.lessons import OFTEN, Batch, Look
from watchword.train.pupil import Pupil, step_size

logger = logging.getLogger(__name__)
P = TypeVar("P", bound=Pupil)


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
        busy: more happens in its clips.
        often: how much more often kinds are asked than others.
        until: the step at which it ends, if that is before its schedule does.
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
    busy: bool = False
    often: Mapping[str, float] = field(default_factory=lambda: OFTEN)
    until: int | None = None

    @property
    def end(self) -> int:
        """The step at which it ends."""
        return self.steps if self.until is None else self.until

    def draws(self) -> dict[str, Any]:
        """What its lessons are drawn by."""
        return {name: getattr(self, name) for name in ("clips", "asks", "pictures", "free", "busy", "often")}


@dataclass
class Run(Generic[P]):
    """A run's place in its course, and where it is kept."""

    folder: Path
    student: P
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
    run: Run[P],
    stages: Sequence[Stage],
    *,
    seed: int,
    look: Look,
    examine: Callable[[P], dict[str, float]],
    report_each: int = 50,
    examine_each: int = 500,
    workers: int = 1,
) -> None:
    """Run all stages to their end, from wherever the run stands.

    Args:
        workers: processes that draw the batches, which are the same for any number.
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
        material = batches(run, stage, seed, look, workers)
        play(run, stage, optimizer, material, examine, report_each, examine_each)
        run.stage, run.step = run.stage + 1, 0
        run.save(optimizer)


def play(
    run: Run[P],
    stage: Stage,
    optimizer: torch.optim.Optimizer,
    material: Iterator[Batch],
    examine: Callable[[P], dict[str, float]],
    report_each: int,
    examine_each: int,
) -> None:
    """One stage, step by step."""
    sums: dict[str, list[float]] = defaultdict(list)
    run.student.train()
    while run.step < stage.end:
        began = time.process_time()  # no minute counts in which other work had the processor
        for group in optimizer.param_groups:
            rate = step_size(run.step, stage.steps, stage.peak, warm_up=stage.warm_up)
            group["lr"] = rate * (stage.tower if group["tower"] else 1.0)
        loss, report = run.student.loss(next(material).to(run.student.device))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(run.student.parameters(), 1.0)
        optimizer.step()
        run.step += 1
        run.seconds += time.process_time() - began
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
        if stage.asks and (run.step % examine_each == 0 or run.step == stage.end):
            found = examine(run.student)
            run.note(found)
            logger.info("examined: %s", "  ".join(f"{k} {v:.3f}" for k, v in found.items()))
        if run.step % (2 * report_each) == 0:
            run.save(optimizer)


def batches(run: Run[P], stage: Stage, seed: int, look: Look, workers: int = 1) -> Iterator[Batch]:
    """The stage's material from the run's place on, drawn ahead in other processes."""
    first = run.stage * 10_000_000 + run.step  # no batch of one stage comes again in another
    lessons = run.student.lessons(seed, first, look=look, **stage.draws())
    return iter(DataLoader(lessons, batch_size=None, num_workers=workers, prefetch_factor=4))


def make_optimizer(student: Pupil) -> torch.optim.AdamW:
    """AdamW in four groups: the vision tower with its heads and the rest, matrices (which decay) and
    vectors."""
    seeing = {id(p) for part in student.seeing() for p in part.parameters()}
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
