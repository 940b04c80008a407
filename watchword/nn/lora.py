"""LoRA: linears that learn by a small difference, and which difference counts for which row.

A `LoraLinear` stands where a linear stood, dense or quantized, and adds (B A x) · scale to its output. It may
hold several differences by name; `set_active` chooses one for a model, `using` one for the rows of a call.

Source: Hu and others, LoRA: Low-Rank Adaptation of Large Language Models (2021); for the scale by the root of
the rank Kalajdzievski, A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA (2023).
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count

import torch
from torch import nn
from torch.nn import functional as F

from watchword.errors import RequestError
from watchword.nn.lowrank import beside, fits
from watchword.shapes import Float, Tensor

BASE = "base"
"""The name that asks for the model as it was, without any adapter."""

NUMBERS = count()
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
PREFIX = "lora_"

ALL = "all-linear"
"""As targets: every linear but the language-model head."""

Choice = str | None | Sequence[str | None]
"""The name of an adapter, `BASE`, or None for the active one; for all rows, or one for each."""


class Lora(nn.Module):
    """One difference: B A · scale. A new one is zero, for B is."""

    def __init__(
        self, inner: int, outer: int, rank: int, *, alpha: float, dropout: float = 0.0, rslora: bool = False
    ) -> None:
        super().__init__()
        if rank < 1 or not 0 <= dropout < 1 or not math.isfinite(alpha):
            raise RequestError(
                f"LoRA: rank {rank}, alpha {alpha}, dropout {dropout}; expected a rank of at least 1, a "
                "finite alpha, and a dropout from 0 to below 1"
            )
        self.A = nn.Parameter(torch.empty(rank, inner, dtype=torch.float32))
        self.B = nn.Parameter(torch.zeros(outer, rank, dtype=torch.float32))
        self.rank, self.alpha, self.dropout, self.rslora = rank, alpha, dropout, rslora
        self.number = next(NUMBERS)  # no other has it, whatever takes its place and name later
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # as linears begin; so does the reference's A

    @property
    def scale(self) -> float:
        """alpha / rank, or alpha / √rank."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def forward(self, x: Float[Tensor, "... I"]) -> Float[Tensor, "... O"]:
        x = F.dropout(x.to(self.A.dtype), self.dropout, self.training)
        return F.linear(F.linear(x, self.A) * self.scale, self.B)  # the narrow side is the cheaper one

    def delta(self) -> Float[Tensor, "O I"]:
        """What it adds to the weight, in float32."""
        return (self.B.float() @ self.A.float()) * self.scale


