"""Small clips made on the spot: every frame has a colour of its own."""

from pathlib import Path

import av
import numpy as np


def picture(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Frame `number`: a moving bar on a ground whose colours tell the number."""
    frame = np.full((height, width, 3), (number * 4 % 256, 200, 255 - number * 4 % 256), np.uint8)
    frame[:, number % width : number % width + 8] = 16
    return frame


def write(
    path: Path,
    codec: str = "libx264",
    frames: int = 60,
    *,
    rate: int = 24,
    turn: int = 0,
    size=(48, 64),
    **options,
) -> Path:
    """Encode a clip; the container follows from the name."""
    format_options = {"movflags": options.pop("movflags")} if "movflags" in options else {}
    with av.open(str(path), "w", options=format_options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = size
        stream.pix_fmt = {"gif": "rgb8", "ffv1": "yuv420p"}.get(codec, "yuv420p")
        stream.options = options
        if turn:
            stream.set_display_rotation(turn)
        for number in range(frames):
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def decoded(path: Path) -> list[np.ndarray]:
    """All frames by the documented loop."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
