import io
import json
import sys
from types import SimpleNamespace

import pytest
from PIL import Image

import watchword
from tests import folders
from tests.cli.test_commands import run
from tests.media.clips import write
from tests.media.test_sandbox import counted_children
from watchword.media import at, between, every, read_frames, scenes, segments, uniform


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write(tmp_path_factory.mktemp("media") / "clip.mp4", frames=48)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return folders.video_llava(tmp_path_factory.mktemp("llava"))


@pytest.mark.parametrize(
    ("flags", "pick"),
    [
        ([], uniform(8)),
        (["--frames", 5], uniform(5)),
        (["--from", "0:01", "--frames", 3], between(1, None, 3)),
        (["--from", "500ms", "--to", "1.5s"], between(0.5, 1.5, 8)),
        (["--at", "1.5s,0.25"], at([1.5, 0.25])),
        (["--every", "0.5s"], every(0.5)),
        (["--every", "0.5s", "--from", "1"], every(0.5, start=1)),
        (["--scenes", "--frames", 2], scenes(2)),
    ],
)
def test_frames_shows_the_frames_that_the_flags_choose(capsys, clip, tmp_path, flags, pick):
    code, out, err = run(capsys, "frames", clip, "-o", tmp_path / "sheet.png", "--json", *flags)
    expected = read_frames(clip, pick)
    assert code == 0
    found = json.loads(out)
    assert found["frames"] == list(expected.indices)
    assert found["times"] == pytest.approx(expected.times)
    assert found["total_frames"] == 48
    assert f"sheet.png: frames {', '.join(str(index) for index in expected.indices)} at " in err


def test_frames_writes_a_picture_of_the_size_asked_for(capsys, clip, tmp_path):
    code, out, _ = run(
        capsys, "frames", clip, "--output", tmp_path / "a.jpg", "--frames", 6, "--columns", 2, "--tile", 200
    )
    assert (code, out) == (0, "")
    with Image.open(tmp_path / "a.jpg") as picture:
        assert picture.format == "JPEG"
        assert picture.width == 2 * 28 + 2 * 200 + 10
        assert picture.height > 3 * 150


def test_frames_passes_on_notes_and_needs_no_model(capsys, tmp_path):
    short = write(tmp_path / "short.mp4", frames=3)
    code, _, err = run(capsys, "frames", short, "-o", tmp_path / "a.png")
    assert code == 0
    assert "watchword: note: the clip has 3 frames, 8 were asked for; all are used" in err


def test_explain_prints_the_answer_and_draws_where_it_came_from(capsys, clip, checkpoint, tmp_path):
    code, out, err = run(
        capsys,
        "explain",
        clip,
        "What happens?",
        "-o",
        tmp_path / "why.png",
        "--model",
        checkpoint,
        "--words",
        2,
    )
    assert (code, out) == (0, watchword.load(checkpoint).ask(clip, "What happens?").text + "\n")
    assert "why.png: where it looked for " in err
    with Image.open(tmp_path / "why.png") as picture:
        assert picture.format == "PNG"


def test_explain_prints_the_attention_as_json(capsys, clip, checkpoint, tmp_path):
    flags = ["--at", "0.5s,1s", "--json", "--dtype", "float32", "--device", "cpu"]
    code, out, _ = run(
        capsys, "explain", clip, "What happens?", "-o", tmp_path / "why.png", "--model", checkpoint, *flags
    )
    found = json.loads(out)
    assert code == 0
    assert found["frames"] == [12, 24]
    assert found["shape"] == ["words", "frames", "rows", "columns"]
    assert len(found["attention"]) == len(found["words"])
    assert all(len(word) == 2 and len(word[0]) == len(word[0][0]) == 2 for word in found["attention"])


def test_ask_looks_at_the_frames_that_the_flags_choose(capsys, clip, checkpoint):
    for flags, pick in ([["--from", "1s"], between(1, None, 8)], [["--at", "1.5s,0.25"], at([1.5, 0.25])]):
        _, out, _ = run(
            capsys, "ask", clip, "What?", "--model", checkpoint, "--json", "--max-tokens", 1, *flags
        )
        assert json.loads(out)["frames"] == list(read_frames(clip, pick).indices)


def test_ask_and_explain_read_standard_input_once(capsys, clip, checkpoint, tmp_path, monkeypatch):
    for command in (["ask"], ["explain", "-o", tmp_path / "why.png"]):
        with clip.open("rb") as file:
            monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=file))
            code, _, err = run(
                capsys, command[0], "-", "What?", "--model", checkpoint, "--max-tokens", 1, *command[1:]
            )
        assert (code, "MediaError" in err) == (0, False), err


@pytest.mark.parametrize("command", ["ask", "rank", "explain", "chat", "frames"])
def test_every_command_that_looks_reads_in_a_child_on_demand(
    capsys, clip, checkpoint, tmp_path, monkeypatch, command
):
    model = ["--model", checkpoint]
    arguments = {
        "ask": [clip, "What?", "--max-tokens", 1, *model],
        "rank": [clip, "What?", "A dog.", "A cat.", *model],
        "explain": [clip, "What?", "--max-tokens", 1, "-o", tmp_path / "why.png", *model],
        "chat": [clip, *model],
        "frames": [clip, "-o", tmp_path / "sheet.png"],
    }[command]
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    started = counted_children(monkeypatch)
    assert run(capsys, command, *arguments)[0] == 0
    assert started == []
    assert run(capsys, command, *arguments, "--sandbox")[0] == 0
    assert len(started) == 1


