"""One of several processes that learn together, told by variables as `torchrun` sets them."""

import sys

import torch

from watchword import train

SETTINGS = {
    "steps": 3, "batch": 4, "micro": 1, "workers": 0, "rate": 3e-3, "hold_out": 2, "measure": 3, "samples": 0,
    "save": 2, "warm_up": 0, "device": "cpu", "rank": 2, "frames": 2,
}  # fmt: skip

if __name__ == "__main__":
    torch.set_num_threads(1)
    data, model, out, recipe, shard = sys.argv[1:6]
    train.run(data, model=model, out=out, recipe=recipe, shard=shard == "shard", **SETTINGS)
