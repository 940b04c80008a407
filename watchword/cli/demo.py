"""`watchword demo`: the embedded models answer about the clips and pictures that come with the library."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from watchword.cli.shell import guarded, introduce

DEMO = Path(__file__).parents[1] / "demo"
CLIPS = DEMO / "clips"
"""H.264 clips and pictures. clips.json has questions to each, talks.json conversations, with their right
answers."""

SEES = {
    "video-llava": (".mp4", ".jpg"),
    "instructblip-video": (".mp4",),
    "instructblip": (".jpg",),
}
"""The models' folders beside the clips, and what each is shown."""


def demo() -> None:
    """First answers without any download: embedded models, and clips and pictures of shapes."""
    with guarded():
        for number, (name, suffixes) in enumerate(SEES.items()):
            typer.echo(f"== {name}" if number == 0 else f"\n== {name}")
            pipeline = opened(None if number == 0 else DEMO / name)
            for medium, question, right, answer in asked(pipeline, suffixes):
                verdict = "" if answer.text == right else f"   (wrong; it is: {right})"
                typer.echo(f"\n{medium}{question}\n  {answer.text}{verdict}")
                typer.echo(f"  {looked_at(answer.frames, answer.times)}; {answer.seconds['total']:.2f} s")


def opened(folder: Path | None) -> Any:
    """A model, introduced."""
    from watchword.pipeline import load

    pipeline = load(folder)
    introduce(pipeline)
    return pipeline


def asked(pipeline: Any, suffixes: tuple[str, ...]) -> Iterator[tuple[str, str, str, Any]]:
    """Where a question stands, the question, its right answer, and what the model answers."""
    for name, questions in told("clips.json", suffixes):
        for question, right in questions.items():
            yield f"{name}: ", question, right, pipeline.ask(CLIPS / name, question)
    for name, turns in told("talks.json", suffixes):
        talk = pipeline.chat(CLIPS / name)
        for number, (question, right) in enumerate(turns, start=1):
            yield f"{name}, turn {number}: ", question, right, talk.ask(question)


def told(file: str, suffixes: tuple[str, ...]) -> list[tuple[str, Any]]:
    """What such a file has for clips, or pictures."""
    path = CLIPS / file
    held = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return [(name, value) for name, value in held.items() if name.endswith(suffixes)]


def looked_at(frames: tuple[int, ...], times: tuple[float, ...] | None) -> str:
    """Frames and their times, in words."""
    numbers = ", ".join(str(number) for number in frames)
    seconds = "" if times is None else f" at {', '.join(f'{time:.2f}' for time in times)} s"
    return f"frames {numbers}{seconds}"
