"""What this machine can do at most: bytes read and operations done in a second, measured now."""

import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

READ = 2**30
"""Bytes of the timed read: far more than any processor caches."""

SIDE = 4096
"""Width and height of the timed matrix, the width of a 7B model; for a card it takes twice as many rows."""


def best_time(work: Callable[[], object], device: torch.device, rounds: int = 5) -> float:
    """Seconds of the quickest of some rounds, after one that does not count."""
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def read_rate(device: torch.device | str = "cpu") -> float:
    """Bytes per second when 1 GiB of memory is read once."""
    device = torch.device(device)
    values = torch.ones(READ // 4, device=device)
    rate = READ / best_time(values.sum, device)
    del values
    gc.collect()
    return rate


def matrix_rate(form: str, device: torch.device | str = "cpu", rows: int = 2048) -> float:
    """Operations per second (two for each product that is added) of a large matrix product.

    Args:
        form: "float32", "bfloat16", "float16" or "int8".
        device: where.
        rows: of the left matrix.
    """
    device = torch.device(device)
    work = _int8_product(device, rows) if form == "int8" else _dense_product(form, device, rows)
    return 2 * rows * SIDE * SIDE / best_time(work, device)


def _dense_product(form: str, device: torch.device, rows: int) -> Callable[[], object]:
    dtype = getattr(torch, form)
    left = torch.randn(rows, SIDE, device=device).to(dtype)
    right = torch.randn(SIDE, SIDE, device=device).to(dtype)
    return lambda: torch.nn.functional.linear(left, right)


def _int8_product(device: torch.device, rows: int) -> Callable[[], object]:
    """oneDNN's on a CPU where it is there, else torch's own."""
    left = torch.randint(-128, 127, (rows, SIDE), dtype=torch.int8, device=device)
    right = torch.randint(-128, 127, (SIDE, SIDE), dtype=torch.int8, device=device)
    if device.type == "cpu" and hasattr(torch.ops.onednn, "qlinear_pointwise"):
        packed = torch.ops.onednn.qlinear_prepack(right, None)
        scale, zero, unsigned = torch.ones(SIDE), torch.zeros(SIDE, dtype=torch.int32), left.view(torch.uint8)
        return lambda: torch.ops.onednn.qlinear_pointwise(
            unsigned, 1.0, 0, packed, scale, zero, None, 1.0, 0, torch.float32, "none", [], ""
        )
    return lambda: torch._int_mm(left, right.t())


def peak_bytes(device: torch.device | str = "cpu") -> int | None:
    """The most memory that this process, or its part of a card, has held; None where the system is silent."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:  # not getrusage: a process that a large one started would answer with its parent's size
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
