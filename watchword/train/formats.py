"""Data sets of every known kind: JSON lines and arrays, Parquet, folders with sidecars, tables in memory."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from watchword.errors import MissingExtra, RequestError
from watchword.train.examples import DataSet, Example, Fault, Medium, Turn
from watchword.train.lines import example_of, parsed, read_text

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".ppm")
VIDEOS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".gif")
KNOWN = "a .jsonl, .json or .parquet file, a folder with .txt sidecars, or a table of rows"

Read = Iterator[tuple[Example | Fault, list[str]]]


def read_data(source: Any, *, root: str | os.PathLike | None = None) -> DataSet:
    """All lines of a source, those that cannot be used as faults.

    Args:
        source: a path (`.jsonl`, `.json`, `.parquet`, or a folder of media with a `.txt` beside each), or
            rows: a list of dicts, a `datasets.Dataset`, or anything else with `len` and `[number]`.
        root: where paths in the file begin; the file's own folder when None.

    Raises:
        RequestError: no such file, of no known kind, or broken as a whole.
        MissingExtra: Parquet without pyarrow.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        start = path.parent if root is None else Path(root)
        return _gathered(str(path), _by_ending(path, start))
    if isinstance(source, Mapping) or not (hasattr(source, "__getitem__") and hasattr(source, "__len__")):
        raise RequestError(f"data: a {type(source).__name__}, expected {KNOWN}")
    return _gathered(f"table of {len(source)} rows", table(source, Path(root or "."), "row"))


def _gathered(name: str, found: Read) -> DataSet:
    data = DataSet(name)
    for one, unused in found:
        (data.examples if isinstance(one, Example) else data.faults).append(one)  # type: ignore[arg-type]
        data.unused.update(unused)
    if not data.examples and not data.faults:
        raise RequestError(f"{name}: holds nothing; expected {KNOWN}")
    return data


def _by_ending(path: Path, root: Path) -> Read:
    if path.is_dir():
        return folder(path)
    if not path.exists():
        raise RequestError(f"{path}: no such file or folder; check the path")
    kinds = {".jsonl": json_lines, ".json": json_array, ".parquet": parquet}
    if path.suffix.lower() not in kinds:
        raise RequestError(f"{path}: of no known kind; expected {KNOWN}")
    return kinds[path.suffix.lower()](path, root)


def json_lines(path: Path, root: Path) -> Read:
    """An object a line; empty lines hold nothing."""
    for number, line in enumerate(read_text(path).removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            yield Fault(where, f"not UTF-8 (byte {error.start})", line.decode(errors="replace")), []
            continue
        raw, fault = parsed(text, where)
        yield (fault, []) if fault else example_of(raw, where, text, root)


def json_array(path: Path, root: Path) -> Read:
    """One array of objects, as LLaVA and Video-ChatGPT publish; each is known by the line that it begins in.

    Raises:
        RequestError: what is no such array: behind a broken place nobody knows what was meant.
    """
    text = read_text(path).decode("utf-8-sig", errors="replace")
    decoder, at, line, counted = json.JSONDecoder(), _past(text, 0), 1, 0
    if text[at : at + 1] != "[":
        raise RequestError(f"{path}: expected a JSON array of objects; for an object a line name it .jsonl")
    at = _past(text, at + 1)
    while text[at : at + 1] != "]":
        line, counted = line + text.count("\n", counted, at), at
        try:
            raw, end = decoder.raw_decode(text, at)
            after = _past(text, end)
            if text[after : after + 1] not in (",", "]"):
                raise json.JSONDecodeError("expected ',' or ']'", text, after)
        except (ValueError, RecursionError) as error:
            place = text.count("\n", 0, getattr(error, "pos", at)) + 1
            reason = getattr(error, "msg", error)
            raise RequestError(
                f"{path}, line {place}: broken JSON ({reason}); what follows cannot be read, repair the file"
            ) from error
        yield example_of(raw, f"{path}, line {line}", text[at:end], root)
        at = _past(text, after + 1) if text[after] == "," else after


def _past(text: str, at: int) -> int:
    """The first place from `at` on that is no blank."""
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def parquet(path: Path, root: Path) -> Read:
    """The same fields as columns; media as paths, as bytes, or as `{"bytes": ..., "path": ...}`."""
    try:
        from pyarrow import parquet as arrow
    except ImportError as error:
        raise MissingExtra(
            f"{path}: Parquet is read by pyarrow, which is not installed; pip install watchword[parquet]"
        ) from error
    try:
        rows = ArrowRows(arrow.read_table(path, memory_map=True))
    except Exception as error:  # pyarrow's errors have no common root but this
        raise RequestError(f"{path}: not a Parquet file ({error}); write it again") from error
    return table(rows, root, f"{path}, row")


class ArrowRows:
    """Rows of an Arrow table as dicts, one at a time."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows.num_rows

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self.rows.slice(number, 1).to_pylist()[0]


def table(rows: Any, root: Path, name: str) -> Read:
    """Rows of anything with `len` and `[number]`, counted from 0."""
    for number in range(len(rows)):
        raw = rows[number]
        told = (
            {key: value for key, value in raw.items() if _plain(value)} if isinstance(raw, Mapping) else raw
        )
        text = json.dumps(told, ensure_ascii=False, default=str)
        yield example_of(raw, f"{name} {number}", text, root, (rows, number))


def _plain(value: object) -> bool:
    """Whether a field can be written aside: media in a table cannot."""
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return all(_plain(one) for one in value)
    if isinstance(value, Mapping):
        return all(_plain(one) for one in value.values())
    return value is None or isinstance(value, (str, int, float))


def folder(path: Path) -> Read:
    """Media with a `.txt` of the same name beside each: `Q:` and `A:` lines, or else a description."""
    files = sorted(Path(at) / name for at, _, names in os.walk(path) for name in names if name[0] != ".")
    media = {one for one in files if one.suffix.lower() in (*PICTURES, *VIDEOS)}
    told = {one.with_suffix("") for one in media}
    for one in files:
        if one in media:
            yield _with_sidecar(one), []
        elif one.suffix.lower() == ".txt" and one.with_suffix("") not in told:
            yield Fault(str(one), "no picture or clip of that name beside it"), []


def _with_sidecar(path: Path) -> Example | Fault:
    sidecar = path.with_suffix(".txt")
    if not sidecar.is_file():
        return Fault(str(path), f"no {sidecar.name} beside it; expected what is to be answered")
    try:
        text = sidecar.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        return Fault(str(sidecar), f"cannot be read ({error})")
    media = (Medium("picture" if path.suffix.lower() in PICTURES else "video", str(path)),)
    try:
        turns = list(_questions(text))
    except ValueError as error:
        return Fault(str(sidecar), str(error), text)
    if turns:
        return Example(str(sidecar), text, media, tuple(turns))
    if not text.strip():
        return Fault(str(sidecar), "is empty; expected a description, or lines with Q: and A:", text)
    return Example(str(sidecar), text, media, (Turn(None, " ".join(text.split())),), "describe")


def _questions(text: str) -> Iterator[Turn]:
    """The pairs of a sidecar that asks; nothing where its first line is no question."""
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines or not lines[0][1].startswith("Q:"):
        return
    for index in range(0, len(lines), 2):
        pair = lines[index : index + 2]
        said = [line[2:].strip() for _, line in pair]
        if [line[:2] for _, line in pair] != ["Q:", "A:"] or not all(said):
            raise ValueError(f"line {pair[0][0]}: expected a line with Q: and behind it one with A:")
        yield Turn(*said)
