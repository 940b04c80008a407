"""`watchword ask`: one question about one picture or clip."""

import json
import sys
from typing import Annotated

import typer

from watchword.cli import answering, choosing
from watchword.cli.shell import guarded, opened, parallel


def ask(
    media: Annotated[str, typer.Argument(help="A picture, a video, or a folder of numbered pictures.")],
    question: Annotated[str, typer.Argument(help='For example "What happens?"')],
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
    segments: choosing.Segments = None,
    sandbox: choosing.Sandbox = False,
    max_new_tokens: answering.Most = None,
    min_new_tokens: answering.Least = None,
    temperature: answering.Temperature = None,
    top_k: answering.TopK = None,
    top_p: answering.TopP = None,
    min_p: answering.MinP = None,
    repetition_penalty: answering.Repetition = None,
    no_repeat_ngram_size: answering.Ngram = None,
    num_beams: answering.Beams = 1,
    length_penalty: answering.Length = None,
    early_stopping: answering.Early = None,
    n: answering.Answers = 1,
    stop: answering.Stop = None,
    seed: answering.Seed = None,
    choice: answering.Choice = None,
    logprobs: answering.Logprobs = None,
    visual_tokens: answering.VisualTokens = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all there is to know, as JSON.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the network for a model.")] = False,
) -> None:
    """Ask about a picture or a video. The answer goes to standard output, all else to standard error.

    On a terminal it appears word by word. Under torchrun the ranks share one text model:
    torchrun --nproc-per-node 2 -m -- watchword ask ...
    """
    with guarded():
        from watchword.media.flags import from_flags

        flags = {
            "start": start, "end": end, "at_times": at, "every_time": every, "by_scenes": scenes,
            "by_segments": segments,
        }  # fmt: skip
        from_flags(frames, **flags)  # what is wrong with the request shows before a large model is read
        source = choosing.admitted(media)
        options = answering.options_of(
            max_new_tokens=max_new_tokens, min_new_tokens=min_new_tokens, temperature=temperature,
            top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty,
            no_repeat_ngram_size=no_repeat_ngram_size, num_beams=num_beams, length_penalty=length_penalty,
            early_stopping=early_stopping, n=n, stop=stop, seed=seed, choices=choice, logprobs=logprobs,
            visual_tokens=visual_tokens,
        )  # fmt: skip
        pipeline = opened(
            model, parallel=parallel(), adapter=adapter, device=device, dtype=dtype, quantize=quantize,
            pack=segments is not None, sandbox=sandbox, offline=offline,
        )  # fmt: skip
        pick = from_flags(frames, **flags, default=pipeline.family.frames)
        if segments is not None:
            found = pipeline.stream_segments(source, question, pick, options=options)
            answering.print_segments(question, found, as_json)
            return
        if sys.stdout.isatty() and not as_json and n == 1:
            answer = answering.print_stream(pipeline.stream(source, question, frames=pick, options=options))
            if answer is None:
                raise KeyboardInterrupt
            answering.tell_notes(answer)
            return
        answer = pipeline.ask(source, question, frames=pick, options=options)
        answering.tell_notes(answer)
        text = "\n".join(answer.texts)
        typer.echo(json.dumps(answer.to_dict(), ensure_ascii=False, indent=2) if as_json else text)
