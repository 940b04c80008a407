"""Every program in examples/ runs and prints the right answer about the clip it asks about."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SAID = {
    "01_ask_about_a_video.py": "The green cross moves down.",
    "02_ask_about_a_picture.py": "Two.",
    "03_stream.py": "The blue circle grows and the white square moves left.",
    "04_documented_classes.py": "The green cross moves down.",
    "05_fine_tune.py": "The yellow square grows.",
}


def test_every_example_is_run():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SAID)


@pytest.mark.parametrize("name", SAID)
def test_example_prints_the_answer(name, capsys):
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert SAID[name] in capsys.readouterr().out.splitlines()[0]
