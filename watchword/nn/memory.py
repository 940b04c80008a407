"""How much memory there is to be had now: on a card, on the machine, or inside a container's limit."""

import ctypes
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch


@dataclass(frozen=True)
class Memory:
    """Memory that can be had now.

    Attributes:
        available: bytes; None when the system does not tell.
        where: what says so.
    """

    available: int | None
    where: str
    more: Mapping[str, int] = field(default_factory=dict)


def memory(device: torch.device | str = "cpu") -> Memory:
    """What a device has left: a card's free memory; else the machine's, or what its cgroup leaves."""
    device = torch.device(device)
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return Memory(free, f"{torch.cuda.get_device_name(device)}", {"total": total})
    found = {"the machine's free memory": machine_left(), "the container's limit": group_left()}
    known = {where: size for where, size in found.items() if size is not None}
    if not known:
        return Memory(None, "this system")
    where = min(known, key=known.__getitem__)
    return Memory(known[where], where, known)


def give_back() -> None:
    """Let the system have what was freed. The C library of Linux keeps pages between pieces that are still in
    use, and quantizing leaves many: 622 of 2,256 MiB (docs/log.md, 2026-11-26)."""
    if (trim := _trim()) is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim  # type: ignore[no-any-return]
    except (AttributeError, OSError, TypeError):  # another system, another C library
        return None


def gib(size: float) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.1f} MiB"


def machine_left() -> int | None:
    """What Linux can give without swapping; elsewhere the free pages, if the system counts them."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def group_left(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int | None:
    """What the narrowest memory limit around this process leaves; None when there is no limit."""
    try:
        lines = own.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    left = []
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds not in ("", "memory") and "memory" not in kinds.split(","):
            continue
        base, names = (root, ("memory.max", "memory.current")) if kinds == "" else (
            root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes"))  # fmt: skip
        place = base / path.strip("/")
        while True:
            left += _under(place, *names)
            if place == base or base not in place.parents:
                break
            place = place.parent
    return min(left, default=None)


def _under(place: Path, limit: str, used: str) -> list[int]:
    """Bytes left under one cgroup's limit; pages of files do not count as used, the kernel can drop them."""
    try:
        most, now = (place / limit).read_text().strip(), int((place / used).read_text())
        stat = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return []
    if most == "max" or int(most) >= 2**60:  # no limit
        return []
    files = int(stat.get("inactive_file", 0)) + int(stat.get("active_file", 0))
    return [max(0, int(most) - max(0, now - files))]
