"""`ask` on a terminal, `chat` and `rank`."""

import io
import json
import os
import shlex
import subprocess
import sys

import pytest

import watchword
from tests.cli.test_commands import run
from tests.media.clips import write
from watchword.cli import answering, shell


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write(tmp_path_factory.mktemp("media") / "clip.mp4", frames=12)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from tests import folders

    return folders.video_llava(tmp_path_factory.mktemp("llava"))


def talk(monkeypatch, capsys, lines, *arguments):
    """Exit code, standard output and standard error of a chat with these lines typed."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines) + "\n"))
    monkeypatch.setattr("builtins.input", lambda prompt="": next_line())

    def next_line():
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\n")

    return run(capsys, "chat", *arguments)


def test_ask_streams_on_a_terminal(capsys, clip, checkpoint, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    shown = []
    monkeypatch.setattr(sys, "stdout", Terminal())
    echo = answering.typer.echo
    monkeypatch.setattr(
        answering.typer, "echo", lambda text="", **how: shown.append(text) or echo(text, **how)
    )
    how = ("--max-new-tokens", 12, "--temperature", 9, "--seed", 2)
    run(capsys, "ask", clip, "What?", "--model", checkpoint, *how)
    answer = watchword.load(checkpoint).ask(clip, "What?", max_tokens=12, temperature=9, seed=2)
    assert answer.text in "".join(shown)
    assert shown.count(answer.text) == 0
    assert sys.stdout.getvalue() == answer.text + "\n"


def test_ask_takes_every_option(capsys, clip, checkpoint):
    code, out, err = run(
        capsys, "ask", clip, "What?", "--model", checkpoint, "--json", "--temperature", 3, "--top-k", 9,
        "--top-p", 0.9, "--min-p", 0.01, "--repetition-penalty", 1.2, "--no-repeat-ngram-size", 3, "--n", 2,
        "--seed", 4, "--min-new-tokens", 2, "--max-new-tokens", 5, "--stop", "zzz", "--logprobs", 2,
    )  # fmt: skip
    assert code == 0, err
    answer = json.loads(out)
    alone = watchword.load(checkpoint).ask(
        clip, "What?", temperature=3, top_k=9, top_p=0.9, min_p=0.01, repetition_penalty=1.2,
        no_repeat_ngram_size=3, n=2, seed=4, min_new_tokens=2, max_new_tokens=5, stop="zzz", logprobs=2,
    )  # fmt: skip
    assert answer["text"] == alone.text
    assert [sample["text"] for sample in answer["samples"]] == list(alone.texts)
    assert len(answer["samples"][0]["logprobs"][0]["top"]) == 2


def test_ask_takes_choices_and_beams(capsys, clip, checkpoint):
    _, out, _ = run(
        capsys, "ask", clip, "What?", "--model", checkpoint, "--choice", "a cat", "--choice", "a ball",
        "--num-beams", 2, "--length-penalty", 0.5, "--early-stopping",
    )  # fmt: skip
    assert out.strip() in ("a cat", "a ball")
    code, _, err = run(capsys, "ask", clip, "What?", "--model", checkpoint, "--length-penalty", 2)
    assert (code, "length_penalty=2.0 is for beams" in err) == (5, True)


def test_rank_prints_candidates_the_likeliest_first(capsys, clip, checkpoint):
    arguments = ("rank", clip, "Which way?", "left", "right", "up", "--model", checkpoint)
    code, out, err = run(capsys, *arguments)
    ranking = watchword.load(checkpoint).rank(clip, "Which way?", ["left", "right", "up"])
    assert code == 0
    assert [line.split()[-1] for line in out.splitlines()] == [one.text for one in ranking.candidates]
    assert out.splitlines()[0].split()[0] == f"{ranking.best.probability:.2%}"
    assert "by sum: probability, score, answer" in err
    _, out, _ = run(capsys, *arguments, "--json", "--rule", "mean")
    assert json.loads(out)["rule"] == "mean"
    code, _, err = run(capsys, "rank", clip, "Which way?", "left", "left", "--model", checkpoint)
    assert (code, "candidates: 'left' is there twice" in err) == (5, True)


def test_chat_talks_and_obeys(capsys, clip, checkpoint, monkeypatch, tmp_path):
    saved = tmp_path / "talk.json"
    lines = ["/help", "What?", "/stats", "", "/media", f"/media {clip}", "Why?", f"/save {saved}", "/dance",
             "/media gone.mp4", f"/save {tmp_path}/no/where.json", "/clear", "/stats", "/quit",
             "never"]  # fmt: skip
    code, out, err = talk(
        monkeypatch, capsys, lines, clip, "--model", checkpoint, "--max-new-tokens", 4, "--frames", 3
    )
    chat = watchword.load(checkpoint).chat(clip, frames=3)
    first, second = chat.ask("What?", max_tokens=4), chat.ask("Why?", clip, max_tokens=4)
    assert (code, out) == (0, f"{first.text}\n{second.text}\n")
    for words in (
        "/media PATH", "; first token after", "1 turns; kept", "/media: which file?",
        "a video, 3 of 12 frames", "2 turns", "/dance: unknown; /help", "MediaError: gone.mp4: no such file",
        "No such file or directory", "forgotten", "0 turns; kept",
    ):  # fmt: skip
        assert words in err, words
    code, out, err = talk(
        monkeypatch, capsys, ["How?"], "--resume", saved, "--model", checkpoint, "--max-new-tokens", 4
    )
    assert (code, out) == (0, chat.ask("How?", max_tokens=4).text + "\n")
    assert f"{saved}: 2 turns so far" in err


def test_chat_outlives_interrupted_answers(capsys, clip, checkpoint, monkeypatch):
    model = watchword.load(checkpoint)
    decode = type(model.model.language_model).decode
    calls = []

    def interrupted(self, *given):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return decode(self, *given)

    monkeypatch.setattr(type(model.model.language_model), "decode", interrupted)
    code, out, err = talk(
        monkeypatch, capsys, ["What?", "What?"], clip, "--model", checkpoint, "--max-new-tokens", 9
    )
    monkeypatch.undo()
    assert code == 0
    assert "watchword: stopped" in err
    assert out.splitlines()[-1] == model.ask(clip, "What?", max_tokens=9).text.splitlines()[-1]


def test_chat_leaves_with_a_code_when_nothing_can_be_loaded(capsys, monkeypatch, clip):
    code, _, err = talk(monkeypatch, capsys, ["What?"], clip, "--model", "no-such-folder")
    assert (code, "CheckpointError: no-such-folder" in err) == (4, True)
    assert shell.EXITS


def test_chat_does_not_ignore_what_a_saved_conversation_says_itself(capsys, tmp_path):
    for flags in (("--frames", 3), ("--overflow", "error")):
        code, _, err = run(capsys, "chat", "--resume", tmp_path / "talk.json", *flags)
        assert (code, "--resume with --frames or --overflow" in err) == (5, True)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full")
def test_output_that_cannot_be_written_is_said(tmp_path):
    ask = [sys.executable, "-m", "watchword", "fit", watchword.pipeline.opening.EMBEDDED, "--json"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(ask, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.stderr == (
        "watchword: standard output: cannot be written (No space left on device); expected room, and a place "
        "to write to\n"
    )
    assert done.returncode == 5
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(ask, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
    closed = shlex.join(map(str, ask)) + " >&-"
    done = subprocess.run(closed, shell=True, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
