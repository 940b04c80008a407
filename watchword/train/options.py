"""What one can choose for a run, checked, and what a run writes down of it so that it can go on."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from watchword.errors import RequestError, refuse_unknown


@dataclass(frozen=True)
class Options:
    """The choices of a run; `None` leaves one to the recipe, the model or the data.

    Attributes:
        epochs: passes over the data, unless `steps` says how many steps.
        steps: steps of the optimizer.
        batch: examples of a step.
        micro: examples that are computed at once; the rest of a step follows, and their gradients add up.
        rate: peak of the learning rate.
        warm_up: steps until it is reached, or, below 1, the share of all.
        decay: weight decay of matrices.
        betas: AdamW's.
        clip: the largest norm of a step's gradients; None never clips.
        tower_rate: share of the rate that vision towers learn at, where they do.
        seed: of the order, the wordings, dropout and the first values of adapters.
        dtype: type of the weights; "auto" as stored, float16 as bfloat16. What learns has float32 masters.
        device: "auto" takes cuda, else mps, else cpu.
        frames: frames of a clip; the family's number when None.
        max_length: the most positions of a row; the model's when None.
        turns: "conversation" lets each question see what was said before; "apart" makes them questions of
            their own about one clip, which is there once.
        rank, alpha, dropout, targets: of adapters; see `recipes.prepare`.
        quantize: bits of the frozen weights under `qlora`: "nf4" or "int8".
        recompute: keep no activations of layers, compute them again on the way back.
        cache_features: keep what frozen vision towers saw, in the run's folder.
        workers: processes that decode frames ahead of the step; 0 decodes between steps.
        check: "full" reads every medium before the first step, "quick" only looks whether it may be opened.
        skip_bad: leave out lines that are wrong, and write them aside.
        weights: how often each data set is drawn from; the root of its size when None.
        cap: a data set counts as at most so large.
        root: where paths in data files begin; each file's own folder when None.
        hold_out: examples that are not learned from but measure; None takes a twentieth, at most 100.
        measure: steps between two measurements on those.
        samples: how many of them are answered each time.
        save: steps between two checkpoints.
        keep: how many of the last are kept, beside the best.
        final: whether the model written at the end is the "last" or the "best" on what was held out.
        report: steps between two lines of progress.
        jump: stop when the loss is more than so many times its mean over the last 50 steps; 0 never.
        shard: spread the weights over the processes (FSDP2) for a model that does not fit into each.
        tensorboard: also write for TensorBoard.
    """

    epochs: float = 1.0
    steps: int | None = None
    batch: int = 16
    micro: int = 4
    rate: float | None = None
    warm_up: float = 0.03
    decay: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float | None = 1.0
    tower_rate: float = 1.0
    seed: int = 0
    dtype: str = "auto"
    device: str = "auto"
    frames: int | None = None
    max_length: int | None = None
    turns: str = "conversation"
    rank: int = 16
    alpha: float | None = None
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None
    quantize: str = "nf4"
    recompute: bool = False
    cache_features: bool = False
    workers: int = 1
    check: str = "full"
    skip_bad: bool = False
    weights: tuple[float, ...] | None = None
    cap: int = 1_000_000
    root: str | None = None
    hold_out: int | None = None
    measure: int = 200
    samples: int = 3
    save: int = 200
    keep: int = 2
    final: str = "last"
    report: int = 10
    jump: float = 5.0
    shard: bool = False
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in ("batch", "micro", "measure", "save", "keep", "report", "rank", "cap"):
            self._demand(name, getattr(self, name) >= 1, "a whole number from 1 up")
        for name in ("workers", "samples", "jump", "seed", "warm_up"):
            self._demand(name, getattr(self, name) >= 0, "a number from 0 up")
        for name in ("steps", "frames", "max_length"):
            self._demand(name, getattr(self, name) is None or getattr(self, name) >= 1, "at least 1")
        for name in ("rate", "epochs", "clip", "tower_rate"):
            value = getattr(self, name)
            self._demand(name, value is None or 0 < value < math.inf, "a number above 0")
        self._demand("decay", self.decay is None or self.decay >= 0, "a number from 0 up")
        self._demand("hold_out", self.hold_out is None or self.hold_out >= 0, "a number from 0 up")
        for name, known in (
            ("turns", ("conversation", "apart")), ("check", ("full", "quick")), ("final", ("last", "best")),
            ("quantize", ("nf4", "int8")),
        ):  # fmt: skip
            self._demand(name, getattr(self, name) in known, f"one of {', '.join(known)}")

    def _demand(self, name: str, fits: bool, expected: str) -> None:
        if not fits:
            raise RequestError(f"train: {name}={getattr(self, name)!r}; expected {expected}")

    def warm_up_steps(self, steps: int) -> int:
        """Steps until the rate is at its peak."""
        return math.ceil(self.warm_up * steps) if self.warm_up < 1 else int(self.warm_up)


FREE = frozenset({"workers", "report", "check", "tensorboard", "keep", "samples", "final"})
"""Choices that change nothing of what is learned: a run may go on with others."""


def options(given: dict[str, Any]) -> Options:
    """Options by name.

    Raises:
        UnknownArgument: a name that is none; the message says which is near.
        RequestError: a value that cannot be.
    """
    refuse_unknown("train", given, Options.__dataclass_fields__)
    return Options(**{name: tuple(one) if isinstance(one, list) else one for name, one in given.items()})


def record(chosen: Options) -> dict[str, Any]:
    """What has to be the same for a run to go on, as JSON gives it back."""
    found = {name: value for name, value in asdict(chosen).items() if name not in FREE}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
