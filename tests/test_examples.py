"""Every program in examples/ runs and prints the right answer about the clip it asks about."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SAID = {
    "01_ask_about_a_video.py": "The white triangle vanishes, then the white cross moves left.",
    "02_ask_about_a_picture.py": "One.",
    "03_stream.py": "The blue cross shrinks, then the blue triangle shrinks.",
    "04_documented_classes.py": "The white triangle vanishes, then the white cross moves left.",
    "05_fine_tune.py": "The yellow square grows.",
}


LESSON = "06_teach_something_new.py"


def test_every_example_is_run():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*SAID, LESSON}


@pytest.mark.slow
def test_the_embedded_model_learns_something_new_and_keeps_what_it_knew(capsys):
    runpy.run_path(str(EXAMPLES / LESSON), run_name="__main__")
    found = re.findall(r"(\S+)% right about what is new, (\S+)% about the rest", capsys.readouterr().out)
    (new_before, old_before), (new, old) = [[float(one) for one in line] for line in found]
    assert new >= 85
    assert new - new_before >= 50
    assert old >= old_before - 2


@pytest.mark.parametrize("name", SAID)
def test_example_prints_the_answer(name, capsys):
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert SAID[name] in capsys.readouterr().out.splitlines()[0]
