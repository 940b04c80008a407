"""What of a file is mapped into this process."""

from collections.abc import Callable
from pathlib import Path

import torch


def lying_in(file: Path) -> Callable[[torch.Tensor], bool]:
    """Whether a tensor is a part of the file, as Linux lists it now."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    parts = [line.split()[0].split("-") for line in lines if line.endswith(str(file))]
    mapped = [(int(start, 16), int(end, 16)) for start, end in parts]
    return lambda tensor: any(start <= tensor.data_ptr() < end for start, end in mapped)
