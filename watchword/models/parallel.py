"""Tensor parallel: every rank of `torchrun` holds a share of the text model's heads and inner widths.

All else (towers, Q-Former, embeddings, norms) stands whole on every rank. All ranks run the same program on
the same requests and get the same scores, so they choose the same tokens; nothing has to tell them.
Source of the plan's verbs: torch.distributed.tensor.parallel.
"""

import atexit
import os
from typing import Any

import torch
from torch import nn

from watchword.errors import ConfigError
from watchword.nn.dense import agree, pays
from watchword.nn.devices import chosen_device
from watchword.shapes import Tensor

COLUMNS, ROWS, GATHERED = "columns", "rows", "columns, gathered"
"""Outputs are split and stay so; inputs are split and products summed; outputs are split and joined."""

LLAMA = {
    "model.layers.*.self_attn.q_proj": COLUMNS,
    "model.layers.*.self_attn.k_proj": COLUMNS,
    "model.layers.*.self_attn.v_proj": COLUMNS,
    "model.layers.*.self_attn.o_proj": ROWS,
    "model.layers.*.mlp.gate_proj": COLUMNS,
    "model.layers.*.mlp.up_proj": COLUMNS,
    "model.layers.*.mlp.down_proj": ROWS,
    "lm_head": GATHERED,
}
OPT = {
    "model.decoder.layers.*.self_attn.q_proj": COLUMNS,
    "model.decoder.layers.*.self_attn.k_proj": COLUMNS,
    "model.decoder.layers.*.self_attn.v_proj": COLUMNS,
    "model.decoder.layers.*.self_attn.out_proj": ROWS,
    "model.decoder.layers.*.fc1": COLUMNS,
    "model.decoder.layers.*.fc2": ROWS,
    "lm_head": GATHERED,
}
T5_ATTENTION = {"q": COLUMNS, "k": COLUMNS, "v": COLUMNS, "o": ROWS, "relative_attention_bias": COLUMNS}
T5 = {
    **{f"encoder.block.*.layer.0.SelfAttention.{name}": how for name, how in T5_ATTENTION.items()},
    **{f"decoder.block.*.layer.0.SelfAttention.{name}": how for name, how in T5_ATTENTION.items()},
    **{f"decoder.block.*.layer.1.EncDecAttention.{name}": T5_ATTENTION[name] for name in "qkvo"},
    **{f"{stack}.block.*.layer.*.DenseReluDense.wi": COLUMNS for stack in ("encoder", "decoder")},
    **{f"{stack}.block.*.layer.*.DenseReluDense.wi_0": COLUMNS for stack in ("encoder", "decoder")},
    **{f"{stack}.block.*.layer.*.DenseReluDense.wi_1": COLUMNS for stack in ("encoder", "decoder")},
    **{f"{stack}.block.*.layer.*.DenseReluDense.wo": ROWS for stack in ("encoder", "decoder")},
    "lm_head": GATHERED,
}
PLANS = {"llama": LLAMA, "mistral": LLAMA, "opt": OPT, "t5": T5}
"""model_type of the text model → names of its linears and embeddings, and how each is split."""


def rank() -> int:
    """This process's number among those that `torchrun` started; 0 without it."""
    return int(os.environ.get("RANK", 0))


def rank_device(asked: str | int | torch.device = "auto") -> torch.device:
    """The device of this rank: its own card, or the host for all.

    Raises:
        ConfigError: not started by `torchrun`, more ranks than cards, or a card by number.
    """
    missing = [
        name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ
    ]
    if missing:
        raise ConfigError(
            f"parallel='tensor': {', '.join(missing)} not set; expected the environment of torchrun; start "
            "with `torchrun --nproc-per-node 2 -m -- watchword ask ...`, or leave parallel out"
        )
    device = chosen_device(asked)
    if device.type != "cuda":
        return device
    if device.index is not None:
        raise ConfigError(
            f"parallel='tensor': device {str(asked)!r}; each rank takes a card of its own; use 'cuda' or "
            "'auto'"
        )
    own, cards = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if own >= cards:
        raise ConfigError(
            f"parallel='tensor': rank {own} of this machine, which has {cards} cards; expected a card for "
            f"each rank; start with --nproc-per-node {cards}"
        )
    return torch.device("cuda", own)


def join(device: torch.device) -> Any:
    """Meet the other ranks; all go on with rank 0's random numbers, and multiply as it does. Returns
    the mesh of all ranks."""
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh

    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(leave)
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    agree(bool(_told(torch.tensor([pays()]), device)))
    torch.set_rng_state(_told(torch.get_rng_state(), device))
    if device.type == "cuda":
        torch.cuda.set_rng_state(_told(torch.cuda.get_rng_state(device), device), device)
    return mesh