class LoraLinear(nn.Module):
    """A linear that stays as it is, and the differences that may be added to it.

    Attributes:
        base: the linear, frozen.
        active: the adapter that counts where `using` says nothing else; one that is not here adds nothing.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.active: str = BASE

    @property
    def adapters(self) -> dict[str, Lora]:
        """The differences by name."""
        found = self.named_children()
        return {name.removeprefix(PREFIX): one for name, one in found if name.startswith(PREFIX)}

    @property
    def weight(self) -> Tensor:
        """The base's, for callers that ask for its type or shape."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        """The base's."""
        return self.base.bias

    def put(self, name: str, lora: Lora) -> None:
        """Add a difference under a name, or put it in the place of the old one."""
        self.add_module(PREFIX + name, lora)

    def drop(self, name: str) -> None:
        """Remove a difference, if it is here."""
        self._modules.pop(PREFIX + name, None)

    def forward(self, x: Float[Tensor, "B ... I"]) -> Float[Tensor, "B ... O"]:
        if isinstance(chosen := CHOSEN.get(), Rows):
            return self._by_row(x, chosen)
        lora = self._modules.get(PREFIX + (chosen or self.active))
        if lora is not None and not (lora.dropout and lora.training) and fits(x, self.base, lora.A):
            return beside(x, self.base, lora.A, lora.B, lora.scale)
        out = self.base(x)
        return out if lora is None else out + lora(x).to(out.dtype)

    def _by_row(self, x: Tensor, chosen: "Rows") -> Tensor:
        if chosen.count != len(x):
            raise RequestError(
                f"LoRA: adapters for {chosen.count} rows, but a linear got {len(x)}; choose one for all"
            )
        out = self.base(x)
        for name, where in chosen.groups.items():
            lora = self._modules.get(PREFIX + (name or self.active))
            if lora is not None:  # indexed rows are copies, so each group computes what it would alone
                out = out.index_add(0, where, lora(x[where]).to(out.dtype))
        return out


@dataclass(frozen=True)
class Rows:
    """Rows of a batch by the adapter that they want."""

    count: int
    groups: Mapping[str | None, Tensor]


CHOSEN: ContextVar[str | Rows | None] = ContextVar("chosen adapters", default=None)
"""Belongs to one thread at a time: the engine runs rows in one thread while others look at pictures."""


@contextmanager
def using(choice: Choice, device: torch.device | str = "cpu") -> Iterator[None]:
    """Run what is inside with this adapter; or with one for each row of all inputs of linears.

    Args:
        choice: see `Choice`. In the end None in each place is what `set_active` said.
        device: where the rows are.
    """
    token = CHOSEN.set(choice if choice is None or isinstance(choice, str) else grouped(choice, device))
    try:
        yield
    finally:
        CHOSEN.reset(token)


def grouped(names: Sequence[str | None], device: torch.device | str) -> str | Rows | None:
    """Rows by name; one name where all are alike."""
    if len(set(names)) <= 1:
        return names[0] if names else None
    where: dict[str | None, list[int]] = {}
    for row, name in enumerate(names):
        where.setdefault(name, []).append(row)
    return Rows(len(names), {name: torch.tensor(rows, device=device) for name, rows in where.items()})


# ---- whole models


def add_adapter(
    model: nn.Module,
    targets: str | Sequence[str],
    rank: int,
    *,
    alpha: float | None = None,
    dropout: float = 0.0,
    rslora: bool = False,
    name: str = "default",
    ranks: Mapping[str, int] | None = None,
    alphas: Mapping[str, float] | None = None,
    learns: bool = True,
) -> list[str]:
    """Give linears of a model a difference each, zero at first, and make it the active one.

    A and B are float32, whatever the model is: they learn, and a model in half precision rounds small steps
    away.

    Args:
        model: changed in place; its linears stay, one level deeper under `base`.
        targets: see `matching`.
        rank: width of the differences.
        alpha: their strength, divided by the rank; 2 · rank when None.
        dropout: on their input, while training.
        rslora: divide alpha by the root of the rank.
        name: what the adapter is called.
        ranks, alphas: other values for some linears, by their names.
        learns: freeze the whole model but A and B; False freezes those too.

    Returns:
        The names of the linears.

    Raises:
        RequestError: targets that fit nothing, or modules that are no linears; a name that is taken or cannot
            be one; a rank or dropout that cannot be.
    """
    check_name(name)
    if name in adapter_names(model):
        raise RequestError(f"adapter {name!r}: this model has one of that name; remove it, or choose another")
    found = matching(model, targets)
    made: dict[str, Lora] = {}
    for path in found:
        r = (ranks or {}).get(path, rank)
        a = (alphas or {}).get(path, 2.0 * r if alpha is None else alpha)
        linear = model.get_submodule(path)
        base = linear.base if isinstance(linear, LoraLinear) else linear
        lora = Lora(base.in_features, base.out_features, r, alpha=a, dropout=dropout, rslora=rslora)
        made[path] = lora.to(device_of(base)).train(model.training)
    model.requires_grad_(False)
    for path, lora in made.items():
        linear = model.get_submodule(path)
        if not isinstance(linear, LoraLinear):
            linear = LoraLinear(linear).train(model.training)
            model.set_submodule(path, linear)
        linear.put(name, lora.requires_grad_(learns))
    set_active(model, name)
    return found


def matching(model: nn.Module, targets: str | Sequence[str]) -> list[str]:
    """The linears that are meant.

    Args:
        targets: last parts of their names such as ["q_proj", "v_proj"], or whole names; a regular expression
            for whole names; or "all-linear", which leaves the language-model head out.

    Raises:
        RequestError: one of them fits nothing, or something that is no linear; or no regular expression.
    """
    taken = tuple(f"{path}." for path in adapted(model))  # the parts of a LoraLinear are no targets
    modules = {path: one for path, one in model.named_modules() if not path.startswith(taken)}
    linears = [path for path, one in modules.items() if is_linear(one)]
    if targets == ALL:
        return [path for path in linears if path.rpartition(".")[2] != "lm_head"]
    if isinstance(targets, str):
        try:
            found = [path for path in modules if re.fullmatch(targets, path)]
        except re.error as error:
            raise RequestError(
                f"targets {targets!r}: {error}; expected a regular expression, {ALL!r}, or a list of names"
            ) from error
        unmatched = [] if found else [targets]
    else:
        found = [path for path in modules if any(path == one or path.endswith(f".{one}") for one in targets)]
        unmatched = [one for one in targets if not any(p == one or p.endswith(f".{one}") for p in found)]
        unmatched = unmatched or ([] if targets else ["[]"])
    ends = ", ".join(sorted({path.rpartition(".")[2] for path in linears}))
    if unmatched:
        raise RequestError(
            f"targets: {', '.join(unmatched)} fits nothing in {type(model).__name__}; its linears end in "
            f"{ends}"
        )
    if wrong := [path for path in found if path not in linears]:
        raise RequestError(
            f"targets: {wrong[0]} is a {type(modules[wrong[0]]).__name__}, and only linears take a LoRA "
            f"here; they end in {ends}"
        )
    return found


def is_linear(module: nn.Module) -> bool:
    """Dense or quantized, or one that has differences already."""
    shaped = hasattr(module, "in_features") and hasattr(module, "out_features")
    return isinstance(module, LoraLinear) or shaped


def set_active(model: nn.Module, name: str) -> None:
    """The adapter that counts where nothing else is said; `BASE` for none. Unknown names are refused."""
    check_known(model, name)
    for linear in adapted(model).values():
        linear.active = name


def active(model: nn.Module) -> str:
    """What `set_active` said last; `BASE` before."""
    return next((linear.active for linear in adapted(model).values()), BASE)


def remove_adapter(model: nn.Module, name: str) -> None:
    """Take an adapter away; linears without any are what they were before. Unknown names are refused."""
    if name == BASE:
        raise RequestError(f"adapter {BASE!r}: is the model without one and cannot be removed")
    check_known(model, name)
    for path, linear in adapted(model).items():
        linear.drop(name)
        linear.active = BASE if linear.active == name else linear.active
        if not linear.adapters:
            model.set_submodule(path, linear.base)


def adapted(model: nn.Module) -> dict[str, LoraLinear]:
    """The linears with differences, by name."""
    return {path: one for path, one in model.named_modules() if isinstance(one, LoraLinear)}


def adapter_names(model: nn.Module) -> list[str]:
    """The adapters of a model, in the order they came."""
    first: dict[str, int] = {}
    for linear in adapted(model).values():
        for name, one in linear.adapters.items():
            first[name] = min(one.number, first.get(name, one.number))
    return sorted(first, key=first.__getitem__)


def stamps(part: nn.Module, name: str) -> tuple[int, ...]:
    """What an adapter changes in a part of a model, in numbers that come once; () for nothing."""
    return tuple(one.adapters[name].number for one in adapted(part).values() if name in one.adapters)


def check_name(name: str) -> None:
    """Refuse names that cannot be ones."""
    if not NAME.fullmatch(name) or name == BASE:
        raise RequestError(
            f"adapter {name!r}: not a name; expected up to 64 letters, digits, - and _, other than {BASE!r}"
        )


def check_known(model: nn.Module, name: str) -> None:
    """Refuse an adapter that the model does not have."""
    known = [BASE, *adapter_names(model)]
    if name not in known:
        raise RequestError(f"adapter {name!r}: unknown; this model has {', '.join(known)}")


def device_of(module: nn.Module) -> torch.device:
    """Where a linear is, whatever it stores."""
    tensors = (*module.parameters(), *module.buffers())
    return tensors[0].device if tensors else torch.device("cpu")


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model by the names it has without adapters, and without theirs."""
    linears = tuple(f"{path}." for path in adapted(model))
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        owner = next((one for one in linears if name.startswith(one)), "")
        tail = name.removeprefix(owner)
        if not owner or tail.startswith("base."):
            state[owner + tail.removeprefix("base.") if owner else name] = tensor
    return state
