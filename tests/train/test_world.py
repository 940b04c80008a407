"""What a world says of itself is what its frames show: here it is read from the pixels alone."""

import numpy as np
import pytest
import torch

from watchword.train import world
from watchword.train.shapes import COLOURS, MOST, frame_times
from watchword.train.world import ACTIONS, render, sample

SIDE = 112
PALETTE = torch.tensor(list(COLOURS.values()), dtype=torch.float32)


def distinct(number, seed=3):
    """Worlds whose colours, old and new, are all different, so that a colour is a thing."""
    worlds = sample(np.random.default_rng(seed), number * 4)
    good = []
    for row in range(len(worlds)):
        used = [each for one in worlds.things(row) for each in (one.colour, one.becomes) if each]
        if len(set(used)) == len(used):
            good.append(row)
    return worlds.pick(np.array(good[:number]))


def masks(worlds, picked):
    """Which pixels have which colour: B T colours h w."""
    times = np.repeat(frame_times(24, picked)[None], len(worlds), axis=0)
    frames, _ = render(worlds, times, SIDE)
    apart = (frames[:, :, None] - PALETTE[:, :, None, None]).abs().amax(dim=3)
    return apart < 45


def read(mask):
    """The things in a clip's masks (T colours h w), as (colour, shape, size, action, new colour, when)."""
    area = mask.sum(dim=(2, 3))
    there = area > 12
    tracks = [c for c in range(len(COLOURS)) if there[:, c].any()]
    early = [c for c in tracks if there[0, c]]
    late = [c for c in tracks if not there[0, c]]
    found = []
    for c in early:
        heirs = [d for d in late if not there[-1, c] and near(mask, c, d)]
        if heirs:
            late.remove(heirs[0])
            found.append((*seen(mask, c), "becomes", heirs[0], first_change(there[:, c])))
        elif not there[-1, c]:
            found.append((*seen(mask, c), "vanishes", None, first_change(there[:, c])))
        else:
            found.append((*seen(mask, c), *change(mask[:, c], area[:, c])))
    return found + [(*seen(mask, c), "appears", None, first_change(there[:, c])) for c in late]


def near(mask, c, d):
    """Whether one colour stands at the end where the other stood at the start."""
    return max(abs(a - b) for a, b in zip(centre(mask[0, c]), centre(mask[-1, d]))) < 0.02


def centre(mask):
    y, x = mask.nonzero().float().mean(dim=0).add(0.5).div(SIDE).tolist()
    return x, y


def box(mask):
    """Middle of the box around it, and its width and height."""
    y, x = (mask.nonzero()[:, i] for i in (0, 1))
    (left, right), (top, bottom) = ((float(a.min()), float(a.max()) + 1) for a in (x, y))
    return (left + right) / 2 / SIDE, (top + bottom) / 2 / SIDE, (right - left) / SIDE, (bottom - top) / SIDE


def seen(mask, c):
    """Colour, shape and size of a colour's thing where it is first seen whole."""
    area = mask[:, c].sum(dim=(1, 2))
    whole = mask[int((area > 0.9 * area[area > 0][0]).nonzero()[0]) if area[0] else int(area.argmax()), c]
    _, middle, width, height = box(whole)
    filled = float(whole.sum()) / (width * height * SIDE**2)
    if (centre(whole)[1] - middle) / height > 0.08:
        shape = "triangle"
    else:
        shape = "square" if filled > 0.93 else "circle" if filled > 0.7 else "cross"
    return tuple(COLOURS)[c], shape, "small" if height < 0.258 else "large"


def first_change(there):
    return float((there != there[0]).nonzero()[0])


def change(mask, area):
    """What a thing does that is there all the time, its new colour, and when it is half done."""
    (x, y), (u, v) = centre(mask[0]), centre(mask[-1])
    if max(abs(u - x), abs(v - y)) > 0.12:
        action = ("left", "right")[u > x] if abs(u - x) > abs(v - y) else ("up", "down")[v > y]
        gone = [max(abs(a - x), abs(b - y)) for a, b in map(centre, mask)]
        return action, None, half(gone)
    ratio = float(area[-1] / area[0])
    if not 0.7 < ratio < 1.4:
        return "grows" if ratio > 1 else "shrinks", None, half([abs(float(a - area[0])) for a in area])
    apart = [float((one ^ mask[0]).sum() / area[0]) for one in mask]
    return ("turns", None, half(apart)) if max(apart) > 0.12 else ("still", None, None)


