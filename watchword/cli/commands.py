"""The command line as a whole: which commands there are."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import watchword
from watchword.cli.ask import ask
from watchword.cli.bench import bench
from watchword.cli.chat import chat
from watchword.cli.demo import demo
from watchword.cli.doctor import doctor
from watchword.cli.explain import explain
from watchword.cli.fit import fit
from watchword.cli.frames import frames
from watchword.cli.merge import merge
from watchword.cli.quantize import quantize
from watchword.cli.rank import rank
from watchword.cli.shell import CODES
from watchword.cli.train import train


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line and leave with its exit code."""
    if sys.stdout is None:  # closed by the caller
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 until the end of the process
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        epilog=CODES,
        rich_markup_mode="rich",
    )
    app.callback()(top)
    app.command(epilog=CODES)(ask)
    app.command(epilog=CODES)(chat)
    app.command(epilog=CODES)(rank)
    app.command(epilog=CODES)(explain)
    app.command(epilog=CODES)(frames)
    app.command(epilog=CODES)(quantize)
    app.command(epilog=CODES)(demo)
    app.command()(doctor)
    app.command(epilog=CODES)(fit)
    app.command(epilog=CODES)(bench)
    app.command(epilog=CODES)(train)
    app.command(epilog=CODES)(merge)
    app(arguments, prog_name="watchword")


def show_version(wanted: bool | None) -> None:
    """Print the version and leave."""
    if wanted:
        typer.echo(f"watchword {watchword.__version__}")
        raise typer.Exit


def top(
    version: Annotated[
        bool | None,
        typer.Option("--version", callback=show_version, is_eager=True, help="Print the version."),
    ] = None,
) -> None:
    """Ask questions about pictures and videos, on your own machine."""
