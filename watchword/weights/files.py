"""Weight files of a checkpoint folder, read and saved: safetensors or .bin, one file or shards with an index.

Reading is lazy. Opening a folder reads headers only; `shards()` then hands out one file at a time.
"""

import errno
import json
import logging
import os
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from watchword.errors import CheckpointError, RequestError
from watchword.shapes import Tensor

logger = logging.getLogger(__name__)

SEARCH = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""In this order; the first that exists is read. Source: the reference's order."""

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Entry:
    """One tensor, as its file's header describes it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: str


class Shard:
    """One open weight file. Tensors are read when asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened = _open_safetensors(path) if path.suffix == ".safetensors" else _open_pickle(path)
        self.names: Sequence[str] = list(self._opened.keys())

    def entry(self, name: str) -> Entry:
        """Shape and type, without reading the values where the format allows."""
        if isinstance(self._opened, dict):
            tensor = self._opened[name]
            return Entry(tuple(tensor.shape), tensor.dtype, self.path.name)
        header = self._opened.get_slice(name)
        if header.get_dtype() not in DTYPES:
            raise CheckpointError(
                f"{self.path}: {name} has type {header.get_dtype()}; "
                f"known are {', '.join(DTYPES)}; convert the file"
            )
        return Entry(tuple(header.get_shape()), DTYPES[header.get_dtype()], self.path.name)

    def read(self, name: str) -> Tensor:
        """The tensor, on the CPU, as stored. It may map the file, which then stays open with it."""
        return self._opened[name] if isinstance(self._opened, dict) else self._opened.get_tensor(name)


class WeightFiles:
    """The tensors of a checkpoint folder by name.

    Raises:
        CheckpointError: no weights in the folder, a shard missing or damaged, index and shards that disagree.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        start = _find(self.folder)
        self.files, index = _read_index(start) if start.suffix == ".json" else ([start.name], None)
        self.entries: dict[str, Entry] = {}
        for shard in self.shards():
            if index is not None:
                _compare(shard, [name for name, file in index.items() if file == shard.path.name], start.name)
            self.entries.update((name, shard.entry(name)) for name in shard.names)
            del shard  # closed before the next is opened

    def shards(self) -> Iterator[Shard]:
        """The files, one after the other. Delete one before taking the next: one in memory."""
        for file in self.files:
            yield Shard(self.folder / file)

    @property
    def dtype(self) -> torch.dtype:
        """The floating type that most values are stored in; float32 when none is floating."""
        counts: dict[torch.dtype, int] = {}
        for entry in self.entries.values():
            if entry.dtype.is_floating_point:
                counts[entry.dtype] = counts.get(entry.dtype, 0) + torch.Size(entry.shape).numel()
        return max(counts, key=counts.__getitem__) if counts else torch.float32


def open_weights(folder: str | os.PathLike) -> WeightFiles:
    """The weights of a checkpoint folder, ready to be read; see `WeightFiles` for what can be wrong."""
    return WeightFiles(folder)


def save(
    state: Mapping[str, Tensor],
    folder: str | os.PathLike,
    *,
    max_shard_size: str | int = "5GB",
    safe_serialization: bool = True,
) -> list[Path]:
    """Write a state dict as a checkpoint folder's weights; returns the files written.

    Tensors that are the same memory (tied weights) are written once, under their first name. Files appear
    under their names only when complete; files of an earlier save that would be read instead are removed.

    Args:
        max_shard_size: bytes, or "60KB", "5GB", "5GiB"; a tensor larger than this gets a file to itself.
        safe_serialization: False writes pytorch_model*.bin.

    Raises:
        CheckpointError: a tensor without values (still on the meta device).
        RequestError: a size that cannot be read.
    """
    limit = parse_size(max_shard_size)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stem, suffix = ("model", ".safetensors") if safe_serialization else ("pytorch_model", ".bin")
    shards = _divide(_distinct(state), limit)
    count = len(shards)
    names = [f"{stem}-{i:05d}-of-{count:05d}{suffix}" for i in range(1, count + 1)]
    names = [stem + suffix] if count == 1 else names
    partial = [folder / f".{name}.partial" for name in names]
    try:
        for path, shard in zip(partial, shards, strict=True):
            _write(path, {name: _plain(state[name]) for name in shard}, safe_serialization)
        for path, name in zip(partial, names, strict=True):
            os.replace(path, folder / name)
    finally:
        for path in partial:
            path.unlink(missing_ok=True)
    written = [folder / name for name in names]
    if count > 1:
        total = sum(state[name].nbytes for shard in shards for name in shard)
        table = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        written.append(folder / f"{stem}{suffix}.index.json")
        index = {"metadata": {"total_size": total}, "weight_map": table}
        _replace_text(written[-1], json.dumps(index, indent=2))
    _remove_stale(folder, {path.name for path in written}, safe_serialization)
    return written


def parse_size(size: str | int) -> int:
    """Bytes from a number or from "60KB", "5GB" (powers of 1000), "5GiB" (powers of 1024)."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", str(size).strip(), re.IGNORECASE)
    scale = 0 if found is None else (1024 if found[3] else 1000) ** " KMGT".index(found[2].upper() or " ")
    if found is None or float(found[1]) * scale < 1:
        raise RequestError(f"max_shard_size {size!r}: not a size; expected bytes, or such as '500MB', '5GB'")
    return int(float(found[1]) * scale)