def test_what_cannot_be_opened_shows_before_a_model_is_loaded(capsys, tmp_path, monkeypatch):
    for medium, message in (
        ("https://example.org/a.mp4?key=1", "https://example.org: an address; only local files are opened"),
        ("data:image/png;base64,?", "broken base64"),
        ("-", "standard input: empty (0 bytes)"),
        ("a\nb.mp4", "'a\\nb.mp4': no such file"),
    ):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"")))
        for command in (["ask"], ["explain", "-o", tmp_path / "why.png"]):
            code, out, err = run(capsys, command[0], medium, "What?", "--model", "no-such", *command[1:])
            assert (code, out) == (3, "")
            assert message in err


def test_chat_keeps_standard_input_for_questions(capsys):
    code, _, err = run(capsys, "chat", "-", "--model", "no-such")
    assert code == 5
    assert (
        "RequestError: chat: standard input is where the questions come from; give the path of a file" in err
    )


def test_ask_answers_about_every_segment_with_its_times(capsys, clip, checkpoint):
    flags = ["--segments", "0.5s", "--frames", 2, "--from", "0.5", "--max-tokens", 3]
    code, out, err = run(capsys, "ask", clip, "What?", "--model", checkpoint, *flags)
    expected = watchword.load(checkpoint).ask_segments(
        clip, "What?", segments(0.5, 2, start=0.5), max_tokens=3
    )
    assert (code, out) == (0, expected.text + "\n")
    assert out.startswith("0:00.5-0:01  ")
    assert "watchword: note: 0:00.5-0:01: cut off after 3 tokens; --max-new-tokens allows more" in err
    code, out, _ = run(capsys, "ask", clip, "What?", "--model", checkpoint, *flags, "--json")
    found = json.loads(out)
    assert found["text"] == expected.text
    assert [(one["start"], one["end"]) for one in found["segments"]] == [(0.5, 1.0), (1.0, 1.5), (1.5, 2.0)]


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--segments", "0"], 5, "segments: one frame or part each 0.0 s; give seconds above 0"),
        (["--segments", "soon"], 5, "--segments: 'soon' is no time"),
        (["--segments", "1s", "--scenes"], 5, "--segments together with --scenes; it goes with --frames and"),
        (["--segments", "1s", "--at", "1s"], 5, "--at together with --segments"),
    ],
)
def test_segments_that_make_no_sense_are_refused_before_a_model_is_loaded(capsys, clip, flags, code, message):
    found, out, err = run(capsys, "ask", clip, "What?", "--model", "no-such", *flags)
    assert (found, out) == (code, "")
    assert message in err


def test_ask_refuses_flags_that_contradict_before_it_loads_a_model(capsys, clip):
    code, _, err = run(capsys, "ask", clip, "What?", "--model", "no-such", "--at", "1s", "--frames", 2)
    assert code == 5
    assert "--at together with --frames" in err


@pytest.mark.parametrize("command", [["frames", "CLIP"], ["explain", "CLIP", "What?", "--model", "MODEL"]])
@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (
            ["--from", "1:30", "--to", "0:10", "-o", "PNG"],
            5,
            "--from 1:30 --to 0:10: the part ends before it",
        ),
        (["--from", "0:30", "-o", "PNG"], 3, "a part from 30 s, but the clip ends at 2 s"),
        (["--at", "1s,99s", "-o", "PNG"], 3, "no frame at 99 s, the clip ends at 2 s"),
        (["--at", "soon", "-o", "PNG"], 5, "--at: 'soon' is no time"),
        (["--every", "0", "-o", "PNG"], 5, "every: one frame or part each 0.0 s; give seconds above 0"),
        (["--every", "-2s", "-o", "PNG"], 5, "--every: '-2s' is no time"),
        (["--every", "2s", "--scenes", "-o", "PNG"], 5, "--every together with --scenes"),
        (["--frames", "0", "-o", "PNG"], 2, "--frames"),
        (["-o", "sheet.txt"], 5, "sheet.txt: ends in '.txt', expected a picture's name: .png, "),
        (["-o", "no/such/folder/sheet.png"], 3, "no/such/folder/sheet.png: cannot be written (No such file"),
        ([], 2, "Missing option '--output'"),
    ],
)
def test_flags_that_make_no_sense_are_one_line_and_an_exit_code(
    capsys, clip, checkpoint, tmp_path, command, flags, code, message
):
    names = {"CLIP": clip, "MODEL": checkpoint, "PNG": tmp_path / "sheet.png"}
    found, out, err = run(capsys, *(names.get(one, one) for one in [*command, *flags]))
    assert (found, out) == (code, "")
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert not (tmp_path / "sheet.png").exists()
