"""The loop over the steps of a run, its checkpoints, and what stops it."""

import signal
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from watchword.errors import TrainingError
from watchword.hf.language import IGNORED
from watchword.shapes import Tensor
from watchword.train import parallel, saves
from watchword.train.batching import Batch
from watchword.train.encoding import Encoder
from watchword.train.features import Store, frozen, key_of, tower_dtype
from watchword.train.feed import Maker, Steps, feed
from watchword.train.journal import Journal
from watchword.train.learner import Learner
from watchword.train.masters import Masters, full, rate_at
from watchword.train.measuring import answers, loss_on
from watchword.train.opening import Opened, write_model
from watchword.train.options import Options
from watchword.train.plan import Plan
from watchword.train.recipes import Recipe, prepare, set_modes
from watchword.train.telling import introduced, size_of, time_of

Tell = Callable[[str], None]
REMEMBERED, SETTLED = 50, 20
"""Steps whose losses a jump is told by, and steps until that begins."""


@dataclass(frozen=True)
class Result:
    """What came out of a run.

    Attributes:
        folder: the run's.
        model: the checkpoint folder, or the adapter's.
        steps: how many were done in all.
        loss: of the last step.
        held_out: the best loss on what was held out, and its step; None where nothing was.
    """

    folder: Path
    model: Path
    steps: int
    loss: float
    held_out: tuple[float, int] | None