def half(values):
    """The frame by which a change has begun in earnest."""
    return float(next(at for at, value in enumerate(values) if value > 0.4 * max(values)))


@pytest.mark.parametrize("picked", [8, 4])
def test_frames_show_what_the_things_say(picked):
    worlds = distinct(100)
    every = masks(worlds, picked)
    for row in range(len(worlds)):
        told = {(t.colour, t.shape, t.size, t.action, t.becomes) for t in worlds.things(row)}
        found = read(every[row])
        shown = {
            (colour, shape, size, action, "" if new is None else tuple(COLOURS)[new])
            for colour, shape, size, action, new, _ in found
        }
        assert shown == told
        order = {t.colour: t.order for t in worlds.things(row) if t.order}
        when = {colour: at for colour, *_, at in found if colour in order}
        if order:
            one, two = sorted(order, key=order.__getitem__)
            assert when[one] < when[two]


def test_paths_are_where_things_are():
    worlds = distinct(50)
    every = masks(worlds, 8)
    for row in range(len(worlds)):
        for thing in worlds.things(row):
            mask = every[row, :, list(COLOURS).index(thing.colour)]
            if mask[0].sum() > 12:
                x, y = centre(mask[0]) if thing.shape != "triangle" else box(mask[0])[:2]
                assert abs(x - thing.path[0][0]) < 0.02
                assert abs(y - thing.path[0][1]) < (0.05 if thing.shape == "triangle" else 0.02)


def test_everything_happens_about_as_often_and_nothing_touches():
    worlds = sample(np.random.default_rng(0), 1500)
    assert world.roomy(worlds).all()
    present = np.arange(MOST) < worlds.count[:, None]
    share = np.bincount(worlds.action[present], minlength=len(ACTIONS)) / (worlds.action[present] > 0).sum()
    for name, part in zip(ACTIONS[1:], share[1:]):
        assert 0.04 < part < 0.2, name
    assert np.bincount(worlds.count).tolist() == [0, 500, 500, 500]
    two = (worlds.action[:, 1] > 0) & (worlds.count > 1)
    assert 0.6 < (worlds.order[two].max(axis=1) > 0).mean() < 0.73
    assert set(worlds.order[~two].ravel()) == {0}


def test_the_same_seed_draws_the_same_worlds_and_pictures_stand_still():
    first, second = (sample(np.random.default_rng(7), 30) for _ in range(2))
    assert [first.things(row) for row in range(30)] == [second.things(row) for row in range(30)]
    still = sample(np.random.default_rng(7), 30, still=True)
    assert not still.action.any()
    frames, _ = render(still, np.repeat([[0.0, 0.4, 1.0]], 30, axis=0), 28)
    assert torch.equal(frames[:, 0], frames[:, 2])


def test_clips_and_pictures_are_frames_for_files():
    made = list(world.clips(1, 20, 48))
    assert all(16 <= len(frames) <= 48 and frames.shape[1:] == (48, 48, 3) for _, frames in made)
    assert {len(each) for each, _ in made} == {1}
    assert {int(each.count[0]) for each, _ in made} > {1, 2}
    pictures = list(world.clips(1, 20, 48, still=True))
    assert {len(frames) for _, frames in pictures} == {1}
    assert not any(each.action.any() for each, _ in pictures)
    again = [frames for _, frames in world.clips(1, 20, 48)]
    assert all(torch.equal(one, other) for (_, one), other in zip(made, again))


def test_no_circle_turns_and_new_colours_are_new():
    worlds = sample(np.random.default_rng(2), 900)
    for row in range(len(worlds)):
        things = worlds.things(row)
        for thing in things:
            assert (thing.action, thing.shape) != ("turns", "circle")
            assert thing.becomes not in [other.colour for other in things]
            assert bool(thing.becomes) == (thing.action == "becomes")
