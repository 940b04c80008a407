"""How long each part of an answer took."""

import time

import torch


class Stopwatch:
    """Seconds of each part, one after the other."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start = self.last = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """The part up to here was `name`."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # kernels run on after their call returned
        now = time.perf_counter()
        self.seconds[name] = now - self.last
        self.last = now

    def mark(self, name: str) -> None:
        """From the start up to here, once."""
        self.seconds.setdefault(name, self.now())

    def now(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.start
