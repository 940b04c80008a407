"""What commands that look share: the flags that choose frames, and an early look at the file."""

import os
from typing import Annotated, Any

import typer

Frames = Annotated[
    int | None, typer.Option("--frames", min=1, help="How many frames, spread evenly; 8 or 4, by the model.")
]
From = Annotated[str | None, typer.Option("--from", help="Look from this time on: 9, 3.5s, 0:10, 1:02:03.")]
To = Annotated[str | None, typer.Option("--to", help="Look up to this time.")]
At = Annotated[str | None, typer.Option("--at", help="The frames at these times, such as 3.5s,9s.")]
Every = Annotated[str | None, typer.Option("--every", help="One frame each so often, such as 2s.")]
Scenes = Annotated[bool, typer.Option("--scenes", help="A frame of each scene, found by its cuts.")]
Segments = Annotated[
    str | None,
    typer.Option("--segments", help="An answer for each stretch of so long, such as 30s, with its times."),
]
Sandbox = Annotated[
    bool,
    typer.Option("--sandbox", help="Decode in a child process without files, network and much memory."),
]


def admitted(media: str) -> Any:
    """Let a medium through the gate before a large model is read, for whoever reads it later.

    A folder stays a name: its pictures are looked at when they are read.

    Raises:
        MediaError: it cannot be opened.
    """
    from watchword.media.gate import admit

    return media if os.path.isdir(media) else admit(media)
