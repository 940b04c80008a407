"""What all commands share: exit codes, messages on standard error, the bar while weights are read."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer

from watchword import errors

EXITS: dict[type[errors.WatchwordError], int] = {
    errors.MediaError: 3,
    errors.CheckpointError: 4,
    errors.ConfigError: 4,
    errors.MissingExtra: 4,
    errors.RequestError: 5,
    errors.CapacityError: 6,
    errors.TrainingError: 7,
}
INTERRUPTED = 130
UNREAD = 141
CODES = (
    "Exit codes: 0 answered, 2 wrong usage, 3 picture or video, 4 checkpoint or config, 5 request, "
    "6 too much for the model or memory, 7 training had to stop, 130 interrupted, "
    "141 nobody reads the output."
)

RANK = int(os.environ.get("RANK", 0))
"""Number among the processes that `torchrun` started; 0 without it."""

REAL_MODEL = "LanguageBind/Video-LLaVA-7B-hf"


class Unwritable(Exception):
    """Standard output cannot be written."""


class Output:
    """Standard output, which says so where an error is its own."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As of the stream."""
        return self._tried(self._stream.write, text)

    def flush(self) -> None:
        """As of the stream."""
        self._tried(self._stream.flush)

    def _tried(self, act: Callable[..., Any], *given: Any) -> Any:
        try:
            return act(*given)
        except OSError as error:
            raise Unwritable(error.strerror) from error


@contextmanager
def guarded() -> Iterator[None]:
    """Errors raised on purpose become one line on standard error and an exit code."""
    stdout = sys.stdout
    sys.stdout = Output(stdout)
    try:
        yield
    except errors.WatchwordError as error:
        where = f"rank {RANK}: " if RANK else ""
        typer.echo(f"watchword: {where}{type(error).__name__}: {error}", err=True)
        code = next(code for kind, code in EXITS.items() if isinstance(error, kind))
        raise typer.Exit(code) from error
    except KeyboardInterrupt as error:
        say("interrupted")
        raise typer.Exit(INTERRUPTED) from error
    except Unwritable as error:
        stdout = open(os.devnull, "w")  # noqa: SIM115 what is left in the other one has no place to go
        if isinstance(error.__cause__, BrokenPipeError):
            raise typer.Exit(UNREAD) from error
        say(f"standard output: cannot be written ({error}); expected room, and a place to write to")
        raise typer.Exit(EXITS[errors.RequestError]) from error
    finally:
        if isinstance(sys.stdout, Output):
            sys.stdout = stdout


def say(text: str) -> None:
    """A line on standard error; answers alone go to standard output. Of ranks the first speaks."""
    if RANK == 0:
        typer.echo(f"watchword: {text}", err=True)


def several() -> bool:
    """Whether `torchrun` started more processes than this one."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def parallel() -> str | None:
    """How to load: "tensor" under `torchrun` with several ranks, of which only the first one prints."""
    if not several():
        return None
    if RANK:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 until the end of the process
    return "tensor"


def opened(model: str | None, *, offline: bool, **choices: Any) -> Any:
    """The model, loaded behind a bar and introduced; choices as for `watchword.load`.

    Raises:
        ConfigError: several processes of a command that does not share the model among them.
    """
    from watchword.pipeline import load

    if several() and "parallel" not in choices:
        raise errors.ConfigError(
            f"torchrun started {os.environ['WORLD_SIZE']} processes; expected that of `ask` and `train` "
            "alone; start this command once"
        )

    with bar("loading") as progress:
        pipeline = load(model, progress=progress, local_files_only=offline, **choices)
    introduce(pipeline)
    return pipeline


def introduce(pipeline: Any) -> None:
    """Say which model answers and, for the embedded one, what it can not do."""
    used = getattr(pipeline.model, "quantization", None)
    if pipeline.embedded:
        say(
            "the embedded model answers; it knows moving shapes only. For a model that knows the world: "
            f"--model {REAL_MODEL}"
        )
        if used is not None:
            say(str(used))
    else:
        kind = str(pipeline.dtype).removeprefix("torch.")
        how = "" if used is None else f"; {used}"
        say(f"{pipeline.name} answers ({pipeline.model.config.model_type}, {kind} on {pipeline.device}{how})")


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A progress callback that draws a bar; None where standard error is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