def leave() -> None:
    """Part from the other ranks, if still together."""
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


def _told(state: Tensor, device: torch.device) -> Tensor:
    """What rank 0 has, on every rank."""
    from torch import distributed

    sent = state.to(device)
    distributed.broadcast(sent, 0)
    return sent.cpu()


def check(text: nn.Module, ranks: int) -> None:
    """Every rank gets as many heads and as wide a share as the others.

    Raises:
        ConfigError: a text model without a plan, or numbers that do not divide.
    """
    kind = text.config.model_type
    if kind not in PLANS:
        raise ConfigError(f"parallel='tensor': no plan for {kind!r}; there are plans for {', '.join(PLANS)}")
    for name, module in text.named_modules():
        for what in ("heads", "groups"):
            count = getattr(module, what, None)
            if isinstance(count, int) and count % ranks:
                words = "attention heads" if what == "heads" else "key/value heads"
                raise ConfigError(
                    f"parallel='tensor': {name} has {count} {words} for {ranks} ranks; expected a multiple; "
                    f"start fewer ranks: {divisors(count)}"
                )
    for name, module, how in split_modules(text):
        inner = module.in_features if how == ROWS else 0
        if inner % ranks:
            raise ConfigError(
                f"parallel='tensor': {name} is {inner} wide inside for {ranks} ranks; expected a multiple; "
                f"start fewer ranks: {divisors(inner)}"
            )


def divisors(count: int) -> str:
    """The numbers of ranks up to 8 that fit."""
    return ", ".join(str(n) for n in range(1, 9) if count % n == 0)


def split_modules(text: nn.Module) -> list[tuple[str, nn.Module, str]]:
    """The modules of a text model that its plan splits: name, module, how. A head tied to the embedding is
    whole, as that is."""
    plan = PLANS[text.config.model_type]
    found = []
    for name, module in text.named_modules():
        how = next((how for pattern, how in plan.items() if fits(pattern, name)), None)
        if how is not None and f"{name}.weight" not in text.tied:
            found.append((name, module, how))
    return found


def fits(pattern: str, name: str) -> bool:
    """Whether a name has the pattern's parts, any number standing for a star."""
    ours, theirs = pattern.split("."), name.split(".")
    return len(ours) == len(theirs) and all(
        a == b or (a == "*" and b.isdigit()) for a, b in zip(ours, theirs)
    )


def split(text: nn.Module, mesh: Any) -> None:
    """Split a text model on the meta device: its parameters become distributed ones, still without values.

    Raises:
        ConfigError: it does not divide by the number of ranks.
    """
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    check(text, mesh.size())
    makers = {
        COLUMNS: ColwiseParallel,
        ROWS: RowwiseParallel,
        GATHERED: lambda: ColwiseParallel(output_layouts=Replicate()),
    }
    parallelize_module(text, mesh, {name: makers[how]() for name, _, how in split_modules(text)})
    for module in text.modules():
        for what in ("heads", "groups"):
            if isinstance(getattr(module, what, None), int):
                setattr(module, what, getattr(module, what) // mesh.size())


class Shares:
    """Loading into a model whose text model is split among ranks; fits where `mapped.Homes` does.

    Nothing is sent between ranks; each reads the files itself.

    Args:
        model: a family on the meta device; its text model is split.
        device: this rank's, from `rank_device`.

    Raises:
        ConfigError: the text model does not divide by the number of ranks.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        check(
            model.language_model, int(os.environ["WORLD_SIZE"])
        )  # before the ranks meet: all of them say so
        self.device = device
        self.mesh = join(device)
        split(model.language_model, self.mesh)
        self.homes = dict(model.state_dict(keep_vars=True))

    def place(self, name: str, values: Tensor) -> Tensor:
        """This rank's share of what is split, the whole of the rest."""
        from torch.distributed.tensor import DTensor, Shard

        home = self.homes[name]
        if not isinstance(home, DTensor):
            return values.to(self.device)
        (how,) = home.placements
        part = values
        if isinstance(how, Shard):  # an uneven vocabulary leaves the last ranks less
            size = values.shape[how.dim]
            share = -(-size // self.mesh.size())
            start = min(share * self.mesh.get_local_rank(), size)
            part = values.narrow(how.dim, start, min(share, size - start))
        part = part.to(self.device, copy=True, memory_format=torch.contiguous_format)  # lets go of the whole
        return DTensor.from_local(
            part, self.mesh, home.placements, run_check=False, shape=values.shape, stride=values.stride()
        )

    def settle(self, model: nn.Module) -> None:
        """Nothing is left to do after loading."""