@dataclass
class Tuner:
    """A run: what it has, and where it stands."""

    opened: Opened
    recipe: Recipe
    chosen: Options
    plan: Plan
    folder: Path
    team: parallel.Team
    tell: Tell
    step: int = 0
    loss: float = float("nan")
    best: tuple[float, int] | None = None
    recent: deque = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    stop: bool = False

    def start(self, resume: bool) -> None:
        """Make ready what learns, and take up the last checkpoint."""
        opened, chosen = self.opened, self.chosen
        if chosen.recompute:
            opened.model.gradient_checkpointing_enable()
        learning = prepare(
            opened.model, self.recipe, targets=chosen.targets, rank=chosen.rank, alpha=chosen.alpha,
            dropout=chosen.dropout,
        )  # fmt: skip
        self.learner = Learner(opened.model)
        self.wrapped: nn.Module = self.learner
        if chosen.shard:
            self.wrapped = self.learner = parallel.spread(self.learner)
            learning = {name: dict(opened.model.named_parameters())[name] for name in learning}
        elif self.team.world > 1:
            self.wrapped = parallel.copied(self.learner)
        decay = self.recipe.decay if chosen.decay is None else chosen.decay
        towers = ("vision_model.", "image_tower.", "video_tower.")
        self.masters = Masters(learning, decay=decay, betas=chosen.betas, slower=(towers, chosen.tower_rate))
        self.peak = self.recipe.rate if chosen.rate is None else chosen.rate
        saved = saves.steps_saved(self.folder) if resume else []
        if saved:
            self._take_up(saved[-1])
        for line in introduced(opened, self.recipe, self.masters, self.plan.data, self.steps):
            self.tell(line)
        encoder = Encoder(opened.family, opened.config, opened.words, chosen.turns == "apart")
        frames = chosen.frames or opened.family.frames
        self.maker = Maker(self.plan.data, encoder, opened.specs, frames, chosen.seed, self._store(frames))
        self.journal = Journal(self.folder, self.step, board=chosen.tensorboard) if self.team.leads else None

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return len(self.plan.order)

    def play(self) -> Result:
        """Learn to the end."""
        if self.step:
            self.tell(f"going on behind step {self.step} of {self.steps}")
        steps = Steps(self.maker, self.plan.order, self.chosen.micro, self.team.rank, self.team.world)
        began, first = time.monotonic(), self.step
        with interruptible(self):
            for batches in feed(steps, self.step, self.chosen.workers):
                norm, rate = self.learn(batches)
                held_out = self.measure()
                passed = time.monotonic() - began
                self._note(held_out, rate, norm, passed, first)
                self._save(held_out)
                if self.stop and self.step < self.steps:
                    raise KeyboardInterrupt
        return self._finish()

    def learn(self, batches: Sequence[Batch]) -> tuple[float, float]:
        """One step; returns the gradients' norm and the learning rate.

        Raises:
            TrainingError: the loss or the norm is no number, or the loss jumped. Nothing was learned from it.
        """
        torch.manual_seed(
            int(np.random.SeedSequence((self.chosen.seed, self.step, self.team.rank)).generate_state(1)[0])
        )
        learned = self.team.total(sum(batch.learned for batch in batches))
        dtype, losses = tower_dtype(self.opened.model), []
        for number, batch in enumerate(batches, start=1):
            with self._quiet(last=number == len(batches)):
                rows = self.wrapped(batch.to(self.opened.device, dtype))
                (rows.sum() * (self.team.world / learned)).backward()
            self.masters.gather()
            losses.append(rows.detach())
        loss = self.team.total(sum(float(rows.sum()) for rows in losses)) / learned
        norm = self.masters.clip(self.chosen.clip)
        self._stop_if_lost(loss, norm, batches, losses)
        rate = rate_at(self.step, self.steps, self.peak, self.chosen.warm_up_steps(self.steps))
        self.masters.step(rate)
        self.step, self.loss = self.step + 1, loss
        self.recent.append(loss)
        return norm, rate

    def _quiet(self, *, last: bool) -> Any:
        """Gradients are summed over the processes with a step's last batch; with half weights each time."""
        many = isinstance(self.wrapped, nn.parallel.DistributedDataParallel)
        return self.wrapped.no_sync() if many and not last and not self.masters.half else nullcontext()

    def _stop_if_lost(
        self, loss: float, norm: float, batches: Sequence[Batch], losses: Sequence[Tensor]
    ) -> None:
        usual = statistics.fmean(self.recent) if len(self.recent) >= SETTLED else None
        jump = self.chosen.jump
        if np.isfinite(loss) and np.isfinite(norm) and not (usual and jump and loss > jump * usual + 1):
            return
        tail = f"-{self.team.rank}" if self.team.rank else ""
        aside = self.folder / f"stopped-step-{self.step + 1}{tail}.jsonl"
        saves.write_lines(aside, self._told(batches, losses))
        what = f"the loss is {loss:.4g}, the norm of its gradients {norm:.4g}"
        if usual and np.isfinite(loss) and np.isfinite(norm):
            what = f"the loss jumped to {loss:.4g} from a mean of {usual:.4g}"
        raise TrainingError(
            f"step {self.step + 1}: {what}; nothing was learned from it. Its examples are in {aside}; look "
            "at them, lower the rate, or go on without the check for jumps (jump=0)"
        )

    def _told(self, batches: Sequence[Batch], losses: Sequence[Tensor]) -> Iterator[dict[str, Any]]:
        """The examples of a step and their losses."""
        for batch, rows in zip(batches, losses):
            tokens = (batch.labels != IGNORED).sum(dim=1).tolist()
            for number, loss, count in zip(batch.numbers, rows.tolist(), tokens):
                example = self.plan.data.examples[number]
                yield {"where": example.where, "loss": loss / max(count, 1), "line": example.raw}

    def measure(self) -> float | None:
        """The loss on what was held out, and some answers, when it is time."""
        chosen, due = self.chosen, self.step % self.chosen.measure == 0 or self.step == self.steps
        if not self.plan.held_out or not due:
            return None
        found = loss_on(
            self.plan.held_out, self.maker, self.learner, self.opened, self.team, chosen.micro, chosen.shard
        )
        if self.journal is not None and chosen.samples and not chosen.shard:
            some = self.plan.held_out[: chosen.samples]
            said = answers(some, self.maker, self.learner, self.opened)
            self.journal.answers(self.step, said)
            for one in said:
                self.tell(f"  {one['question']!r}: {one['answer']!r}, expected {one['expected']!r}")
        set_modes(self.opened.model)
        return found

    def _note(self, held_out: float | None, rate: float, norm: float, passed: float, first: int) -> None:
        if self.journal is None:
            return
        self.journal.note(
            step=self.step, loss=self.loss, held_out=held_out, rate=rate, norm=norm,
            examples=self.step * self.chosen.batch, seconds=round(passed, 3),
        )  # fmt: skip
        done = self.step - first
        if self.step % self.chosen.report == 0 or self.step == self.steps or held_out is not None:
            left = time_of(passed / done * (self.steps - self.step))
            also = "" if held_out is None else f", held out {held_out:.4f}"
            recent = statistics.fmean(list(self.recent)[-self.chosen.report :])
            self.tell(
                f"step {self.step}/{self.steps}: loss {recent:.4f}{also}, rate {rate:.2e}, "
                f"{done * self.chosen.batch / passed:.1f} examples/s, {left} left"
            )

    # ---- checkpoints ---------------------------------------------------------------------------------------

    def _save(self, held_out: float | None) -> None:
        better = held_out is not None and (self.best is None or held_out < self.best[0])
        if better and held_out is not None:
            self.best = (held_out, self.step)
        due = self.step % self.chosen.save == 0 or self.step == self.steps
        if not (due or better or self.stop):
            return
        tensors = self.masters.state()
        if self.journal is not None:
            facts = {"best": self.best, "recent": list(self.recent), "loss": self.loss}
            saves.write_state(self.folder, self.step, tensors, facts)
            saves.forget(self.folder, self.chosen.keep, self.best and self.best[1])
            self.journal.draw()

    def _take_up(self, step: int) -> None:
        tensors, facts = saves.read_state(self.folder, step)
        self.masters.load(tensors, str(saves.place(self.folder, step)))
        self.step, self.loss = step, facts["loss"]
        self.best = None if facts["best"] is None else (facts["best"][0], facts["best"][1])
        self.recent.extend(facts["recent"])

    def _finish(self) -> Result:
        """Write what was learned as a checkpoint folder or an adapter."""
        target = self.folder / ("adapter" if self.recipe.adapter else "model")
        if self.chosen.final == "best" and self.best is not None and self.best[1] != self.step:
            self._take_back(self.best[1])
        state = {name: full(one) for name, one in self.opened.model.state_dict().items()}
        self.opened.model.eval()
        if self.journal is not None:
            saves.write_whole(target, lambda folder: write_model(self.opened, self.recipe, folder, state))
            self.journal.draw()
            self.journal.close()
        self.team.wait()
        self.tell(f"{target}: written" + (f"; best on what was held out: {self.best}" if self.best else ""))
        return Result(self.folder, target, self.step, self.loss, self.best)

    def _take_back(self, step: int) -> None:
        tensors, _ = saves.read_state(self.folder, step)
        self.masters.load(tensors, str(saves.place(self.folder, step)))

    def _store(self, frames: int) -> Store | None:
        """Features of all media, where their towers stay as they are and the user wants them kept."""
        if not self.chosen.cache_features:
            return None
        if not frozen(self.opened.model):
            self.tell("features are not kept: the vision tower learns in this recipe")
            return None
        store = Store(self.folder / "features", key_of(self.opened.model, self.opened.specs, frames))
        plain = Maker(self.plan.data, Encoder(self.opened.family, self.opened.config, self.opened.words),
                      self.opened.specs, frames, self.chosen.seed)  # fmt: skip
        media = [one for example in self.plan.data.examples for one in example.media]
        store.fill(media, self.learner, plain.see, lambda done, total: None)
        taken = sum(Path(one).stat().st_size for one in set(store.files.values()))
        self.tell(f"features of {len(store.files)} pictures and clips kept, {size_of(taken)}")
        return store


@contextmanager
def interruptible(tuner: Tuner) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM ends the run behind its current step, saved; the second one at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {one: signal.getsignal(one) for one in signals}

    def note(number: int, frame: Any) -> None:
        if tuner.stop:
            raise KeyboardInterrupt
        tuner.stop = True

    for one in signals:
        signal.signal(one, note)
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def seed_of(*numbers: int) -> int:
    """One seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
