"""What commands that answer share: the flags of `Options`, and an answer that appears as it comes."""

import json
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from watchword.cli.shell import say

Most = Annotated[
    int | None,
    typer.Option("--max-new-tokens", "--max-tokens", min=1, help="The longest answer, in tokens; 128."),
]
Least = Annotated[int | None, typer.Option("--min-new-tokens", min=0, help="The shortest, in tokens.")]
Temperature = Annotated[float | None, typer.Option(min=0, help="Above 0 draws at random.")]
TopK = Annotated[int | None, typer.Option(min=0, help="Draw only from so many of the likeliest.")]
TopP = Annotated[float | None, typer.Option(min=0, max=1, help="Draw only from this share.")]
MinP = Annotated[float | None, typer.Option(min=0, max=1, help="Draw only what is as likely as this.")]
Repetition = Annotated[float | None, typer.Option(help="Above 1 makes repeated tokens less likely.")]
Ngram = Annotated[int | None, typer.Option(min=0, help="So many tokens never come in the same order again.")]
Beams = Annotated[
    int,
    typer.Option("--num-beams", "--beams", min=1, help="More than one searches for the likeliest answer."),
]
Length = Annotated[float | None, typer.Option(help="For beams: above 0 favours longer answers.")]
Early = Annotated[bool | None, typer.Option(help="For beams: whether the first ones to end are enough.")]
Answers = Annotated[int, typer.Option("--n", min=1, help="So many answers, drawn or from beams.")]
Stop = Annotated[list[str] | None, typer.Option(help="The answer ends before this; may be repeated.")]
Seed = Annotated[int | None, typer.Option(help="Makes drawing repeatable.")]
Choice = Annotated[list[str] | None, typer.Option("--choice", help="The answer is this or another choice.")]
Adapter = Annotated[
    str | None, typer.Option(help="A LoRA adapter of the model: a folder or hub id in the PEFT format.")
]
VisualTokens = Annotated[
    float | None,
    typer.Option(help="Merge visual tokens: up to 1 the share that is left, from 2 on how many."),
]
Quantize = Annotated[
    str | None,
    typer.Option(
        help="Keep most weights in few bits: int8, int4, nf4 or fp4; not for a folder that is quantized."
    ),
]
Logprobs = Annotated[int | None, typer.Option(min=0, help="Log-probabilities, with --json.")]


def options_of(**given: Any) -> Any:
    """Flags as `Options`; what was not given is left out."""
    from watchword.pipeline import Options

    return Options(**{name: value for name, value in given.items() if value is not None})


def print_stream(stream: Any) -> Any:
    """Print an answer piece by piece; Ctrl-C ends the answer, which is then None, and nothing else."""
    try:
        with stream:
            for piece in stream:
                typer.echo(piece, nl=False)
    except KeyboardInterrupt:
        typer.echo("")
        say("stopped")
        return None
    typer.echo("")
    return stream.answer


def print_segments(question: str, stretches: Iterable[Any], as_json: bool) -> None:
    """Print the answer about each stretch of a film as it comes; as JSON, all of them at the end."""
    from watchword.pipeline.segments import Segmented

    found = []
    for one in stretches:
        found.append(one)
        tell_notes(one.answer, f"{one.span}: ")
        if not as_json:
            typer.echo(str(one))
    if as_json:
        whole = Segmented(question, tuple(found))
        typer.echo(json.dumps(whole.to_dict(), ensure_ascii=False, indent=2))


def tell_notes(answer: Any, where: str = "") -> None:
    """What a user should know about an answer, on standard error."""
    for note in answer.notes:
        say(f"note: {where}{note}")
    if not answer.ended:
        say(f"note: {where}cut off after {answer.tokens['answer']} tokens; --max-new-tokens allows more")
