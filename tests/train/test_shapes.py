import numpy as np
import pytest
import torch

from watchword.media.pick import Timeline, uniform
from watchword.train import shapes
from watchword.train.shapes import COLOURS, SHAPES, STEPS, frame_times
from watchword.train.world import ACTIONS, render, sample

SCENES = sample(np.random.default_rng(3), 300)


def test_sample_names_no_two_objects_alike():
    for row in range(len(SCENES)):
        names = [thing.name for thing in SCENES.things(row)]
        assert len(set(names)) == len(names)


def test_objects_stay_inside_the_frame_and_apart():
    state = SCENES.state(np.repeat(np.linspace(0, 1, 21)[None], len(SCENES), axis=0))
    for row, count in enumerate(SCENES.count):
        centre, radius = state[row, :, :count, :2], state[row, :, :count, 2]
        assert (centre - 1.1 * radius[..., None] > 0).all()
        assert (centre + 1.1 * radius[..., None] < 1).all()
        for i in range(count):
            for j in range(i):
                assert (np.hypot(*(centre[:, i] - centre[:, j]).T) > radius[:, i] + radius[:, j]).all()


@pytest.mark.parametrize("action", ["still", *STEPS, "grows", "shrinks"])
def test_objects_do_what_their_action_says(action):
    state = SCENES.state(np.repeat(frame_times(24, 8)[None], len(SCENES), axis=0))
    rows, places = np.nonzero(
        (SCENES.action == ACTIONS.index(action)) & (np.arange(3) < SCENES.count[:, None])
    )
    assert len(rows) > 10
    change = (state[:, -1] - state[:, 0])[rows, places]
    step = np.array(shapes.STEPS.get(action, (0, 0)))
    along = (change[:, :2] * step).sum(axis=1)
    assert (along > 0.2).all() if step.any() else np.allclose(change[:, :2], 0)
    assert np.allclose(change[:, :2] - along[:, None] * step, 0)  # and nowhere else
    growth = {"grows": 1, "shrinks": -1}.get(action, 0)
    assert (change[:, 2] * growth > 0.04).all() if growth else np.allclose(change[:, 2], 0)


def test_things_come_in_the_order_of_colours_then_shapes():
    order = [
        (list(COLOURS).index(t.colour), SHAPES.index(t.shape))
        for t in SCENES.things(int(SCENES.count.argmax()))
    ]
    assert len(order) == 3
    assert order == sorted(order)


def test_render_paints_each_object_in_its_colour_at_its_centre():
    times = np.zeros((len(SCENES), 1))
    frames, covered = render(SCENES, times, 112)
    state = SCENES.state(times)
    for row, count in enumerate(SCENES.count):
        for place in range(count):
            if not state[row, 0, place, 5]:
                continue  # it appears later
            x, y = (state[row, 0, place, :2] * 112).astype(int)
            colour = np.array(list(COLOURS.values()))[SCENES.colour[row, place]] + SCENES.tint[row, place]
            assert np.allclose(frames[row, 0, :, y, x], colour.clip(0, 255), atol=0.5)
            assert covered[row, 0, y, x] == 1


def test_render_covers_as_much_at_any_size():
    times = np.full((len(SCENES), 1), 0.2)
    small, large = (render(SCENES, times, side)[1].mean(dim=(1, 2, 3)) for side in (56, 224))
    assert torch.allclose(small, large, atol=2e-3)
    assert small[SCENES.looks(times).shown.any(axis=(1, 2))].min() > 0.01


def test_render_shows_four_different_shapes():
    one = SCENES.pick(np.flatnonzero(SCENES.count == 1)[:1])
    masks = []
    for index in range(len(SHAPES)):
        one.shape[:, 0] = index
        masks.append(render(one, np.zeros((1, 1)), 56)[1])
    for i in range(len(masks)):
        for j in range(i):
            assert (masks[i] - masks[j]).abs().sum() > 5


@pytest.mark.parametrize("frames", [8, 17, 24, 48])
def test_frame_times_are_those_of_the_documented_choice(frames):
    picked = uniform(8).choose(Timeline(frames))
    assert frame_times(frames, 8).tolist() == frame_times(frames)[list(picked)].tolist()
