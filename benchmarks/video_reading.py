"""Eight uniform frames of clips of 10 s, 5 min and 30 min: here, the documented loop, torchcodec, OpenCV.

    python benchmarks/video_reading.py [--folder DIR] [--only 30min_480p] [--readers a,b] [--quick]

Makes its clips: some seconds are encoded, and the packets repeated up to the length. Each reading runs in a
process of its own; time is the reading alone, memory the peak of the process beyond what it was before.
Prints one JSON line per clip and reader.
"""

import argparse
import importlib.util
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np

ROOT = Path(__file__).parents[1]
RATE = 30
SIZES = {"480p": (480, 854), "1080p": (1080, 1920)}
LENGTHS = {"10s": 10, "5min": 300, "30min": 1800}
GOPS = (250, 25)
ODD = 97  # frames beyond the round length, so that no wanted frame is a key frame by chance


def make(path: Path, size: tuple[int, int], gop: int, seconds: int) -> None:
    """A texture that moves: two groups are encoded, and their packets repeated."""
    height, width = size
    frames = seconds * RATE + ODD
    base = min(frames, 2 * gop if gop > 25 else 500)
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (height // 8 + 64, width // 8 + 64, 3), dtype=np.uint8)
    texture = texture.repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {
            "preset": "ultrafast", "g": str(gop), "keyint_min": str(gop), "bf": "2", "sc_threshold": "0",
            "crf": "28", "x264-params": "open-gop=0",
        }  # fmt: skip
        packets = []
        for number in range(base):
            top, left = number * 2 % 256, number * 3 % 256
            picture = np.ascontiguousarray(texture[top : top + height, left : left + width])
            packets += stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
        packets += stream.encode()
        kept = [(bytes(p), p.pts, p.dts, p.is_keyframe, p.time_base) for p in packets]
        for number in range(frames):
            round_, place = divmod(number, base)
            data, pts, dts, key, base_time = kept[place]
            packet = av.Packet(data)
            packet.pts, packet.dts = pts + round_ * base, dts + round_ * base
            packet.is_keyframe, packet.time_base, packet.stream = key, base_time, stream
            target.mux(packet)


def by_watchword(path: str) -> np.ndarray:
    from watchword.media import read_frames, uniform

    return read_frames(path, uniform(8)).frames


def by_the_documents(path: str) -> np.ndarray:
    """The loop of the documents: decode from the start to the last wanted frame."""
    with av.open(path) as container:
        total = container.streams.video[0].frames
        indices = np.arange(0, total, total / 8).astype(int)
        frames = []
        container.seek(0)
        for number, frame in enumerate(container.decode(video=0)):
            if number > indices[-1]:
                break
            if number in indices:
                frames.append(frame)
        return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])


def by_torchcodec(path: str) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path)
    total = decoder.metadata.num_frames
    indices = np.arange(0, total, total / 8).astype(int).tolist()
    return decoder.get_frames_at(indices).data.permute(0, 2, 3, 1).numpy()


def by_opencv(path: str) -> np.ndarray:
    import cv2

    video = cv2.VideoCapture(path)
    total = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    frames = []
    for index in np.arange(0, total, total / 8).astype(int):
        video.set(cv2.CAP_PROP_POS_FRAMES, int(index))
        frames.append(cv2.cvtColor(video.read()[1], cv2.COLOR_BGR2RGB))
    return np.stack(frames)


def by_sandbox(path: str) -> np.ndarray:
    from dataclasses import replace

    from watchword.media import read_frames, uniform
    from watchword.media.policy import STRICT

    return read_frames(path, uniform(8), policy=replace(STRICT, folders=("/",), max_bytes=2**34)).frames


READERS = {
    "watchword": by_watchword, "documents": by_the_documents, "torchcodec": by_torchcodec,
    "opencv": by_opencv, "sandbox": by_sandbox,
}  # fmt: skip
NEEDS = {"torchcodec": "torchcodec", "opencv": "cv2"}


def peak() -> int:
    """Peak memory of this process in bytes, since the mark was last cleared."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024


def child(reader: str, path: str, warm: str) -> None:
    """Read once after a warm-up on another clip, and print seconds, bytes and a sum of the frames."""
    READERS[reader](warm)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = peak()
    start = time.perf_counter()
    frames = READERS[reader](path)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "bytes": peak() - before, "sum": int(frames.sum(dtype=np.int64))}))


def measure(reader: str, path: Path, warm: Path, times: int) -> dict:
    found = []
    for _ in range(times):
        done = subprocess.run(
            [sys.executable, __file__, "--child", reader, str(path), str(warm)],
            capture_output=True, text=True, check=True, cwd=ROOT,
        )  # fmt: skip
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return {
        "seconds": round(statistics.median(one["seconds"] for one in found), 4),
        "spread": [round(f(one["seconds"] for one in found), 4) for f in (min, max)],
        "megabytes": round(max(one["bytes"] for one in found) / 1e6, 1),
        "sum": found[0]["sum"],
    }


def main() -> None:
    """Make the clips, read each with every reader that is installed, print the lines."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--readers", default=",".join(READERS))
    parser.add_argument("--quick", action="store_true", help="read once instead of five times")
    parser.add_argument("--child", nargs=3)
    args = parser.parse_args()
    if args.child:
        return child(*args.child)
    readers = [
        name for name in args.readers.split(",") if name not in NEEDS or importlib.util.find_spec(NEEDS[name])
    ]
    machine = {"python": platform.python_version(), "av": av.__version__, "cpu": platform.processor()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        warm = folder / "warm.mp4"
        if not warm.exists():
            make(warm, (120, 160), 25, 2)
        names = [f"{length}_{size}_gop{gop}" for length in LENGTHS for size in SIZES for gop in GOPS]
        for name in [name for name in names if args.only in name]:
            length, size, gop = name.split("_")
            path = folder / f"{name}.mp4"
            if not path.exists():
                make(path, SIZES[size], int(gop[3:]), LENGTHS[length])
            for reader in readers:
                times = 1 if args.quick or (reader == "documents" and length != "10s") else 5
                found = measure(reader, path, warm, times)
                print(json.dumps({"clip": name, "reader": reader, **found, **machine}), flush=True)


if __name__ == "__main__":
    main()
