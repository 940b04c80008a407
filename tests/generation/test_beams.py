import math

import pytest
import torch

from watchword.generation.beams import Beams, fill_after_end
from watchword.generation.options import GenerationOptions
from watchword.shapes import Tensor

END = 0


def made(items: int, most: int = 30, **options) -> Beams:
    settings = dict(num_beams=1, eos_token_ids=(END,), max_new_tokens=most) | options
    return Beams(items, GenerationOptions(**settings), torch.device("cpu"))


def step(beams: Beams, *scores: list[float]) -> tuple[list[int], list[int]]:
    def ended(ids: Tensor) -> Tensor:
        return (ids[:, -1] == END) | (ids.shape[1] == beams.options.max_new_tokens)

    ids, rows = beams.step(torch.tensor(scores), ended)
    return ids.tolist(), rows.tolist()


def test_beams_start_from_one():
    beams = made(1, num_beams=2)
    ids, rows = step(beams, [-9.0, -1.0, -2.0, -3.0], [0.0, 0.0, 0.0, 0.0])
    assert (ids, rows) == ([1, 2], [0, 0])


def test_beams_continue_the_best_of_all():
    beams = made(2, num_beams=2)
    first = [-9.0, -1.0, -1.5, -9.0]
    step(beams, first, first, first, first)
    ids, rows = step(
        beams,
        [-9.0, -5.0, -5.0, -4.0],
        [-9.0, -1.0, -9.0, -2.0],
        [-9.0, -1.0, -1.1, -9.0],
        [-9.0, -3.0, -3.5, -9.0],
    )
    assert ids == [1, 3, 1, 2]
    assert rows == [1, 1, 2, 2]
    assert beams.running.ids[0, :, :2].tolist() == [[2, 1], [2, 3]]
    assert beams.running.scores[0].tolist() == [-2.5, -3.5]


def test_beams_only_the_best_candidates_may_finish():
    beams = made(1, num_beams=2)
    step(beams, [-3.0, -1.0, -2.0], [-9.0, -9.0, -9.0])
    assert beams.is_finished.tolist() == [[False, False]]
    step(beams, [-0.5, -3.0, -4.0], [-9.0, -1.0, -9.0])
    assert beams.is_finished.tolist() == [[True, False]]
    assert beams.finished.ids[0, 0, :2].tolist() == [1, END]
    assert beams.finished.scores[0, 0].item() == pytest.approx(-1.5 / 2)


def test_beams_take_nothing_more_once_improvement_was_ruled_out():
    beams = made(2, length_penalty=5.0)
    step(beams, [-0.1, -2.3, -9.0], [-9.0, -0.1, -2.3])
    assert beams.hopeful.tolist() == [[False], [True]]
    assert not beams.done
    step(beams, [-0.001, -9.0, -9.0], [-0.1, -9.0, -9.0])  # -2.3 / 2^5 would beat -0.1 now
    assert beams.done
    best = beams.result()
    assert best.ids[:, 0].tolist() == [[END, END], [1, END]]
    assert best.scores[:, 0].tolist() == pytest.approx([-0.1, -0.2 / 32])


@pytest.mark.parametrize(
    ("early", "length_penalty", "done"),
    [
        (False, 1.0, True),
        ("never", 1.0, False),
        ("never", -1.0, True),
        ("never", 0.0, True),
        (True, 1.0, True),
    ],
)
def test_beams_are_done_when_no_better_one_can_come(early, length_penalty, done):
    beams = made(1, early_stopping=early, length_penalty=length_penalty)
    step(beams, [-0.1, -2.3, -9.0])  # -2.3 over 30 tokens is better than -0.1, over one it is not
    assert beams.done is done


def test_beams_finish_everything_at_the_last_token():
    beams = made(1, most=2, num_beams=2)
    step(beams, [-9.0, -1.0, -2.0], [-9.0, -9.0, -9.0])
    step(beams, [-9.0, -1.0, -4.0], [-9.0, -1.0, -4.0])
    assert beams.done
    assert beams.finished.ids[0].tolist() == [[1, 1], [2, 1]]
    assert beams.finished.scores[0].tolist() == [-1.0, -1.5]
    assert beams.result().origin.tolist() == [[[0, 0]]]


def test_beams_sample_without_replacement():
    beams = made(1, num_beams=2, do_sample=True)
    torch.manual_seed(0)
    ids, rows = step(beams, [-9.0, math.log(0.4), math.log(0.3), math.log(0.3)], [0.0] * 4)
    assert len(set(ids)) == 2
    assert rows == [0, 0]


@pytest.mark.parametrize(
    ("options", "fill"),
    [
        (dict(eos_token_ids=(2,), pad_token_id=5), 5),
        (dict(eos_token_ids=(2,), pad_token_id=0), 2),
        (dict(eos_token_ids=(2, 3)), 2),
        (dict(pad_token_id=0), 0),
        (dict(), -1),
    ],
)
def test_beams_fill(options, fill):
    assert fill_after_end(GenerationOptions(**options)) == fill
