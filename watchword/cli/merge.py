"""`watchword merge`: a model and its adapter become one checkpoint."""

from typing import Annotated

import typer

from watchword.cli.shell import bar, guarded, say


def merge(
    model: Annotated[str, typer.Argument(help="A checkpoint folder or hub id; or embedded.")],
    adapter: Annotated[str, typer.Argument(help="A LoRA adapter: a folder or hub id in the PEFT format.")],
    out: Annotated[str, typer.Argument(help="The folder to write; there must be none of that name yet.")],
    quantize: Annotated[
        str | None, typer.Option(help="Store the sum in few bits: int8, int4, nf4 or fp4.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the network.")] = False,
) -> None:
    """Add a LoRA adapter to the weights of its model, and write the sum as a checkpoint of its own.

    The model must be dense; --quantize stores the sum in few bits.
    """
    with guarded():
        from watchword.pipeline.merging import merge as merged
        from watchword.weights.quantize import Recipe

        recipe = None if quantize is None else Recipe(quantize)
        with bar("reading") as progress:
            found = merged(model, adapter, out, quantize=recipe, progress=progress, local_files_only=offline)
        say(f"{found}: written; ask it with --model {found}")
