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
    Stage("sight", steps=3000, peak=2e-3, clips=64, asks=False),
    Stage(
        "answers", steps=3600, peak=2e-3, clips=32, asks=True, pictures=4, tower=0.15, free=True, busy=True
    ),
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
    parser.add_argument("--device", default="cpu", help="a card serves to try courses quickly")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw the batches")
    parser.add_argument(
        "--threads", type=int, default=1, help="one is fastest beside other work on two cores"
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    look = Look()
    run = Run(options.out, Student(look).to(options.device))
    train(run, STAGES, seed=options.seed, look=look, examine=examiner(look), workers=options.workers)
    write_folder(run.student.model, options.folder or options.out / "video-llava", look)


if __name__ == "__main__":
    main()
