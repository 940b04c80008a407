import csv

import numpy as np
import pytest
import torch

import watchword
from watchword.train import topics
from watchword.train.exam import examiner
from watchword.train.folder import write_folder
from watchword.train.lessons import Lessons, Look
from watchword.train.loop import Run, Stage, train
from watchword.train.pupil import step_size
from watchword.train.student import Student

LOOK = Look(frames=2)
STAGES = [
    Stage("sight", steps=2, peak=1e-3, clips=2, asks=False),
    Stage("answers", steps=4, peak=1e-3, clips=2, asks=True, pictures=2, tower=0.5),
]


def fresh(folder, seed=0):
    torch.manual_seed(seed)
    return Run(folder, Student(LOOK))


def go(run, stages=STAGES):
    train(
        run, stages, seed=1, look=LOOK, examine=lambda student: {"exact": 0.5}, report_each=1, examine_each=2
    )
    return run.student.state_dict()


def test_a_run_that_was_stopped_ends_where_an_unbroken_one_does(tmp_path):
    unbroken = go(fresh(tmp_path / "a"))

    def stop(student):
        raise KeyboardInterrupt

    run = fresh(tmp_path / "b")
    with pytest.raises(KeyboardInterrupt):
        train(run, STAGES, seed=1, look=LOOK, examine=stop, report_each=1, examine_each=3)
    resumed = go(fresh(tmp_path / "b", seed=9))  # other first weights, which the saved state replaces
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)


def test_curve_has_a_line_for_each_report_and_exam(tmp_path):
    go(fresh(tmp_path))
    with (tmp_path / "curve.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["stage"], line["step"]) for line in lines if line["name"] == "exact"] == [
        ("1", "2"),
        ("1", "4"),
    ]
    assert {line["name"] for line in lines} >= {"video_loss", "picture_loss", "shape", "action"}
    assert [line["step"] for line in lines if line["name"] == "video_loss"] == ["1", "3"]


def test_a_finished_run_is_left_alone(tmp_path):
    done = go(fresh(tmp_path))
    before = (tmp_path / "curve.csv").read_text()
    again = go(fresh(tmp_path, seed=5))
    assert all(torch.equal(done[name], again[name]) for name in done)
    assert (tmp_path / "curve.csv").read_text() == before


def test_step_size_climbs_then_falls():
    rates = [step_size(step, 1000, 1.0) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01, rel=1e-3)
    assert max(rates) == pytest.approx(rates[99], rel=0.03)
    assert rates[-1] == pytest.approx(0.02, abs=1e-3)


def test_training_lowers_the_labels_loss():
    torch.manual_seed(0)
    student = Student(LOOK)
    batch = next(iter(Lessons(0, 0, clips=4, look=LOOK, asks=True)))
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-3)
    losses = []
    for _ in range(15):
        loss, report = student.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(report["video_loss"])
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("picture", [False, True])
def test_conversations_are_learned_and_examined(picture, tmp_path):
    look = LOOK
    torch.manual_seed(0)
    student = Student(look)
    lessons = Lessons(0, 0, clips=2, look=look, asks=True, free=True)
    batch = lessons.batch(np.random.default_rng(0), picture)
    assert batch.pack.part.max() > 4
    assert (batch.pack.labels == look.ids["</s>"]).sum() > (batch.pack.ids == look.ids["</s>"]).sum()  # talks
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        loss, report = student.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(report["picture_loss" if picture else "video_loss"])
    assert losses[-1] < 0.7 * losses[0]
    found = examiner(look, clips=40)(student)
    kinds = {*topics.CLIPS, "talk", *(f"picture_{kind}" for kind in (*topics.PICTURES, "talk"))}
    assert {f"exact_{kind}" for kind in kinds} == set(found)
    if picture:
        write_folder(student.model, tmp_path, look)
        model = watchword.load(tmp_path)
        assert model.words.text.encode("vanishes")[-1] == look.ids["vanishes"]
