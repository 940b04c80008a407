"""`watchword quantize`: a checkpoint in fewer bits, as a folder of its own."""

from typing import Annotated

import typer

from watchword.cli.shell import bar, guarded, say


def quantize(
    source: Annotated[str, typer.Argument(help="A dense checkpoint folder or hub id; or embedded.")],
    out: Annotated[str, typer.Argument(help="The folder to write; there must be none of that name yet.")],
    to: Annotated[str, typer.Option(help="int8, int4, nf4 or fp4.")] = "int8",
    group: Annotated[
        int | None,
        typer.Option(help="For int4: values that share a scale; else the largest up to 64 that fits."),
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(help="A module whose linears stay dense; may be repeated.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the network.")] = False,
) -> None:
    """Store a checkpoint's weights in few bits. The folder loads by itself, without --quantize."""
    with guarded():
        from watchword.pipeline.quantizing import quantize as quantized
        from watchword.weights.quantize import Recipe

        recipe = Recipe(to, group=group, skip=tuple(skip or ()))
        with bar("quantizing") as progress:
            report = quantized(source, out, recipe, progress=progress, local_files_only=offline)
        say(f"{out}: written; {report}; ask it with --model {out}")
