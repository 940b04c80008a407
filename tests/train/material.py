"""Small data to learn from: pictures and clips whose colour is the answer, and a tiny checkpoint."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from watchword.media.write import write_clip

COLOURS = {"red": (220, 30, 30), "blue": (20, 40, 230)}
QUESTION = "What is happening in this video?"


def picture(path: Path, colour: str, size: int = 28) -> str:
    Image.fromarray(np.full((size, size, 3), COLOURS[colour], np.uint8)).save(path)
    return path.name


def clip(path: Path, colour: str, frames: int = 3) -> str:
    frame = torch.tensor(COLOURS[colour], dtype=torch.uint8).expand(frames, 28, 28, 3).contiguous()
    write_clip(path, frame)
    return path.name


def lines(folder: Path, count: int = 6, *, kind: str = "image") -> list[dict]:
    """Lines of our own form, their media written beside."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number in range(count):
        colour = list(COLOURS)[number % 2]
        name = f"{kind}{number}.png" if kind == "image" else f"{kind}{number}.mp4"
        (picture if kind == "image" else clip)(folder / name, colour)
        found.append({kind: name, "question": QUESTION, "answer": f"The {colour} ball."})
    return found


def jsonl(path: Path, entries: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in entries))
    return path
