import json
import re
import subprocess
import sys

import pytest
import torch
from PIL import Image

import watchword
from tests import folders
from tests.media.clips import write
from watchword.cli import commands, demo, shell
from watchword.models import layouts
from watchword.nn import kernels, lora
from watchword.pipeline import opening
from watchword.weights import adapters


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write(tmp_path_factory.mktemp("media") / "clip.mp4", frames=12)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return folders.video_llava(tmp_path_factory.mktemp("llava"))


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command line."""
    with pytest.raises(SystemExit) as left:
        commands.main([str(one) for one in arguments])
    out = capsys.readouterr()
    return int(left.value.code or 0), out.out, out.err


def test_ask_prints_the_answer_alone_and_all_else_on_standard_error(capsys, clip, checkpoint):
    four = ("--max-tokens", 4, "--min-new-tokens", 4)
    code, out, err = run(capsys, "ask", clip, "What happens?", "--model", checkpoint, *four)
    answer = watchword.load(checkpoint).ask(clip, "What happens?", max_tokens=4, min_new_tokens=4)
    assert (code, out) == (0, answer.text + "\n")
    assert f"watchword: {checkpoint} answers (video_llava, float32 on " in err
    assert "note: cut off after 4 tokens; --max-new-tokens allows more" in err


def test_ask_prints_json_with_all_there_is_to_know(capsys, clip, checkpoint):
    options = [
        "--frames",
        3,
        "--max-tokens",
        4,
        "--temperature",
        2,
        "--top-p",
        0.9,
        "--seed",
        3,
        "--dtype",
        "bfloat16",
    ]
    code, out, err = run(
        capsys, "ask", clip, "What?", "--model", checkpoint, "--json", "--device", "cpu", *options
    )
    answer = json.loads(out)
    assert code == 0
    assert answer["frames"] == [0, 4, 8]
    assert answer["times"] == pytest.approx([0, 4 / 24, 8 / 24])
    chosen = {name: answer["options"][name] for name in ("temperature", "top_p", "seed", "do_sample")}
    assert chosen == {"temperature": 2, "top_p": 0.9, "seed": 3, "do_sample": True}
    assert answer["tokens"]["visual"] == 15
    assert "bfloat16 on cpu" in err


def test_ask_searches_with_beams(capsys, clip, checkpoint):
    _, out, _ = run(capsys, "ask", clip, "What?", "--model", checkpoint, "--beams", 3, "--max-tokens", 5)
    assert out.strip() == watchword.load(checkpoint).ask(clip, "What?", beams=3, max_tokens=5).text


def test_one_question_leaves_weights_as_they_are_stored(capsys, clip, checkpoint):
    """Packing them would take longer than the answer; stretches of a film are many questions."""
    stored, packed = (kernels.int8_product("cpu", pack) for pack in (False, True))
    asked = ("ask", clip, "What happens?", "--model", checkpoint, "--quantize", "int8", "--device", "cpu")
    _, answer, err = run(capsys, *asked)
    assert f"int8 by {stored}; " in err
    _, _, err = run(capsys, *asked, "--segments", "1s")
    assert f"int8 by {packed}; " in err
    pipeline = watchword.load(checkpoint, quantize="int8", device="cpu")
    assert answer.strip() == pipeline.ask(clip, "What happens?").text


def test_ask_passes_on_notes(capsys, clip, checkpoint):
    _, _, err = run(capsys, "ask", clip, "What?", "--model", checkpoint, "--frames", 50, "--max-tokens", 1)
    assert "watchword: note: the clip has 12 frames, 50 were asked for; all are used" in err


def test_ask_without_a_model_says_what_the_embedded_one_knows(capsys, clip, checkpoint, monkeypatch):
    monkeypatch.setattr(opening, "EMBEDDED", checkpoint)
    code, _, err = run(capsys, "ask", clip, "What?", "--max-tokens", 1)
    assert code == 0
    assert "the embedded model answers; it knows moving shapes only." in err
    assert "--model LanguageBind/Video-LLaVA-7B-hf" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["ask", "gone.mp4", "What?"], 3, "watchword: MediaError: gone.mp4: no such file"),
        (["ask", "CLIP", "What?", "--model", "no-such-folder"], 4, "CheckpointError: no-such-folder: no"),
        (["ask", "CLIP", "What?", "--model", "MODEL", "--dtype", "int3"], 4, "ConfigError: dtype 'int3'"),
        (["ask", "CLIP", " ", "--model", "MODEL"], 5, "watchword: RequestError: ask: the question is ' '"),
        (["ask", "CLIP", "What? " * 200, "--model", "MODEL"], 6, "CapacityError: ask: the prompt has "),
        (["ask", "CLIP"], 2, "Missing argument"),
        (["ask", "CLIP", "What?", "--beams", "0"], 2, "--beams"),
        (["ask", "CLIP", "What?", "--frame", "3"], 2, "--frame"),
        (["answer"], 2, "No such command"),
    ],
)  # fmt: skip
def test_errors_are_one_line_and_an_exit_code(capsys, clip, checkpoint, arguments, code, message):
    names = {"CLIP": clip, "MODEL": checkpoint}
    found, out, err = run(capsys, *(names.get(one, one) for one in arguments))
    assert (found, out) == (code, "")
    assert message in err
    assert "Traceback" not in err


def test_every_error_has_an_exit_code_that_help_names(capsys):
    for kind in watchword.errors.WatchwordError.__subclasses__():
        assert shell.EXITS[kind] in range(3, 8)
    _, out, _ = run(capsys, "ask", "--help")
    assert "130 interrupted" in " ".join(out.split())


def test_interrupting_leaves_with_130(capsys, clip, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("watchword.pipeline.load", interrupted)
    code, out, err = run(capsys, "ask", clip, "What?")
    assert (code, out, err) == (130, "", "watchword: interrupted\n")


def test_bar_is_drawn_on_terminals_only(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    with shell.bar("loading") as progress:
        assert progress is None
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with shell.bar("loading") as progress:
        progress(1, 2)
    assert capsys.readouterr().out == ""


def test_demo_asks_about_every_clip(capsys, clip, checkpoint, monkeypatch, tmp_path):
    monkeypatch.setattr(opening, "EMBEDDED", checkpoint)
    monkeypatch.setattr(demo, "CLIPS", tmp_path)
    (tmp_path / "a.mp4").write_bytes(clip.read_bytes())
    (tmp_path / "clips.json").write_text(
        json.dumps({"a.mp4": {"What happens?": "Nothing.", "How many?": "One."}})
    )
    code, out, err = run(capsys, "demo")
    assert code == 0, err
    assert re.search(r"(?s)a\.mp4: What happens\?\n  .*   \(wrong; it is: Nothing\.\)\n", out)
    assert "a.mp4: How many?\n" in out
    assert "frames 0, 1, 3, 4, 6, 7, 9, 10 at 0.00, 0.04, 0.12, 0.17, 0.25, 0.29, 0.38, 0.42 s; " in out
    assert "the embedded model answers" in err


def test_demo_shows_each_model_what_it_can_see(capsys, clip, monkeypatch, tmp_path):
    room = 2048  # for whatever these random weights say
    embedded = folders.video_llava(tmp_path / "video-llava", positions=room)
    monkeypatch.setattr(opening, "EMBEDDED", embedded)
    monkeypatch.setattr(demo, "DEMO", tmp_path)
    monkeypatch.setattr(demo, "CLIPS", tmp_path)
    for name, video in (("instructblip", False), ("instructblip-video", True)):
        (tmp_path / name).mkdir()
        folders.instructblip(tmp_path / name, video=video, positions=room)
    (tmp_path / "a.mp4").write_bytes(clip.read_bytes())
    Image.new("RGB", (40, 40)).save(tmp_path / "b.jpg")
    asked = {"a.mp4": {"What happens?": "Nothing."}, "b.jpg": {"What is it?": "A circle."}}
    (tmp_path / "clips.json").write_text(json.dumps(asked))
    talk = [["Is there a circle?", "Yes."], ["What colour is it?", "Red."]]
    (tmp_path / "talks.json").write_text(json.dumps({"b.jpg": talk}))
    code, out, err = run(capsys, "demo")
    assert code == 0, err
    first, clips, pictures = re.split(r"\n== instructblip(?:-video)?\n", out)
    assert first.startswith("== video-llava\n")
    assert ["a.mp4: What happens?" in part for part in (first, clips, pictures)] == [True, True, False]
    assert "b.jpg" not in clips
    for part in (first, pictures):
        assert "b.jpg: What is it?\n" in part
        assert re.search(r"(?s)b\.jpg, turn 2: What colour is it\?\n  .*\n  frames 0; ", part)
    assert "instructblip answers (instructblip, float32 on " in err


def test_version_is_printed(capsys):
    assert run(capsys, "--version")[:2] == (0, f"watchword {watchword.__version__}\n")


def test_help_loads_nothing_heavy():
    check = (
        "import sys; sys.argv = ['watchword', '--help']\n"
        "from watchword.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'numpy', 'av', 'PIL', 'huggingface_hub') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout
    assert out.endswith("[]\n")
    assert "ask" in out


def test_an_adapter_answers_ranks_and_is_merged(capsys, clip, checkpoint, tmp_path):
    model = watchword.load(checkpoint)
    lora.add_adapter(model.model, ["v_proj"], 2)
    for linear in lora.adapted(model.model).values():
        torch.nn.init.normal_(linear.adapters["default"].B)
    adapters.save_adapter(model.model, tmp_path / "a", adapters.Family(**layouts.for_adapters(model.model)))
    given = ("--adapter", tmp_path / "a", "--max-tokens", 4)
    code, out, _ = run(capsys, "ask", clip, "What happens?", "--model", checkpoint, *given)
    wanted = watchword.load(checkpoint, adapter=tmp_path / "a").ask(clip, "What happens?", max_tokens=4)
    assert (code, out) == (0, wanted.text + "\n")
    code, _, err = run(capsys, "merge", checkpoint, tmp_path / "a", tmp_path / "merged")
    assert (code, f"{tmp_path / 'merged'}: written; ask it with --model" in err) == (0, True)
    code, out, _ = run(
        capsys, "ask", clip, "What happens?", "--model", tmp_path / "merged", "--max-tokens", 4
    )
    assert out == wanted.text + "\n"
    code, _, err = run(capsys, "merge", checkpoint, tmp_path / "a", tmp_path / "merged")
    assert (code, "is there already" in err) == (5, True)
    code, _, err = run(capsys, "rank", clip, "What?", "a", "b", "--model", checkpoint, "--adapter", clip)
    assert (code, "is a file, expected a checkpoint folder" in err) == (4, True)
