"""`watchword bench`: how fast a model is here, and how much of what the machine allows that is."""

import json
from typing import Annotated

import typer

from watchword.cli.shell import guarded, say


def bench(
    model: Annotated[
        str | None, typer.Argument(help="A checkpoint folder or hub id; else the embedded model.")
    ] = None,
    quantize: Annotated[str | None, typer.Option(help="int8, int4, nf4 or fp4.")] = None,
    pack: Annotated[
        bool,
        typer.Option("--pack/--no-pack", help="Weights of 8 bits; `ask` and `chat` leave them as stored."),
    ] = True,
    dtype: Annotated[str, typer.Option(help="auto (as stored), float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto (cuda, else mps, else cpu), or one of them.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Of the processor; torch's choice.")] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Of the clip; by the model 8, 4, or a picture.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=2, help="Of every answer.")] = 16,
    beams: Annotated[int, typer.Option(min=1, help="To search with.")] = 1,
    repeats: Annotated[
        int, typer.Option(min=1, help="Of every measurement, behind one that does not count; medians.")
    ] = 3,
    question: Annotated[str, typer.Option(help="What is asked.")] = "What happens?",
    against: Annotated[str | None, typer.Option(help="transformers, in a process of its own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all numbers, as JSON.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the network for a model.")] = False,
) -> None:
    """Measure loading, the first token, further tokens, frames and memory, on noise instead of a clip.

    Shares are those of what the machine does at most: a timed read of 1 GiB and a large product of matrices.
    """
    with guarded():
        from watchword.bench import comparing, table
        from watchword.bench.ours import Work

        work = Work(frames, tokens, beams, repeats, question)
        found = comparing.compare(
            model, work, against=against, threads=threads, say=say, quantize=quantize, pack=pack,
            dtype=dtype, device=device, offline=offline,
        )  # fmt: skip
        if as_json:
            typer.echo(json.dumps(table.to_dict(found), indent=2))
            return
        for side, rows in zip(found.sides, found.tables):
            typer.echo(f"{side.name}, {side.positions} positions, {found.threads} threads")
            for row in rows:
                what, value, share = row.told()
                typer.echo(f"  {what:<14}{value:>16}   {share}")
        for line in found.ratios():
            typer.echo(line)
