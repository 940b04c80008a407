"""`watchword explain`: an answer, and a picture of where the model looked for each of its words."""

import json
from typing import Annotated

import typer

from watchword.cli import answering, choosing
from watchword.cli.shell import guarded, opened, say


def explain(
    media: Annotated[str, typer.Argument(help="A picture, a video, or a folder of numbered pictures.")],
    question: Annotated[str, typer.Argument(help='For example "What happens?"')],
    output: Annotated[str, typer.Option("--output", "-o", help="Where to write it: .png, .jpg or .webp.")],
    model: Annotated[
        str | None,
        typer.Option(help="A checkpoint folder or hub id; else the embedded model: moving shapes only."),
    ] = None,
    adapter: answering.Adapter = None,
    device: Annotated[str, typer.Option(help="auto (cuda, else mps, else cpu), or one of them.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto (as stored), float32, bfloat16 or float16.")] = "auto",
    quantize: answering.Quantize = None,
    frames: choosing.Frames = None,
    start: choosing.From = None,
    end: choosing.To = None,
    at: choosing.At = None,
    every: choosing.Every = None,
    scenes: choosing.Scenes = False,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The longest answer, in tokens; 128.")] = None,
    words: Annotated[int, typer.Option(min=0, help="How many words get a row of their own.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="Print answer and attention as JSON.")] = False,
    sandbox: choosing.Sandbox = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the network for a model.")] = False,
) -> None:
    """Answer, and draw the frames with heat maps of where the model looked for each word of the answer."""
    with guarded():
        from watchword.media.flags import from_flags
        from watchword.media.sheet import check_sheet_name

        flags = {"start": start, "end": end, "at_times": at, "every_time": every, "by_scenes": scenes}
        check_sheet_name(output)  # what is wrong with the request shows before a large model is read
        from_flags(frames, **flags)
        source = choosing.admitted(media)
        pipeline = opened(
            model, adapter=adapter, device=device, dtype=dtype, quantize=quantize, pack=False,
            sandbox=sandbox, offline=offline,
        )  # fmt: skip
        pick = from_flags(frames, **flags, default=pipeline.family.frames)
        found = pipeline.explain(source, question, frames=pick, max_tokens=max_tokens)
        found.save(output, words)
        if found.clip.note:
            say(f"note: {found.clip.note}")
        say(f"{output}: where it looked for {len(found.words)} words")
        typer.echo(json.dumps(found.to_dict(), ensure_ascii=False) if as_json else found.text)
