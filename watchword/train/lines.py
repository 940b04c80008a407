"""One line of a known kind as an `Example`: our own, LLaVA's conversations, Video-ChatGPT's questions."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from watchword.errors import RequestError
from watchword.train.examples import KINDS, Cell, Example, Fault, Medium, Turn
from watchword.train.templates import TASKS, wordings

OWN = frozenset({"image", "video", "question", "answer", "turns", "task"})
LLAVA = frozenset({"id", "image", "video", "conversations", "task"})
CHATGPT = frozenset({"q", "a", "video_id"})
ASKS, ANSWERS = ("human", "user"), ("gpt", "assistant")
MARKER = re.compile(r"\s*<(?:image|video)>\s*")
"""Where LLaVA's files put the medium; here it stands where the model's own prompt has it."""
ENDINGS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".gif")
"""How clips that are known by their id alone may end."""


class Wrong(Exception):
    """Says what is wrong with a line; becomes a `Fault`."""


def example_of(
    raw: object, where: str, text: str, root: Path, table: tuple[Any, int] | None = None
) -> tuple[Example | Fault, list[str]]:
    """A line as an example, or what is wrong with it; and its fields that were not used.

    Args:
        raw: the parsed line.
        where: the file and the line.
        text: the line as it was.
        root: the folder that paths in it begin at.
        table: the table and the row, where media may lie in the table itself.
    """
    try:
        if not isinstance(raw, Mapping):
            raise Wrong(f"a JSON {type(raw).__name__}, expected an object with fields such as question")
        fields = {str(name): value for name, value in raw.items() if value is not None}
        if "conversations" in fields:
            known, turns, media = LLAVA, _conversation(fields["conversations"]), _media(fields, root, table)
        elif "q" in fields and "a" in fields:
            known = CHATGPT
            turns = [Turn(_words(fields["q"], "q"), _words(fields["a"], "a"))]
            media = [_by_id(fields, root)]
        else:
            known, turns, media = OWN, _turns(fields), _media(fields, root, table)
        task = fields.get("task")
        if task is not None and task not in TASKS:
            raise Wrong(f"task {task!r} is unknown; known are {', '.join(TASKS)}")
        if any(turn.question is None and (task is None or not wordings(task, None, "")) for turn in turns):
            raise Wrong("no question; give one, or a task whose wordings ask it, such as 'caption'")
    except Wrong as error:
        return Fault(where, str(error), text), []
    return Example(where, text, tuple(media), tuple(turns), task), sorted(set(fields) - known)


def _turns(fields: Mapping[str, Any]) -> list[Turn]:
    """`question` and `answer`, or `turns` of these."""
    if "turns" not in fields:
        if "answer" not in fields:
            raise Wrong(
                f"no answer; found {', '.join(sorted(fields)) or 'nothing'}, expected question, answer"
            )
        return [_turn(fields.get("question"), fields["answer"])]
    if "question" in fields or "answer" in fields:
        raise Wrong("both turns and a question or answer; give one of them")
    turns = fields["turns"]
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise Wrong("turns: expected a list of questions with their answers, at least one")
    found = []
    for number, one in enumerate(turns, start=1):
        if isinstance(one, Mapping) and "answer" in one:
            found.append(_turn(one.get("question"), one["answer"], f"turn {number}: "))
        elif isinstance(one, Sequence) and not isinstance(one, str) and len(one) == 2:
            found.append(_turn(one[0], one[1], f"turn {number}: "))
        else:
            raise Wrong(f"turn {number}: expected a question and an answer")
    return found


def _turn(question: object, answer: object, where: str = "") -> Turn:
    asked = None if question is None else _words(question, f"{where}question")
    return Turn(asked, _words(answer, f"{where}answer"))


def _conversation(parts: object) -> list[Turn]:
    """LLaVA's list of `{"from": "human" or "gpt", "value": ...}`, one after the other."""
    if not isinstance(parts, Sequence) or isinstance(parts, str) or not parts:
        raise Wrong("conversations: expected a list of parts, at least two")
    said: list[str] = []
    for number, part in enumerate(parts):
        speaker = part.get("from", part.get("role")) if isinstance(part, Mapping) else None
        wanted = ANSWERS if number % 2 else ASKS
        if speaker not in wanted:
            raise Wrong(f"part {number + 1} of the conversation is from {speaker!r}, expected {wanted[0]!r}")
        value = part.get("value", part.get("content"))
        said.append(_words(value, f"part {number + 1}", MARKER))
    if len(said) % 2:
        raise Wrong(f"the conversation has {len(said)} parts and ends with a question; expected its answer")
    return [Turn(question, answer) for question, answer in zip(said[::2], said[1::2])]


def _words(value: object, name: str, without: re.Pattern | None = None) -> str:
    """Words, with something in them."""
    if not isinstance(value, str):
        raise Wrong(f"{name}: a {type(value).__name__}, expected text")
    text = (value if without is None else without.sub(" ", value)).strip()
    if not text:
        raise Wrong(f"{name}: is empty; expected words")
    return text


def _media(fields: Mapping[str, Any], root: Path, table: tuple[Any, int] | None) -> list[Medium]:
    """The media of `image` and `video`: a path or a list of paths, or what a table has there."""
    found = []
    for name, kind in KINDS.items():
        if name not in fields:
            continue
        value = fields[name]
        several = isinstance(value, list) and bool(value) and all(_opens(one) for one in value)
        for item, one in enumerate(value) if several else [(None, value)]:
            if isinstance(one, str):
                found.append(Medium(kind, located(one, root)))
            elif table is not None:
                found.append(Medium(kind, Cell(table[0], table[1], name, item)))
            else:
                raise Wrong(f"{name}: a {type(one).__name__}, expected a path or a list of paths")
    return found


def _opens(value: object) -> bool:
    """Whether this is one medium rather than a frame of one."""
    return isinstance(value, (str, bytes, Mapping))


def _by_id(fields: Mapping[str, Any], root: Path) -> Medium:
    """Video-ChatGPT knows a clip by its id: the file's name without its ending."""
    name = _words(fields.get("video_id"), "video_id")
    found = [path for end in ("", *ENDINGS) if os.path.isfile(path := located(name + end, root))]
    if not found:
        raise Wrong(f"video_id {name!r}: no such clip in {root}; tried the endings {', '.join(ENDINGS)}")
    return Medium("video", found[0])


def located(path: str, root: Path) -> str:
    """A path of a data file, which begins at its root; addresses stay, for the gate to refuse."""
    return path if "://" in path or path.startswith("data:") else os.path.normpath(root / path)


def parsed(text: str, where: str) -> tuple[Any, Fault | None]:
    """A line of JSON, or what is wrong with it."""
    try:
        return json.loads(text), None
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
        return None, Fault(where, f"broken JSON ({reason}); expected one object in one line", text)


def read_text(path: Path) -> bytes:
    """A whole file.

    Raises:
        RequestError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
