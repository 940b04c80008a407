"""`watchword fit`: what memory a model will need, and whether it is there, before anything is loaded."""

import json
from typing import Annotated

import typer

from watchword.cli.shell import guarded, say


def fit(
    model: Annotated[
        str, typer.Argument(help="A checkpoint folder or hub id; of the latter, its config only.")
    ],
    quantize: Annotated[str | None, typer.Option(help="As if loaded so: int8, int4, nf4 or fp4.")] = None,
    dtype: Annotated[str, typer.Option(help="auto (as stored), float32, bfloat16 or float16.")] = "auto",
    frames: Annotated[int | None, typer.Option(min=1, help="Of a clip; 8 or 4, by the model.")] = None,
    positions: Annotated[
        int | None, typer.Option(min=1, help="Of a prompt; else those of the frames and 64 for words.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Beams, samples or questions at a time.")] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1; auto takes the best.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print bytes, as JSON.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the network for a model.")] = False,
) -> None:
    """Say what memory a model will need, and whether it fits. Exit code 1 when it does not."""
    with guarded():
        from watchword.bench.plan import plan
        from watchword.nn.devices import chosen_device
        from watchword.nn.memory import gib, memory
        from watchword.weights.hub import fetch

        folder = fetch(model, patterns=("config.json",), local_files_only=offline)
        where = chosen_device(device)
        made = plan(folder, quantize=quantize, dtype=dtype, device=where)
        length = positions or made.prompt(frames)
        wanted, there = made.need(length, rows), memory(where)
        fits = None if there.available is None else wanted.total <= there.available
        if as_json:
            asked = {"model": model, "format": made.form, "positions": length, "rows": rows}
            found = {"fits": fits, "needed": wanted.total, "available": there.available}
            typer.echo(json.dumps({**asked, **found, "parts": wanted.rows()}, indent=2))
        else:
            for name, size in wanted.rows().items():
                typer.echo(f"{name:<24}{gib(size):>10}")
            typer.echo(f"{'together, about':<24}{gib(wanted.total):>10}")
        verdict = {None: "nobody knows whether it fits:", True: "it fits:", False: "it does not fit:"}[fits]
        has = "does not say what it has" if there.available is None else f"is {gib(there.available)}"
        say(f"{made.form}, {length} positions, {rows} rows: {verdict} {there.where} {has}")
        if fits is False:
            raise typer.Exit(1)
