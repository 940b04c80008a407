"""Fine-tuning from data to a checkpoint: `watchword.train.run`."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from watchword.train import parallel, recipes
from watchword.train.opening import open_model
from watchword.train.options import Options, options
from watchword.train.plan import begin, facts_of, plan, same
from watchword.train.tuner import Result, Tell, Tuner

logger = logging.getLogger(__name__)


def run(
    data: Any,
    *,
    out: str | os.PathLike,
    model: str | os.PathLike | None = None,
    recipe: str = "lora",
    resume: bool = False,
    tell: Tell = logger.info,
    **settings: Any,
) -> Result:
    """Fine-tune a model.

    Args:
        data: see `formats.read_data`; several as a list of paths or tables.
        out: a folder for the run: checkpoints, losses as table and picture, answers, and the model.
        model: a checkpoint folder or hub id; the embedded model when None.
        recipe: what learns, see `recipes.RECIPES`.
        resume: go on with the run in `out`, exactly as if it had not stopped.
        tell: gets lines of progress.
        **settings: fields of `options.Options`.

    Raises:
        RequestError: data that cannot be learned from, with line numbers; options that cannot be; a folder
            that holds a run already, or another one than is to be resumed.
        TrainingError: the loss is no number, or jumped; the batch is written aside.
        CapacityError: the disk is full; earlier checkpoints are as they were.

    Example:
        >>> watchword.train.run("clips.jsonl", out="runs/mine", steps=200)  # doctest: +SKIP
    """
    chosen = options(settings)
    folder = Path(out)
    sources = list(data) if isinstance(data, (list, tuple)) and not _is_table(data) else [data]
    team = parallel.join(parallel.device_of(chosen.device))
    held = None
    try:
        if team.leads:
            held = begin(folder, resume)
        team.wait()
        return _run(sources, folder, model, recipe, resume, tell if team.leads else _silent, chosen, team)
    finally:
        if held is not None:
            held.close()
        parallel.leave()


def _is_table(data: Sequence[Any]) -> bool:
    """Whether a list holds rows rather than sources."""
    return bool(data) and isinstance(data[0], dict)


def _silent(line: str) -> None:
    """Only the leading process tells."""


def _run(
    sources: list[Any],
    folder: Path,
    name: Any,
    recipe_name: str,
    resume: bool,
    tell: Tell,
    chosen: Options,
    team: parallel.Team,
) -> Result:
    torch.manual_seed(chosen.seed)  # the first values of adapters
    quantized = chosen.quantize if recipe_name == "qlora" else None
    where = parallel.device_of(chosen.device)
    opened = open_model(name, device=where, dtype=chosen.dtype, quantize=quantized)
    how = recipes.recipe(recipe_name, opened.config.model_type)
    laid = plan(sources, opened, chosen, folder, team=team, resume=resume, tell=tell)
    facts = facts_of(opened, recipe_name, chosen, laid.digest, team)
    if team.leads:
        same(folder, facts, resume)
    team.wait()
    tuner = Tuner(opened, how, chosen, laid, folder, team, tell)
    tuner.start(resume)
    return tuner.play()
