"""What a run tells: a table of its losses, a picture of them, answers on what was held out, TensorBoard."""

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from watchword.errors import CapacityError, MissingExtra
from watchword.media.curve import draw_curve
from watchword.train.saves import replace_text

FIELDS = ("step", "loss", "held_out", "rate", "norm", "examples", "seconds")
"""Columns of `losses.csv`; `held_out` stays empty where nothing was measured."""


class Journal:
    """The files of a run that people read.

    Args:
        folder: the run's.
        after: the step that the run goes on from; what is written of later ones is taken back.
        board: also write for TensorBoard.
    """

    def __init__(self, folder: Path, after: int, *, board: bool) -> None:
        self.folder = folder
        self.lines = [line for line in read_losses(folder) if int(line["step"]) <= after]
        self._write(self.lines)
        answers = folder / "answers.jsonl"
        if answers.exists():
            said = [line for line in answers.read_text().splitlines() if json.loads(line)["step"] <= after]
            replace_text(answers, "".join(f"{line}\n" for line in said))
        self.board = open_board(folder, after) if board else None

    def note(self, **values: float | int | None) -> None:
        """A line for a step."""
        line = {name: "" if values.get(name) is None else repr(values[name]) for name in FIELDS}
        self.lines.append(line)
        try:
            with (self.folder / "losses.csv").open("a", newline="") as file:
                csv.DictWriter(file, FIELDS).writerow(line)
        except OSError as error:
            raise CapacityError(
                f"{self.folder / 'losses.csv'}: cannot be written ({error.strerror or error}); make room"
            ) from error
        if self.board is not None:
            for name in ("loss", "held_out", "rate", "norm"):
                if values.get(name) is not None:
                    self.board.add_scalar(name, values[name], values["step"])

    def answers(self, step: int, said: Sequence[dict[str, Any]]) -> None:
        """What the model answered on what was held out."""
        with (self.folder / "answers.jsonl").open("a", encoding="utf-8") as file:
            for one in said:
                file.write(json.dumps({"step": step, **one}, ensure_ascii=False) + "\n")

    def draw(self) -> None:
        """The losses as a picture: each step's, their running mean, and what was held out."""
        points = [(int(line["step"]), float(line["loss"])) for line in self.lines]
        measured = [
            (int(line["step"]), float(line["held_out"])) for line in self.lines if line["held_out"] != ""
        ]
        curves = {"loss of a step": points, "running mean": smooth(points)}
        curves |= {"held out": measured} if measured else {}
        draw_curve(self.folder / "losses.png", curves, title="Loss over steps")

    def close(self) -> None:
        """Finish."""
        if self.board is not None:
            self.board.close()

    def _write(self, lines: Sequence[dict[str, str]]) -> None:
        held = io.StringIO(newline="")
        writer = csv.DictWriter(held, FIELDS)
        writer.writeheader()
        writer.writerows(lines)
        replace_text(self.folder / "losses.csv", held.getvalue())


def read_losses(folder: Path) -> list[dict[str, str]]:
    """The lines of a run's table so far; one that was cut off does not count."""
    path = folder / "losses.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    return [line for line in lines if None not in line.values() and line["step"].isdigit()]


def smooth(points: Sequence[tuple[float, float]], share: float = 0.95) -> list[tuple[float, float]]:
    """A running mean that remembers some twenty steps."""
    found, mean, weight = [], 0.0, 0.0
    for step, value in points:
        if math.isfinite(value):
            mean, weight = share * mean + (1 - share) * value, share * weight + 1 - share
            found.append((step, mean / weight))
    return found


def open_board(folder: Path, after: int) -> Any:
    """A TensorBoard writer.

    Raises:
        MissingExtra: its package is missing.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtra(
            "train: --tensorboard needs the package tensorboard; pip install watchword[tensorboard]"
        ) from error
    return SummaryWriter(str(folder / "tensorboard"), purge_step=after + 1 if after else None)
