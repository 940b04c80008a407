import json
import sys

import numpy as np
import pytest
from PIL import Image

from tests.train import material
from watchword.errors import MissingExtra, RequestError
from watchword.train.examples import Cell
from watchword.train.formats import read_data
from watchword.train.templates import TASKS, asked, wordings


def of(example):
    return [(turn.question, turn.answer) for turn in example.turns]


def test_json_lines_give_questions_turns_and_media_beside_the_file(tmp_path):
    path = material.jsonl(
        tmp_path / "data.jsonl",
        [
            {"image": "a.png", "question": " What? ", "answer": "A cat."},
            "",
            {"video": ["b.mp4", "/c.mp4"], "turns": [{"question": "Who?", "answer": "I."}, ["Why?", "So."]]},
            {"question": "2+2?", "answer": "4", "id": 7, "source": "x"},
        ],
    )
    found = read_data(path)
    assert [of(one) for one in found.examples] == [
        [("What?", "A cat.")],
        [("Who?", "I."), ("Why?", "So.")],
        [("2+2?", "4")],
    ]
    assert [one.where for one in found.examples] == [f"{path}, line {n}" for n in (1, 3, 4)]
    assert [[(m.kind, m.source) for m in one.media] for one in found.examples] == [
        [("picture", str(tmp_path / "a.png"))],
        [("video", str(tmp_path / "b.mp4")), ("video", "/c.mp4")],
        [],
    ]
    assert found.notes == (f"{path}: fields that are not used: 'id' (1 lines), 'source' (1 lines)",)
    assert read_data(path, root="/data").examples[0].media[0].source == "/data/a.png"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": "a.png", "question"', "broken JSON (Expecting ':' delimiter, column 30)"),
        ("[1]", "a JSON list, expected an object"),
        ({"image": "a.png", "question": "What?"}, "no answer; found image, question"),
        ({"question": "What?", "answer": "  "}, "answer: is empty"),
        ({"question": "", "answer": "A."}, "question: is empty"),
        ({"question": 3, "answer": "A."}, "question: a int, expected text"),
        ({"image": "a.png", "answer": "A."}, "no question; give one, or a task"),
        ({"image": "a.png", "task": "question", "answer": "A."}, "no question; give one, or a task"),
        ({"image": "a.png", "task": "sing", "answer": "A."}, "task 'sing' is unknown; known are caption,"),
        ({"image": 3, "question": "What?", "answer": "A."}, "image: a int, expected a path"),
        ({"turns": []}, "turns: expected a list of questions with their answers"),
        ({"turns": [{"question": "What?"}]}, "turn 1: expected a question and an answer"),
        ({"turns": [["What?", ""]]}, "turn 1: answer: is empty"),
        ({"turns": [["What?", "A."]], "answer": "A."}, "both turns and a question or answer"),
        ({"conversations": [{"from": "gpt", "value": "A."}]}, "part 1 of the conversation is from 'gpt'"),
        ({"conversations": [{"from": "human", "value": "Q"}]}, "has 1 parts and ends with a question"),
        ({"conversations": [{"from": "human", "value": "<video>\n"}]}, "part 1: is empty"),
        ({"conversations": []}, "conversations: expected a list of parts"),
        ({"q": "What?", "a": "A.", "video_id": "v_1"}, "video_id 'v_1': no such clip in"),
    ],
)
def test_a_wrong_line_is_named_with_its_number(tmp_path, line, message):
    path = material.jsonl(tmp_path / "data.jsonl", [{"question": "2+2?", "answer": "4"}, line])
    found = read_data(path)
    assert len(found.examples) == 1
    assert found.faults[0].where == f"{path}, line 2"
    assert message in found.faults[0].message
    assert found.faults[0].raw == (line if isinstance(line, str) else json.dumps(line))


def test_a_line_that_is_not_utf8_is_a_fault(tmp_path):
    (tmp_path / "d.jsonl").write_bytes(b'{"question": "a", "answer": "\xff"}\n')
    assert read_data(tmp_path / "d.jsonl").faults[0].message == "not UTF-8 (byte 29)"


def test_llava_conversations_lose_their_markers_and_keep_line_numbers(tmp_path):
    entries = [
        {"id": "1", "image": "a.png", "conversations": [
            {"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."},
            {"from": "human", "value": "Why?"}, {"from": "gpt", "value": "It purrs."}]},
        {"id": "2", "video": "b.mp4", "conversations": [
            {"from": "human", "value": "What happens?\n<video>"}, {"from": "gpt", "value": "It runs."}]},
        {"id": "3", "conversations": [
            {"from": "human", "value": "Hello"}, {"from": "gpt", "value": ""}]},
    ]  # fmt: skip
    (tmp_path / "llava.json").write_text(json.dumps(entries, indent=2))
    found = read_data(tmp_path / "llava.json")
    assert [of(one) for one in found.examples] == [
        [("What is it?", "A cat."), ("Why?", "It purrs.")],
        [("What happens?", "It runs.")],
    ]
    starts = [n for n, line in enumerate(json.dumps(entries, indent=2).splitlines(), 1) if line == "  {"]
    assert [one.where for one in found.examples] == [
        f"{tmp_path / 'llava.json'}, line {n}" for n in starts[:2]
    ]
    assert found.faults[0].where.endswith(f"line {starts[2]}")
    assert found.faults[0].message == "part 2: is empty; expected words"


