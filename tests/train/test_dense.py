import numpy as np
import torch

from watchword.train import world
from watchword.train.dense import CELLS, SPREAD, lesson
from watchword.train.shapes import ACTIONS, frame_times
from watchword.train.world import render, sample

SCENES = sample(np.random.default_rng(5), 60)
TIMES = np.repeat(frame_times(24, 8)[None], len(SCENES), axis=0)
COVERED = render(SCENES, TIMES, 56)[1]
LESSON = lesson(SCENES, TIMES, COVERED, 4)


def test_lesson_describes_the_object_at_the_patch_of_its_centre():
    state, shown = SCENES.state(TIMES)[..., :3], SCENES.looks(TIMES).shown
    for row, count in enumerate(SCENES.count):
        for place in np.flatnonzero(shown[row, 3, :count]):
            x, y, r = state[row, 3, place]
            patch = int(y * 4) * 4 + int(x * 4)
            assert LESSON.seen[row, 3, patch]
            others = np.delete(state[row, 3, :count], place, axis=0)
            if (np.hypot(others[:, 0] - x, others[:, 1] - y) > 0.4).all():  # the patch is not shared
                assert LESSON.colour[row, 3, patch] in (SCENES.colour[row, place], SCENES.becomes[row, place])
                assert LESSON.shape[row, 3, patch] == SCENES.shape[row, place]
                assert LESSON.action[row, 3, patch] == SCENES.action[row, place]
                expected = torch.tensor([(x - 0.5) / SPREAD, (y - 0.5) / SPREAD, (r - 0.15) / 0.05])
                assert torch.allclose(LESSON.place[row, 3, patch].double(), expected.double(), atol=1e-4)


def test_lesson_names_actions_only_where_they_show():
    gone = LESSON.telling & ~LESSON.seen
    assert (LESSON.action[gone] == ACTIONS.index("vanishes")).all()
    still = LESSON.action == ACTIONS.index("still")
    assert not LESSON.telling[:, 0].any()  # nothing has happened in the first frame
    assert (LESSON.telling[:, -1] >= LESSON.seen[:, -1])[~still[:, -1]].all()


def test_outline_adds_up_to_what_is_covered():
    assert LESSON.outline.shape[-1] == CELLS**2
    assert torch.allclose(LESSON.outline.mean(dim=(2, 3)), COVERED.mean(dim=(2, 3)), atol=1e-5)
    top_left = COVERED[:, :, :14, :14].mean(dim=(2, 3))
    assert torch.allclose(LESSON.outline[:, :, 0].mean(dim=2), top_left, atol=1e-5)


def test_a_lesson_says_what_a_patch_shows_at_the_time():
    worlds = world.sample(np.random.default_rng(3), 200)
    times = np.repeat(frame_times(24, 8)[None], len(worlds), axis=0)
    taught = lesson(worlds, times, world.render(worlds, times, 56)[1], 4)
    state, row_of = worlds.state(times), {name: index for index, name in enumerate(world.ACTIONS)}
    found = {name: 0 for name in ("turns", "becomes", "appears", "vanishes")}
    for row in range(len(worlds)):
        if worlds.count[row] > 1:
            continue  # nobody shares a patch
        x, y = state[row, 0, 0, :2]
        patch, action = int(y * 4) * 4 + int(x * 4), int(worlds.action[row, 0])
        seen, told, colour = (each[row, :, patch] for each in (taught.seen, taught.telling, taught.colour))
        name = world.ACTIONS[action]
        if name in found:
            found[name] += 1
            assert told[-1]
            assert not told[0]
            assert taught.dated[row, -1, patch]
            assert not taught.dated[row, :4].any()
            middle = worlds.span[row, 0].mean()
            assert torch.isclose(taught.when[row, -1, patch].double(), torch.tensor((middle - 0.5) / SPREAD))
        if action == row_of["becomes"]:
            assert (colour[0], colour[-1]) == (worlds.colour[row, 0], worlds.becomes[row, 0])
        if name in ("appears", "vanishes"):
            assert [bool(seen[0]), bool(seen[-1])] == [name == "vanishes", name == "appears"]
            assert taught.count[row, [0, -1]].tolist() == [name == "vanishes", name == "appears"]
        if told.any():
            assert (taught.action[row, :, patch][told] == action).all()
    assert min(found.values()) > 2
