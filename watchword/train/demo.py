"""Train the embedded model from nothing: `python -m watchword.train.demo`, about an hour on one CPU core.

The run keeps its state in `--out` and goes on from there when it is started again; at the end it writes the
checkpoint folder `--folder`.
"""

import argparse
import logging
from pathlib import Path

import torch

from watchword.train.exam import examiner
from watchword.train.folder import write_folder
from watchword.train.lessons import Look
from watchword.train.loop import Run, Stage, train
from watchword.train.student import Student

STAGES = [
    Stage("sight", steps=1000, peak=2e-3, clips=64, asks=False),
    Stage("answers", steps=2200, peak=2e-3, clips=32, asks=True, pictures=6, tower=0.15),
    Stage("wordings", steps=1000, peak=1e-3, clips=32, asks=True, pictures=6, tower=0.3, free=True),
]


def main() -> None:
    """Train to the end, or go on where the run in that folder stopped, and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), help="state and curve; taken up again if there"
    )
    parser.add_argument(
        "--folder", type=Path, help="where to write the checkpoint; OUT/video-llava unless told"
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument(
        "--threads", type=int, default=1, help="one is fastest beside other work on two cores"
    )
    parser.add_argument(
        "--wide", action="store_true", help="learn the wider world instead, whose course is not settled yet"
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    look = Look(wide=options.wide)
    run = Run(options.out, Student(look))
    train(run, STAGES, seed=options.seed, look=look, examine=examiner(look))
    write_folder(run.student.model, options.folder or options.out / "video-llava", look)


if __name__ == "__main__":
    main()
