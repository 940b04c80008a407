"""Teach the embedded model something new, pink things and things that jump, and see what it still knows.

Ten to fifteen minutes on two cores: 2,000 clips are drawn, encoded, learned from as an adapter, and examined.
"""

import tempfile
from pathlib import Path

import watchword
from watchword import train
from watchword.train import novelty

CLIPS, EXAM = 2000, 200


def main(clips: int = CLIPS, exam: int = EXAM) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        lines = novelty.write(folder / "clips", clips, seed=1)
        run = train.run(
            lines,
            out=folder / "run",
            recipe="lora",
            targets=["language", "lm_head"],  # the head too: the new words were never said
            rate=2e-3,
            epochs=3,
            turns="apart",
        )
        for when, adapter in (("before", None), ("after", run.model)):
            model = watchword.load(adapter=adapter)
            new, old = (novelty.exam(model, folder, exam, seed=2, new=one) for one in (True, False))
            print(f"{when}: {new:.1%} right about what is new, {old:.1%} about the rest")


if __name__ == "__main__":
    main()
