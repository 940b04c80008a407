"""`watchword frames`: chosen frames of a clip as one picture."""

import json
import os
from typing import Annotated

import typer

from watchword.cli import choosing
from watchword.cli.demo import looked_at
from watchword.cli.shell import guarded, say


def frames(
    media: Annotated[str, typer.Argument(help="A video, a picture, or a folder of numbered pictures.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Where to write it: .png, .jpg or .webp.")],
    frames: choosing.Frames = None,
    start: choosing.From = None,
    end: choosing.To = None,
    at: choosing.At = None,
    every: choosing.Every = None,
    scenes: choosing.Scenes = False,
    sandbox: choosing.Sandbox = False,
    columns: Annotated[int | None, typer.Option(min=1, help="Frames side by side.")] = None,
    tile: Annotated[int | None, typer.Option(min=16, help="Pixels of a frame's long side; 240.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print frame numbers and times as JSON.")] = False,
) -> None:
    """Show frames of a video side by side, each with its time and number. No model is needed."""
    with guarded():
        from watchword.media.decode import read_media
        from watchword.media.flags import from_flags
        from watchword.media.pick import uniform
        from watchword.media.sheet import check_sheet_name, contact_sheet, save_sheet

        check_sheet_name(output)
        pick = from_flags(
            frames, start=start, end=end, at_times=at, every_time=every, by_scenes=scenes
        ) or uniform(8)
        clip = read_media(media, pick, sandbox=sandbox)
        caption = f"{len(clip.frames)} of {clip.total} frames" if clip.total > 1 else ""
        sheet = contact_sheet(
            clip, title=os.path.basename(media.rstrip("/")), caption=caption, columns=columns, tile=tile
        )
        save_sheet(sheet, output)
        if clip.note:
            say(f"note: {clip.note}")
        say(f"{output}: {looked_at(clip.indices, clip.times)}")
        if as_json:
            times = None if clip.times is None else list(clip.times)
            found = {
                "frames": list(clip.indices),
                "times": times,
                "total_frames": clip.total,
                "fps": clip.fps,
            }
            typer.echo(json.dumps(found))
