"""Train the embedded InstructBLIP models from nothing on one CPU core: `python -m watchword.train.demo_blip`.

One course makes both: it learns to see, then to answer about pictures, then about clips too. The run keeps
its state in `--out` and goes on from there when it is started again.
"""

import argparse
import logging
from pathlib import Path

import torch

from watchword.train.blip_exam import examiner
from watchword.train.blip_folder import write_folder
from watchword.train.blip_student import BlipStudent
from watchword.train.lessons import Look
from watchword.train.loop import Run, Stage, train

LOOK = Look(frames=4)


STAGES = (
    Stage("sight", steps=3000, peak=2e-3, clips=64, asks=False, until=2500),
    Stage(
        "answers", steps=3600, peak=2e-3, clips=24, asks=True, pictures=3, tower=0.15, free=True, busy=True
    ),
    Stage(
        "settling", steps=600, peak=6e-4, clips=24, asks=True, pictures=2, warm_up=50, tower=0.5, free=True
    ),
)


def main() -> None:
    """Train to the end, or go on where the run in that folder stopped, and write both checkpoints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("runs/blip"), help="state and curve; taken up again if there"
    )
    parser.add_argument(
        "--folder", type=Path, help="where to write instructblip and instructblip-video; OUT unless told"
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--device", default="cpu", help="a card serves to try courses quickly")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw the batches")
    parser.add_argument("--write", action="store_true", help="train no further, write what there is")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)  # fastest beside other work on two cores
    torch.manual_seed(options.seed)
    run = Run(options.out, BlipStudent(LOOK).to(options.device))
    if options.write:
        run.resume()
    else:
        exams = [examiner(LOOK, picture=picture) for picture in (True, False)]
        train(
            run,
            STAGES,
            seed=options.seed,
            look=LOOK,
            examine=lambda student: exams[0](student) | exams[1](student),
            workers=options.workers,
        )
    folder = options.folder or options.out
    for name, picture in (("instructblip", True), ("instructblip-video", False)):
        write_folder(run.student.model, folder / name, LOOK, picture=picture)


if __name__ == "__main__":
    main()
