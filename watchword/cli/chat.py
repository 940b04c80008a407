"""`watchword chat`: a conversation about pictures and clips."""

import sys
from typing import Annotated, Any

import typer

from watchword.cli import answering, choosing
from watchword.cli.shell import guarded, opened, say
from watchword.errors import RequestError, WatchwordError

HELP = """\
/media PATH   show another picture or clip; the next question is about it
/clear        forget what was said, but not the last picture or clip
/save PATH    write the conversation; --resume PATH goes on with it
/stats        times and tokens of the last answer, and what is kept
/help         this
/quit         leave; Ctrl-D too. Ctrl-C stops an answer"""


def chat(
    media: Annotated[str | None, typer.Argument(help="A picture, a video, or a folder of pictures.")] = None,
    resume: Annotated[str | None, typer.Option(help="Go on with a conversation that /save wrote.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A checkpoint folder or hub id; else the embedded model: moving shapes only."),
    ] = None,
    adapter: answering.Adapter = None,
    device: Annotated[str, typer.Option(help="auto (cuda, else mps, else cpu), or one of them.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto (as stored), float32, bfloat16 or float16.")] = "auto",
    quantize: answering.Quantize = None,
    frames: choosing.Frames = None,
    overflow: Annotated[
        str | None, typer.Option(help="When it gets too long: drop_oldest (if not said), or error.")
    ] = None,
    max_new_tokens: answering.Most = None,
    temperature: answering.Temperature = None,
    top_p: answering.TopP = None,
    num_beams: answering.Beams = 1,
    stop: answering.Stop = None,
    seed: answering.Seed = None,
    visual_tokens: answering.VisualTokens = None,
    sandbox: choosing.Sandbox = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the network for a model.")] = False,
) -> None:
    """Talk about a picture or a video. Type /help inside for what else can be done."""
    with guarded():
        if resume is not None and (frames is not None or overflow is not None):
            raise RequestError(
                "chat: --resume with --frames or --overflow; the saved conversation says both itself; leave "
                "them out"
            )
        if media is not None:
            check_medium(media)
        options = answering.options_of(
            max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, num_beams=num_beams,
            stop=stop, seed=seed, visual_tokens=visual_tokens,
        )  # fmt: skip
        pipeline = opened(
            model, adapter=adapter, device=device, dtype=dtype, quantize=quantize, pack=False,
            sandbox=sandbox, offline=offline,
        )  # fmt: skip
        if resume is None:
            talk = pipeline.chat(frames=frames, overflow=overflow or "drop_oldest")
        else:
            talk = pipeline.load_chat(resume)
            say(f"{resume}: {len(talk.history)} turns so far")
        if media is not None:
            talk.show(media)
        converse(talk, options)


def check_medium(media: str) -> None:
    """Refuse a medium that cannot be opened, and standard input, from which the questions come."""
    if media == "-":
        raise RequestError("chat: standard input is where the questions come from; give the path of a file")
    choosing.admitted(media)


def converse(talk: Any, options: Any) -> None:
    """Read lines until there are no more; whatever goes wrong with one does not end the conversation."""
    if sys.stdin.isatty():
        import readline  # noqa: F401  # editing and history come with it

        say("type a question, or /help")
    last = None
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            if sys.stdin.isatty():
                typer.echo("")  # the shell's prompt begins a line
            return
        except KeyboardInterrupt:
            typer.echo("")
            continue
        if line in ("/quit", "/exit"):
            return
        try:
            if line.startswith("/"):
                command(talk, line, last)
            elif line:
                answer = answering.print_stream(talk.stream(line, options=options))
                if answer is not None:
                    last = answer
                    answering.tell_notes(answer)
        except WatchwordError as error:
            say(f"{type(error).__name__}: {error}")
        except KeyboardInterrupt:
            say("stopped")
        except OSError as error:
            say(f"{error.filename}: {error.strerror}")


def command(talk: Any, line: str, last: Any) -> None:
    """Do what a line that begins with a slash says."""
    name, _, rest = line.partition(" ")
    rest = rest.strip()
    if name in ("/media", "/save") and not rest:
        say(f"{name}: which file? For example {name} {'clip.mp4' if name == '/media' else 'talk.json'}")
    elif name == "/media":
        clip = talk.show(rest)
        say(f"{rest}: a {clip.kind}, {len(clip.frames)} of {clip.total} frames; ask about it")
    elif name == "/save":
        talk.save(rest)
        say(f"{rest}: {len(talk.history)} turns")
    elif name == "/clear":
        talk.clear()
        say("forgotten")
    elif name == "/stats":
        tell_stats(talk, last)
    elif name == "/help":
        typer.echo(HELP, err=True)
    else:
        say(f"{name}: unknown; /help says what there is")


def tell_stats(talk: Any, last: Any) -> None:
    """Numbers of the last answer and of what is kept."""
    if last is not None:
        tokens, seconds = last.tokens, last.seconds
        say(
            f"prompt {tokens['prompt']} tokens, {tokens['reused']} of them reused; answer "
            f"{tokens['answer']}; first token after {seconds.get('first_token', 0):.2f} s, "
            f"all after {seconds['total']:.2f} s"
        )
    kept = talk.pipeline.cache.stats()
    found = ", ".join(
        f"{kind} {kept.hits.get(kind, 0)} of {kept.hits.get(kind, 0) + kept.misses.get(kind, 0)}"
        for kind in sorted({*kept.hits, *kept.misses})
    )
    size = f"{kept.bytes / 2**20:.1f} of {kept.budget / 2**20:.0f} MiB"
    say(f"{len(talk.history)} turns; kept {size}; found again: {found or 'nothing yet'}")
