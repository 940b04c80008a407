"""Parity with transformers 4.56.2; skipped as a whole where it is not installed.

torchvision's ordinary wheel is built for CUDA and cannot load its compiled operators beside a CPU build of
torch. Its tensor transforms are pure torch, so there the two operators that its registrations expect are
declared (never implemented) before it loads. Where both are builds of one kind the real operators load, and
declaring them would clash.
"""

import importlib.util
import re
from pathlib import Path

import torch

collect_ignore_glob = [] if importlib.util.find_spec("transformers") else ["test_*.py"]


def builds_differ() -> bool:
    """Whether torchvision was built for something else than torch, as their version files say."""
    found = importlib.util.find_spec("torchvision")
    if found is None:
        return False
    text = (Path(found.origin).parent / "version.py").read_text()
    theirs = re.search(r"__version__ = '[^'+]*\+(\w+)'", text)
    ours = "cu" + torch.version.cuda.replace(".", "") if torch.version.cuda else "cpu"
    return theirs is not None and theirs.group(1) != ours


if builds_differ():
    # Alive as long as the module: a dead one unregisters.
    _torchvision = torch.library.Library("torchvision", "FRAGMENT")
    _torchvision.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _torchvision.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
