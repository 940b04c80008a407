import json

import pytest

from tests import folders
from tests.train import material
from watchword.cli import commands


def run(*arguments):
    with pytest.raises(SystemExit) as left:
        commands.main([str(one) for one in arguments])
    return left.value.code


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ground")
    data = material.jsonl(folder / "d.jsonl", material.lines(folder, 4))
    return data, folders.video_llava(folder / "model")


def test_train_tells_on_standard_error_and_prints_where_the_model_is(ground, tmp_path, capsys):
    data, model = ground
    flags = ["--model", model, "--steps", 2, "--batch", 2, "--workers", 0, "--hold-out", 0, "--device", "cpu"]
    assert run("train", data, "--out", tmp_path / "run", *flags, "--recipe", "projector", "--json") == 0
    out, told = capsys.readouterr()
    assert json.loads(out)["model"] == str(tmp_path / "run" / "model")
    assert json.loads(out)["steps"] == 2
    assert "learns: the projection from vision to language" in told
    assert "step 2/2: loss" in told
    assert run("train", data, "--out", tmp_path / "run", *flags, "--recipe", "projector") == 5
    assert "holds a run already, saved up to step 2; go on with --resume" in capsys.readouterr().err
    assert run("train", data, "--out", tmp_path / "run", *flags, "--recipe", "projector", "--resume") == 0


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--recipe", "magic"], 5, "recipe 'magic': unknown; known are qformer"),
        (["--batch", "0"], 5, "train: batch=0; expected a whole number from 1 up"),
        (["--resume"], 5, "holds no run to go on with"),
        (["--stepz", "3"], 2, "No such option: --stepz"),
    ],
)
def test_train_says_what_is_wrong(ground, tmp_path, capsys, flags, code, message):
    data, model = ground
    assert run("train", data, "--model", model, "--out", tmp_path / "run", "--device", "cpu", *flags) == code
    assert message in " ".join(capsys.readouterr().err.split())


def test_train_tells_bad_lines_by_number_and_skips_them_when_asked(ground, tmp_path, capsys):
    data, model = ground
    bad = material.jsonl(tmp_path / "bad.jsonl", [*data.read_text().splitlines(), "{"])
    flags = [
        "--root",
        data.parent,
        "--model",
        model,
        "--recipe",
        "projector",
        "--steps",
        1,
        "--workers",
        0,
        "--device",
        "cpu",
    ]
    assert run("train", bad, "--out", tmp_path / "run", *flags) == 5
    assert f"{bad}, line 5: broken JSON" in capsys.readouterr().err
    assert run("train", bad, "--out", tmp_path / "run", *flags, "--skip-bad") == 0
    assert "1 lines are left out" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "bad.jsonl").read_text())["line"] == "{"