def _find(folder: Path) -> Path:
    """The file to start from."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; give the one that holds the config and the weights")
    found = [name for name in SEARCH if (folder / name).is_file()]
    if not found:
        inside = sorted(path.name for path in folder.iterdir())
        seen = ", ".join(inside[:10]) + (" …" if len(inside) > 10 else "") or "an empty folder"
        raise CheckpointError(
            f"{folder}: no weights; found {seen}; expected one of {', '.join(SEARCH)}; download it again"
        )
    if len(found) > 1:
        logger.info("%s: reading %s, leaving %s", folder, found[0], ", ".join(found[1:]))
    return folder / found[0]


def _read_index(path: Path) -> tuple[list[str], dict[str, str]]:
    """Shards in order and the index's table, after checking that all shards are there."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(table.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: not a weight index ({type(error).__name__}: {error}); expected JSON with a weight_map; "
            "download it again"
        ) from error
    outside = [file for file in files if Path(file).name != file]
    if outside:
        raise CheckpointError(
            f"{path}: names {outside[0]!r}; expected plain names of files beside it; do not trust it"
        )
    missing = [file for file in files if not (path.parent / file).is_file()]
    if missing:
        raise CheckpointError(
            f"{path.parent}: {len(missing)} of {len(files)} shards missing: {', '.join(missing[:10])}; "
            f"expected all that {path.name} names; download them again"
        )
    return files, table


def _compare(shard: Shard, expected: list[str], index: str) -> None:
    """A shard holds exactly what the index says."""
    absent = sorted(set(expected) - set(shard.names))
    if absent:
        raise CheckpointError(
            f"{shard.path}: lacks {len(absent)} tensors that {index} places there: "
            f"{', '.join(absent[:10])}; expected all of them; download both files again"
        )
    extra = sorted(set(shard.names) - set(expected))
    if extra:
        raise CheckpointError(
            f"{shard.path}: holds {len(extra)} tensors that {index} does not place there: "
            f"{', '.join(extra[:10])}; expected none; download both files again"
        )


def _open_safetensors(path: Path) -> Any:
    _refuse_pointer(path)
    try:
        return safe_open(path, framework="pt", device="cpu")
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: damaged or cut off ({path.stat().st_size} bytes; {error}); expected a complete "
            "safetensors file; download it again"
        ) from error


def _open_pickle(path: Path) -> dict[str, Tensor]:
    """A .bin file, unpickled with tensors only: code in it is refused."""
    _refuse_pointer(path)
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"  # files older than torch 1.6 are not, and cannot be mapped
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds something other than tensors, or is damaged; expected a plain state dict; "
            "it stays closed, as opening it could run code"
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{path}: damaged or cut off ({path.stat().st_size} bytes); expected a complete .bin file; "
            "download it again"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: not a state dict; expected tensors by name; convert it")
    return state


def _refuse_pointer(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise CheckpointError(f"{path}: a Git LFS pointer, expected the weights; run git lfs pull there")


def _distinct(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Names to write and their bytes; of names that share one tensor only the first."""
    seen, out = set(), {}
    for name, tensor in state.items():
        if tensor.is_meta:
            raise CheckpointError(f"{name}: has no values (meta device); load the model before saving it")
        place = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() == 0 or place not in seen:
            out[name] = tensor.nbytes
        seen.add(place)
    return out


def _divide(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Names in order, in groups of at most `limit` bytes."""
    shards: list[list[str]] = [[]]
    room = limit
    for name, size in sizes.items():
        if size > room and shards[-1]:
            shards.append([])
            room = limit
        shards[-1].append(name)
        room -= size
    return shards


def _plain(tensor: Tensor) -> Tensor:
    """On the CPU, contiguous and alone in its memory, as both formats want it."""
    tensor = tensor.detach().to("cpu").contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _write(path: Path, tensors: dict[str, Tensor], safe: bool) -> None:
    path.touch()
    mode = path.stat().st_mode  # what the user's umask gives; safetensors would make it private
    if safe:
        try:
            save_file(tensors, path, metadata={"format": "pt"})
        except SafetensorError as error:  # a disk that is full
            raise OSError(errno.EIO, str(error), str(path)) from error
    else:
        torch.save(tensors, path)
    path.chmod(mode)


def _replace_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text + "\n", encoding="utf-8")
    os.replace(partial, path)


def _remove_stale(folder: Path, written: set[str], safe: bool) -> None:
    """Earlier weights in the same format, and those that a reader would take before the new ones."""
    pattern = r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?"
    if not safe:
        pattern += r"|pytorch_model(-\d+-of-\d+)?\.bin(\.index\.json)?"
    for path in folder.iterdir():
        if path.name not in written and re.fullmatch(pattern, path.name):
            path.unlink()
