"""What commands that look share: the flags that choose frames, and an early look at the file."""

import os
from typing import Annotated

import typer

Frames = Annotated[
    int | None, typer.Option("--frames", min=1, help="How many frames, spread evenly; 8 or 4, by the model.")
]
From = Annotated[str | None, typer.Option("--from", help="Look from this time on: 9, 3.5s, 0:10, 1:02:03.")]
To = Annotated[str | None, typer.Option("--to", help="Look up to this time.")]
At = Annotated[str | None, typer.Option("--at", help="The frames at these times, such as 3.5s,9s.")]
Every = Annotated[str | None, typer.Option("--every", help="One frame each so often, such as 2s.")]
Scenes = Annotated[bool, typer.Option("--scenes", help="A frame of each scene, found by its cuts.")]


def check_media(media: str) -> None:
    """Refuse a file that is missing or unreadable, before a large model is read.

    What can be read only once, or only over the network, waits until it is read.

    Raises:
        MediaError: it cannot be opened.
    """
    from watchword.media.gate import admit

    if media != "-" and ":" not in media and not os.path.isdir(media):
        admit(media)
