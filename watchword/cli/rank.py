"""`watchword rank`: which of some answers is the likeliest."""

import json
from typing import Annotated

import typer

from watchword.cli import answering, choosing
from watchword.cli.shell import guarded, opened, say


def rank(
    media: Annotated[str, typer.Argument(help="A picture, a video, or a folder of numbered pictures.")],
    question: Annotated[str, typer.Argument(help='For example "Which way does it go?"')],
    candidates: Annotated[list[str], typer.Argument(help="The answers to compare.")],
    rule: Annotated[
        str, typer.Option(help="sum, mean, instructblip (the original's) or unconditional.")
    ] = "sum",
    model: Annotated[
        str | None,
        typer.Option(help="A checkpoint folder or hub id; else the embedded model: moving shapes only."),
    ] = None,
    adapter: answering.Adapter = None,
    device: Annotated[str, typer.Option(help="auto (cuda, else mps, else cpu), or one of them.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto (as stored), float32, bfloat16 or float16.")] = "auto",
    quantize: answering.Quantize = None,
    frames: choosing.Frames = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every token's numbers, as JSON.")] = False,
    sandbox: choosing.Sandbox = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the network for a model.")] = False,
) -> None:
    """Say how likely each of some answers is, the likeliest first: probability among them, and score."""
    with guarded():
        source = choosing.admitted(media)
        pipeline = opened(
            model, adapter=adapter, device=device, dtype=dtype, quantize=quantize, pack=False,
            sandbox=sandbox, offline=offline,
        )  # fmt: skip
        found = pipeline.rank(source, question, candidates, rule=rule, frames=frames)
        if as_json:
            typer.echo(json.dumps(found.to_dict(), ensure_ascii=False, indent=2))
            return
        say(f"by {found.rule}: probability, score, answer")
        for one in found.candidates:
            typer.echo(f"{one.probability:7.2%}  {one.score:9.3f}  {one.text}")
