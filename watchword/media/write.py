"""Write frames as a video file: for examples, benchmarks and tests."""

import base64
import io
import os
from fractions import Fraction

import av
import numpy as np
from jaxtyping import UInt8 as Bytes
from PIL import Image

from watchword.shapes import Tensor, UInt8


def write_clip(
    path: str | os.PathLike, frames: UInt8[Tensor, "T H W 3"], *, fps: int = 12, quality: int = 23
) -> None:
    """Encode RGB frames as H.264 in MP4, the kind that every player reads.

    Args:
        frames: 0 to 255, red first; height and width even, since colours are stored at half the size.
        quality: x264's constant rate factor; 18 looks lossless, 23 is usual, 28 shows its blocks.
    """
    height, width = frames.shape[1:3]
    with av.open(os.fspath(path), "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264", rate=Fraction(fps), options={"crf": str(quality), "preset": "fast"}
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames.numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def png(frame: Bytes[np.ndarray, "H W 3"]) -> str:
    """A picture as PNG in base64, for places that hold text; nothing of it is lost."""
    held = io.BytesIO()
    Image.fromarray(frame).save(held, "PNG")
    return base64.b64encode(held.getvalue()).decode()