def test_video_chatgpt_finds_clips_by_their_id(tmp_path):
    (tmp_path / "v_1.mkv").touch()
    (tmp_path / "d.json").write_text(json.dumps([{"q": "What?", "a": "Rain.", "video_id": "v_1"}]))
    (example,) = read_data(tmp_path / "d.json").examples
    assert (of(example), example.media[0].source) == ([("What?", "Rain.")], str(tmp_path / "v_1.mkv"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"q": 1},\n {"q": ]', "line 2: broken JSON"),
        ('[{"a": 1}\n {"a": 2}]', "line 2: broken JSON (expected ',' or ']')"),
        ('{"a": 1}', "expected a JSON array of objects; for an object a line name it .jsonl"),
    ],
)
def test_a_broken_array_is_refused_as_a_whole(tmp_path, text, message):
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(RequestError) as error:
        read_data(tmp_path / "d.json")
    assert message in str(error.value)


def test_a_folder_takes_descriptions_and_questions_from_sidecars(tmp_path):
    for name in ("a.png", "b.mp4", "c.jpg", "d.png", "e.png"):
        (tmp_path / name).touch()
    (tmp_path / "a.txt").write_text("A cat\nsleeps.\n")
    (tmp_path / "b.txt").write_text("Q: What?\nA: It rains.\n\nQ: Where?\nA: Here.\n")
    (tmp_path / "d.txt").write_text("Q: What?\nQ: Where?")
    (tmp_path / "e.txt").write_text(" \n")
    (tmp_path / "z.txt").write_text("alone")
    found = read_data(tmp_path)
    assert [(one.task, of(one)) for one in found.examples] == [
        ("describe", [(None, "A cat sleeps.")]),
        (None, [("What?", "It rains."), ("Where?", "Here.")]),
    ]
    assert [str(one) for one in found.faults] == [
        f"{tmp_path / 'c.jpg'}: no c.txt beside it; expected what is to be answered",
        f"{tmp_path / 'd.txt'}: line 1: expected a line with Q: and behind it one with A:",
        f"{tmp_path / 'e.txt'}: is empty; expected a description, or lines with Q: and A:",
        f"{tmp_path / 'z.txt'}: no picture or clip of that name beside it",
    ]


class Rows:
    """The protocol of a `datasets.Dataset`: a length, and rows by number."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, number):
        return self.rows[number]


def test_a_table_keeps_its_media_in_their_rows():
    image = Image.new("RGB", (4, 4))
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    found = read_data(
        Rows(
            [
                {"image": image, "question": "What?", "answer": "Black."},
                {"video": frames, "question": "What?", "answer": "Still."},
                {"image": {"bytes": b"png", "path": "x.png"}, "question": "What?", "answer": "Bytes."},
                {"image": [{"bytes": None, "path": "a.png"}], "question": "What?", "answer": "Path."},
                {"image": image, "question": "What?", "answer": None},
            ]
        )
    )
    media = [one.media[0] for one in found.examples]
    assert [one.kind for one in media] == ["picture", "video", "picture", "picture"]
    assert all(isinstance(one.source, Cell) for one in media)
    assert media[0].open() is image
    assert media[1].open() is frames
    assert (media[2].open(), media[3].open()) == (b"png", "a.png")
    assert str(found.faults[0]).startswith("row 4: no answer; found image, question")


def test_parquet_needs_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "d.parquet").touch()
    with pytest.raises(MissingExtra, match=r"d\.parquet: .* pip install watchword\[parquet\]"):
        read_data(tmp_path / "d.parquet")


def test_parquet_gives_the_same_fields_and_bytes(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [
        {"image": {"bytes": b"png", "path": None}, "question": "What?", "answer": "A."},
        {"image": {"bytes": None, "path": "b.png"}, "question": "Who?", "answer": ""},
    ]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "d.parquet")
    found = read_data(tmp_path / "d.parquet")
    assert found.examples[0].media[0].open() == b"png"
    assert str(found.faults[0]) == f"{tmp_path / 'd.parquet'}, row 1: answer: is empty; expected words"
    (tmp_path / "e.parquet").write_text("no")
    with pytest.raises(RequestError, match="not a Parquet file"):
        read_data(tmp_path / "e.parquet")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.jsonl", "no such file or folder"),
        ("data.csv", "of no known kind"),
        ("empty.jsonl", "holds nothing"),
    ],
)
def test_a_source_that_is_none_is_refused(tmp_path, name, message):
    (tmp_path / "data.csv").touch()
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(RequestError, match=message):
        read_data(tmp_path / name)


def test_something_else_than_rows_is_refused():
    with pytest.raises(RequestError, match=r"data: a int, expected a \.jsonl"):
        read_data(3)


def test_wordings_ask_for_the_task_with_and_without_a_question():
    assert all("{" not in one for task in TASKS for one in wordings(task, "Why?", "video"))
    assert "Look at the video and answer: Why {medium}?" in wordings("question", "Why {medium}?", "video")
    assert wordings("question", None, "picture") == ()
    assert wordings("caption", "What is it?", "picture") == ("What is it?",)
    drawn = {asked("caption", None, "picture", (0, number)) for number in range(60)}
    assert drawn == set(wordings("caption", None, "picture"))
    assert asked("caption", None, "picture", (4, 2)) == asked("caption", None, "picture", (4, 2))
    assert asked(None, "Why?", "picture", (0,)) == "Why?"
