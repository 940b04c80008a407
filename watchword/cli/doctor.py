"""`watchword doctor`: what this machine can do, and what is missing."""

import importlib.metadata
import json
import os
import platform
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from watchword.cli.shell import guarded

Rows = Iterable[tuple[str, str | int | bool]]

# What matters for matrix products, by the names of Linux: x86, then Arm.
ABILITIES = (
    "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
PACKAGES = ("torch", "numpy", "safetensors", "tokenizers", "huggingface_hub")


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Say what this machine can do: versions, processor, devices, operators, sandbox, codecs, extras."""
    with guarded():
        found = {name: looked(part) for name, part in PARTS.items()}
        if as_json:
            typer.echo(json.dumps(found, ensure_ascii=False, indent=2))
            return
        for name, rows in found.items():
            typer.echo(name)
            width = max((len(key) for key in rows), default=0)
            for key, value in rows.items():
                told = {True: "yes", False: "no"}[value] if isinstance(value, bool) else value
                typer.echo(f"  {key:<{width}}  {told}")


def looked(part: Callable[[], Rows]) -> dict[str, str | int | bool]:
    """The rows of a part; one that fails, such as a broken installation, says so and hides no other."""
    try:
        return dict(part())
    except Exception as error:
        return {"not known": f"{type(error).__name__}: {error}"}


def versions() -> Rows:
    """What is installed."""
    from watchword.media import abilities

    yield "watchword", importlib.metadata.version("watchword")
    yield "Python", platform.python_version()
    yield "system", platform.platform()
    for name in PACKAGES:
        yield name, importlib.metadata.version(name)
    yield from abilities.versions().items()


def processor() -> Rows:
    """Cores, threads, memory, and instructions for matrix products."""
    import torch

    from watchword.nn.memory import gib, memory

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    words = cpu_words()
    yield "cores", f"{usable} of {os.cpu_count()} usable"
    fixed = " (OMP_NUM_THREADS)" if "OMP_NUM_THREADS" in os.environ else ""
    yield "threads", f"{torch.get_num_threads()}{fixed}"
    yield "instructions", torch.backends.cpu.get_cpu_capability()
    yield "abilities", ", ".join(one for one in ABILITIES if one in words) or "not told by this system"
    left = memory()
    yield (
        "free memory",
        "not told by this system" if left.available is None else f"{gib(left.available)} ({left.where})",
    )


def cpu_words() -> set[str]:
    """The processor's flags, where Linux tells them."""
    try:
        return set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return set()


def devices() -> Rows:
    """Cards and what they have left."""
    from watchword.nn.devices import device_rows

    return device_rows()


def operators() -> Rows:
    """Which operators multiply quantized weights, and few rows of dense ones."""
    from watchword.nn.kernels import operator_rows

    return operator_rows()


def sandbox() -> Rows:
    """Which walls stand around decoding with --sandbox, tried."""
    from watchword.media.sandbox import walls

    found = walls()
    standing = found["walls"]
    yield "namespace without network", standing["namespace"]
    yield "filter of system calls", standing["seccomp"]
    yield "limits of memory and time", standing["limits"]
    for what, name in (
        ("opening a file", "file"),
        ("connecting", "network"),
        ("starting a process", "program"),
    ):
        yield what, "possible" if found[name] == "worked" else f"refused ({found[name]})"


def codecs() -> Rows:
    """Which videos and pictures can be read."""
    from watchword.media import abilities

    for what, known in (("video", abilities.decoders()), ("pictures", abilities.picture_formats())):
        yield what, ", ".join(name for name, there in known.items() if there)
        missing = [name for name, there in known.items() if not there]
        if missing:
            yield f"{what} missing", ", ".join(missing)


def extras() -> Rows:
    """Which extras are installed, and what the others lack."""
    needs: dict[str, list[str]] = defaultdict(list)
    for line in importlib.metadata.requires("watchword") or ():
        package, _, condition = line.partition(";")
        named = re.search(r"extra == ['\"]([^'\"]+)['\"]", condition)
        if named:
            needs[named[1]].append(re.split(r"[^\w.-]", package.strip())[0])
    for extra, packages in needs.items():
        missing = [name for name in packages if not installed(name)]
        yield (
            extra,
            f"no: {', '.join(missing)} missing; pip install 'watchword[{extra}]'" if missing else True,
        )


def installed(name: str) -> bool:
    """Whether a package is there, of whatever version."""
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


PARTS: dict[str, Callable[[], Rows]] = {
    "versions": versions,
    "processor": processor,
    "devices": devices,
    "operators": operators,
    "sandbox": sandbox,
    "codecs": codecs,
    "extras": extras,
}
"""What is looked at, in order. A function gives pairs of a name and a finding; `--json` prints the same."""
