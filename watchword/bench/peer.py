"""The reference library at the same work, as a process of its own: `python -m watchword.bench.peer`.

The only place beside the parity tests that knows transformers. It reads a task as JSON (`ours.peer_task`)
and prints what it took (`ours.Measured`).
"""

import json
import statistics
import subprocess
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from watchword.bench.machine import peak_bytes
from watchword.errors import CheckpointError, MissingExtra

CLASSES = {
    "video_llava": "VideoLlavaForConditionalGeneration",
    "instructblip": "InstructBlipForConditionalGeneration",
    "instructblipvideo": "InstructBlipVideoForConditionalGeneration",
}


class Clock:
    """Notes when the scores of each token are there; as a logits processor it changes nothing."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """One step."""
        if scores.device.type == "cuda":
            torch.cuda.synchronize(scores.device)
        self.times.append(time.perf_counter())
        return scores


def check_installed() -> None:
    """Refuse when the peer is not there.

    Raises:
        MissingExtra: it is not.
    """
    if find_spec("transformers") is None:
        raise MissingExtra(
            "bench: --against transformers: the package is not installed; pip install 'watchword[parity]'"
        )


def measure_peer(task: dict[str, Any]) -> dict[str, Any]:
    """What transformers takes for a task, measured in a process of its own.

    Raises:
        MissingExtra: transformers is not installed.
        CheckpointError: it failed; the message has its last line.
    """
    check_installed()
    done = subprocess.run(
        [sys.executable, "-m", "watchword.bench.peer"], input=json.dumps(task), capture_output=True, text=True
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise CheckpointError(
            f"bench: transformers failed with {task['folder']}: {last}; expected a folder that it can load"
        )
    return json.loads(done.stdout.strip().splitlines()[-1])


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Load and generate."""
    hide_broken("torchvision")
    import transformers

    torch.set_num_threads(task["threads"])
    start = time.perf_counter()
    cls = getattr(transformers, CLASSES[task["model_type"]])
    dtype = getattr(torch, task["dtype"])
    model = cls.from_pretrained(task["folder"], dtype=dtype).eval()  # sdpa in the parts that have it
    model = model.to(task["device"])
    load = time.perf_counter() - start
    inputs = {name: one.to(task["device"]) for name, one in inputs_of(task, dtype).items()}
    firsts, steps = [], []
    for number in range(task["repeats"] + 1):
        first, step = once(model, inputs, task)
        if number:  # the first one maps the weights and warms the machine up, as on our side
            firsts.append(first)
            steps.append(step)
    return {
        "name": f"transformers {transformers.__version__} {task['dtype']}",
        "positions": len(task["ids"]),
        "load": load,
        "first_token": statistics.median(firsts),
        "step": statistics.median(steps),
        "vision": None,
        "peak": peak_bytes(task["device"]),
        "runs": [round(one, 4) for one in firsts],
    }


def hide_broken(name: str) -> None:
    """Let a package that is installed but does not import count as absent; the models do without it.

    torchvision's wheel for CUDA beside a torch for the CPU is one.
    """
    try:
        import_module(name)
    except (ImportError, RuntimeError):
        sys.modules[name] = None  # type: ignore[assignment]


def inputs_of(task: dict[str, Any], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The prompt, and random pixels."""
    side, frames = task["side"], task["frames"]
    ids = torch.tensor([task["ids"]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    shape = (1, 3, side, side) if frames is None else (1, frames, 3, side, side)
    pixels = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    if task["model_type"] == "video_llava":
        return inputs | {"pixel_values_images" if frames is None else "pixel_values_videos": pixels}
    if task["model_type"] == "instructblipvideo" and frames is None:
        pixels = pixels[:, None]
    told = torch.tensor([task["qformer_ids"]])
    told = {"qformer_input_ids": told, "qformer_attention_mask": torch.ones_like(told)}
    return inputs | told | {"pixel_values": pixels}


@torch.no_grad()
def once(model: Any, inputs: dict[str, torch.Tensor], task: dict[str, Any]) -> tuple[float, float]:
    """Seconds to the first token, and per further step."""
    from transformers import LogitsProcessorList

    clock, tokens = Clock(), task["tokens"]
    start = time.perf_counter()
    model.generate(
        **inputs, max_new_tokens=tokens, min_new_tokens=tokens, num_beams=task["beams"], do_sample=False,
        logits_processor=LogitsProcessorList([clock]),
    )  # fmt: skip
    return clock.times[0] - start, (clock.times[-1] - clock.times[0]) / (len(clock.times) - 1)


if __name__ == "__main__":
    print(json.dumps(run(json.load(sys.stdin))))
