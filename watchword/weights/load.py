"""Fill a module from weight files, and prove that nothing is missing, left over or of the wrong shape."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from watchword.errors import CheckpointError
from watchword.shapes import Tensor
from watchword.weights import names
from watchword.weights.files import Entry, Shard, WeightFiles

logger = logging.getLogger(__name__)

LISTED = 10
"""Names shown of each kind of mistake."""

REOPEN = 2**29
"""Bytes after which a file is opened anew."""

CANONICAL: Mapping[str, names.Rules] = {"canonical": names.SAME}

Progress = Callable[[int, int], None]
"""Called with (values read, values in all)."""

Place = Callable[[str, Tensor], Tensor]
"""From a parameter's name and its values, on the host and in their final type, to what the module holds in
their place: the same on a device, a shard of them, or a stand-in for what went to disk."""


@dataclass(frozen=True)
class LoadReport:
    """What was done."""

    layout: str
    tensors: int
    files: tuple[str, ...]
    tied: tuple[str, ...] = ()
    """Parameters that share another's values, because the files leave them out or repeat them."""
    untied: tuple[str, ...] = ()
    """Parameters that the config ties, but for which the files hold values of their own; those were taken."""
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Tensors of the files that were not wanted, and why."""

    def __str__(self) -> str:
        told = [f"{self.tensors} tensors from {', '.join(self.files)}, spelling {self.layout}"]
        told += [f"tied: {', '.join(self.tied)}"] if self.tied else []
        told += (
            [f"left in the files: {len(self.dropped)} ({'; '.join(sorted(set(self.dropped.values())))})"]
            if self.dropped
            else []
        )
        return "; ".join(told)


def load_weights(
    module: nn.Module,
    files: WeightFiles,
    *,
    layouts: Mapping[str, names.Rules] = CANONICAL,
    drop: Mapping[str, str] | None = None,
    tied: Mapping[str, str] | None = None,
    keep_in_fp32: Sequence[str] = (),
    dtype: torch.dtype | None = None,
    as_stored: Callable[[str], bool] | None = None,
    by_row: Callable[[str], bool] | None = None,
    device: torch.device | str = "cpu",
    place: Place | None = None,
    progress: Progress | None = None,
) -> LoadReport:
    """Fill all parameters and persistent buffers of a module, normally one built on the meta device.

    One file is open at a time, and the module changes only when everything was read.

    Args:
        layouts: spellings the files may use, by name. Of several the one that fits most names is taken.
        drop: patterns of names in the files that are not wanted, with the reason.
        tied: parameter → parameter whose values it takes when the files leave it out.
        keep_in_fp32: parts of dotted names that stay float32 where float16 is asked for or stored.
        dtype: type of floating tensors; None keeps each as it is stored.
        as_stored: says which parameters keep the type of the files all the same, by name.
        by_row: says which are tables that are read by the row. Each is mapped for itself, so that no more of
            its file is held with it than the rows that were read.
        device: where the values go.
        place: decides for each of them instead, where parts go to different devices.
        progress: called after each tensor.

    Raises:
        CheckpointError: tensors missing, extra, or of another shape; the message names the first ten of each.
    """
    wanted = dict(module.state_dict(keep_vars=True))
    drop = drop or {}
    dropped = {
        name: why for name in files.entries for pattern, why in drop.items() if names.matches(name, [pattern])
    }
    present = [name for name in files.entries if name not in dropped]
    chosen, spelling = choose_layout(present, wanted, layouts, files)
    twins = _twins(wanted, tied or {})
    _prove(module, files, wanted, spelling, twins)
    target = _types(dtype, keep_in_fp32, as_stored)
    home = place or _onto(torch.device(device))
    values = _read(files, spelling.sources, target, home, by_row or (lambda name: False), progress)
    shared, untied = _assign(module, wanted, values, twins)
    left = [name for name, tensor in module.named_buffers() if tensor.is_meta and name not in wanted]
    assert not left, f"buffers that no file fills: {left}; compute them when used, or make them persistent"
    if untied:
        logger.warning(
            "%s: the config ties %s, but the files hold other values for it; those are used",
            files.folder,
            ", ".join(untied),
        )
    dropped |= spelling.dropped
    report = LoadReport(chosen, len(values), tuple(files.files), shared, untied, dropped)
    logger.info("%s: %s", files.folder, report)
    return report


def choose_layout(
    present: Sequence[str],
    wanted: Iterable[str],
    layouts: Mapping[str, names.Rules],
    files: WeightFiles,
) -> tuple[str, names.Spelling]:
    """The spelling by which most names in the files become names of the module."""
    goal = set(wanted)
    tried = {name: names.spell(present, layouts[name]) for name in layouts}
    best = max(tried, key=lambda name: len(goal & set(tried[name].sources)))  # the first of equals
    if not goal & set(tried[best].sources):
        raise CheckpointError(
            f"{files.folder}: none of its {len(files.entries)} tensors has a name of this model; found "
            f"{listed(present)}; expected {listed(sorted(goal))}; check that the folder holds this model"
        )
    return best, tried[best]


def _twins(wanted: Mapping[str, Tensor], tied: Mapping[str, str]) -> dict[str, list[str]]:
    """For each name the others that hold or may hold the same values."""
    groups: dict[int, list[str]] = {}
    for name, tensor in wanted.items():
        groups.setdefault(id(tensor), []).append(name)
    twins = {name: list(groups[id(tensor)]) for name, tensor in wanted.items()}
    for name, source in tied.items():
        if name in twins and source in twins and source not in twins[name]:
            twins[name] = [name, *twins[source]]
    return twins


def _prove(
    module: nn.Module,
    files: WeightFiles,
    wanted: Mapping[str, Tensor],
    spelling: names.Spelling,
    twins: Mapping[str, list[str]],
) -> None:
    """Every tensor has a place, every place a tensor, of the right shape."""
    sources = spelling.sources
    missing = [name for name in wanted if not any(twin in sources for twin in twins[name])]
    extra = [part for name, parts in sources.items() if name not in wanted for part in parts if part]
    extra += spelling.unknown
    wrong = []
    for name, parts in sources.items():
        if name not in wanted:
            continue
        shape = _shape([files.entries[part] if part else None for part in parts])
        stored = next(files.entries[part] for part in parts if part).dtype
        if shape != tuple(wanted[name].shape):
            wrong.append(f"{name} is {shape} in the files and {tuple(wanted[name].shape)} in the model")
        elif stored.is_floating_point != wanted[name].is_floating_point():
            wrong.append(f"{name} is stored as {stored} and the model has {wanted[name].dtype}")
    found = {"missing": missing, "extra": extra, "of another shape or kind": wrong}
    told = [f"{len(which)} {kind}: {listed(which)}" for kind, which in found.items() if which]
    if told:
        raise CheckpointError(
            f"{files.folder}: the weights do not fit {type(module).__name__}; {'; '.join(told)}; expected "
            "exactly the tensors that config.json describes; check that config and weights belong together"
        )


def listed(which: Sequence[str]) -> str:
    """The first ten, and whether there are more."""
    return ", ".join(which[:LISTED]) + (" …" if len(which) > LISTED else "")


def _shape(entries: Sequence[Entry | None]) -> tuple[int, ...]:
    """Shape of the joined parts; zeros are as tall as the first part."""
    first = next(entry for entry in entries if entry is not None).shape
    if len(entries) == 1:
        return first
    return (sum((entry.shape if entry else first)[0] for entry in entries), *first[1:])


def _types(
    dtype: torch.dtype | None, keep: Sequence[str], as_stored: Callable[[str], bool] | None
) -> Callable[[str, torch.dtype], torch.dtype]:
    """From a name and the stored type to the type in memory."""

    def target(name: str, stored: torch.dtype) -> torch.dtype:
        if not stored.is_floating_point or (as_stored is not None and as_stored(name)):
            return stored
        asked = dtype or stored
        kept = asked == torch.float16 and any(part in keep for part in name.split("."))
        return torch.float32 if kept else asked

    return target


def _onto(device: torch.device) -> Place:
    """All on one device."""
    return lambda name, tensor: tensor.to(device)


def _read(
    files: WeightFiles,
    sources: Mapping[str, Sequence[str | None]],
    target: Callable,
    place: Place,
    by_row: Callable[[str], bool],
    progress: Progress | None,
) -> dict[str, Tensor]:
    """All values by module name, read file by file."""
    wants = {part: name for name, parts in sources.items() for part in parts if part is not None}
    total = sum(torch.Size(files.entries[part].shape).numel() for part in wants)
    waiting: dict[str, dict[str, Tensor]] = {}
    values: dict[str, Tensor] = {}
    done = 0
    for shard in files.shards():
        mapped = 0
        for part in shard.names:
            if part not in wants:
                continue
            name = wants[part]
            if (
                mapped > REOPEN and type(shard) is Shard
            ):  # pages that were read count until the file is closed
                shard, mapped = Shard(shard.path), 0
            if type(shard) is Shard and by_row(name):
                tensor = Shard(shard.path).read(part)
            else:
                tensor = shard.read(part)
                mapped += tensor.nbytes
            done += tensor.numel()
            parts = waiting.setdefault(name, {})
            parts[part] = tensor.to(target(name, tensor.dtype))
            if all(p is None or p in parts for p in sources[name]):
                whole = names.assemble([None if p is None else parts[p] for p in sources[name]])
                values[name] = place(name, whole)
                del waiting[name]
            if progress is not None:
                progress(done, total)
        del shard  # closed before the next is opened
    return values


def _assign(
    module: nn.Module,
    wanted: Mapping[str, Tensor],
    values: Mapping[str, Tensor],
    twins: Mapping[str, list[str]],
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Put the values in their places; returns the names that share values, and those that do not any more."""
    made: dict[str, Tensor] = {}
    shared, untied = [], []
    for name, value in ((name, values[name]) for name in wanted if name in values):
        others = [twin for twin in twins[name] if twin in made]
        same = next((twin for twin in others if equal(made[twin], value)), None)
        if same is None and others:
            _refuse_one_module(module, name, others)
            untied += [name] if any(wanted[name] is wanted[other] for other in others) else []
        made[name] = _like(wanted[name], value) if same is None else made[same]
        shared += [name] if same else []
    for name in wanted:
        if name not in made:
            made[name] = next(made[twin] for twin in twins[name] if twin in made)
            shared.append(name)
    for name, value in made.items():
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, value)
    return tuple(shared), tuple(untied)


def equal(a: Tensor, b: Tensor) -> bool:
    """The same type and the same values."""
    return a.dtype == b.dtype and torch.equal(a, b)


def _like(old: Tensor, value: Tensor) -> Tensor:
    """A parameter where one stood, a plain tensor where a buffer stood."""
    return nn.Parameter(value, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else value


def _refuse_one_module(module: nn.Module, name: str, others: Sequence[str]) -> None:
    """Two names of one and the same submodule cannot hold different values."""
    for other in others:
        if module.get_submodule(name.rpartition(".")[0]) is module.get_submodule(other.rpartition(".")[0]):
            raise CheckpointError(
                f"{name}: the files hold other values for it than for {other}, and the model has one tensor "
                "for both; expected equal values; remove one of the two from the checkpoint"
            )
