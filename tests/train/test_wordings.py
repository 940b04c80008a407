import numpy as np
import pytest

from watchword.train import wordings


@pytest.mark.parametrize(
    ("question", "subject"),
    [
        ("What happens?", ""),
        ("What does the red circle do?", "the red circle"),
        ("Where does the blue one go?", "the blue one"),
        ("How many shapes are there?", ""),
        ("Which object shrinks?", "shrinks"),
        ("What moves left?", "moves left"),
        ("What color is the cross?", "the cross"),
        ("What shape is the white thing?", "the white thing"),
    ],
)
def test_reword_asks_about_the_same_in_other_words(question, subject):
    rng = np.random.default_rng(0)
    worded = {wordings.reword(question, rng) for _ in range(60)}
    assert len(worded) > 3
    assert question in worded
    assert all(subject.lower() in text.lower() for text in worded)
    assert not any("{}" in text for text in worded)


def test_reword_leaves_other_questions_alone():
    rng = np.random.default_rng(0)
    assert {wordings.reword("Is there a red circle?", rng) for _ in range(20)} == {"Is there a red circle?"}


def test_roughen_keeps_the_words():
    rng = np.random.default_rng(0)
    rough = {wordings.roughen("What does the red circle do?", rng) for _ in range(200)}
    assert len(rough) > 4
    for text in rough:
        kept = text.replace("<unk> ", "").replace(" <unk>", "").rstrip("?").lower()
        assert kept == "what does the red circle do"
