"""`watchword demo`: the embedded model answers about the clips that come with the library."""

import json
from pathlib import Path

import typer

from watchword.cli.shell import guarded, introduce

CLIPS = Path(__file__).parents[1] / "demo" / "clips"
"""H.264 clips; clips.json has questions to each, with their right answers."""


def demo() -> None:
    """A first answer without any download: the embedded model and its clips of moving shapes."""
    with guarded():
        from watchword.pipeline import load

        pipeline = load()
        introduce(pipeline)
        for name, questions in json.loads((CLIPS / "clips.json").read_text(encoding="utf-8")).items():
            for question, right in questions.items():
                answer = pipeline.ask(CLIPS / name, question)
                verdict = "" if answer.text == right else f"   (wrong; it is: {right})"
                typer.echo(f"\n{name}: {question}\n  {answer.text}{verdict}")
                typer.echo(f"  {looked_at(answer.frames, answer.times)}; {answer.seconds['total']:.2f} s")


def looked_at(frames: tuple[int, ...], times: tuple[float, ...] | None) -> str:
    """Frames and their times, in words."""
    numbers = ", ".join(str(number) for number in frames)
    seconds = "" if times is None else f" at {', '.join(f'{time:.2f}' for time in times)} s"
    return f"frames {numbers}{seconds}"
