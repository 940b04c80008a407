"""Several processes on one run, as `torchrun` starts them: each computes its share of every step."""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed, nn

from watchword.train.learner import Learner

TIMEOUT = timedelta(hours=2)
"""So long may one process check media or answer while the others wait."""


@dataclass(frozen=True)
class Team:
    """Which of how many processes this is."""

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this one writes and tells."""
        return self.rank == 0

    def total(self, value: float) -> float:
        """The sum over all processes."""
        if self.world == 1:
            return value
        held = torch.tensor(value, dtype=torch.float64, device=self._device())
        distributed.all_reduce(held)
        return float(held)

    def shared(self, value: Any) -> Any:
        """What the leading process has."""
        if self.world == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Until all are here."""
        if self.world > 1:
            distributed.barrier()

    def _device(self) -> str:
        return "cuda" if distributed.get_backend() == "nccl" else "cpu"


def device_of(asked: str) -> str:
    """This process's own card, where a machine has several processes and cards."""
    if asked in ("auto", "cuda") and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return asked


def join(device: str) -> Team:
    """The team that `torchrun` made, or a team of one."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Team()
    if not distributed.is_initialized():
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
        backend = "nccl" if device.startswith("cuda") else "gloo"
        distributed.init_process_group(backend, timeout=TIMEOUT)
    return Team(distributed.get_rank(), distributed.get_world_size())


def leave() -> None:
    """Take leave of the others."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def copied(learner: Learner) -> nn.Module:
    """A whole model in each process; gradients are averaged while they are computed (DDP).

    A batch without pictures leaves the pictures' tower without gradients, so that is looked for.
    """
    return nn.parallel.DistributedDataParallel(learner, find_unused_parameters=True)


def spread(learner: Learner) -> nn.Module:
    """A part of every weight in each process, brought together layer by layer (FSDP2)."""
    from torch.distributed.fsdp import fully_shard

    stacks = {name: one for name, one in learner.named_modules() if isinstance(one, nn.ModuleList)}
    for name, stack in stacks.items():
        if not any(name.startswith(f"{other}.") for other in stacks):
            for layer in stack:
                fully_shard(layer)
    return fully_shard(learner)
