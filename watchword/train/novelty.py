"""Something new in the wider world, to teach an embedded model: pink things, and things that jump.

    python -m watchword.train.novelty --out clips --clips 2000

writes clips and `clips.jsonl` with questions for `watchword train`. In most of them something is pink, or
jumps, or both; the others show the world as it was, so that it is not forgotten.
"""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from watchword.media.write import write_clip
from watchword.shapes import Tensor, UInt8
from watchword.train import topics, wordings, world
from watchword.train.questions import Asked, called, favoured, one
from watchword.train.shapes import COLOURS, SHAPES, Thing, frame_times
from watchword.train.world import MOST, World

COLOUR, RGB = "pink", (255, 125, 190)
ACTION, WAY = "jumps", "up"
"""What is new: a colour is its RGB value; a movement is a way there, and here back again."""

ASKS = 6
"""Questions to a clip."""
AMISS = ("moves", "stirs", "before")
"""Kinds of questions that know no jumps."""
SIDE, FRAMES = 112, (16, 48)
DRAWN = 1024
"""Worlds that are drawn at once, for few of them have somebody who can jump."""


@dataclass(frozen=True)
class Novel(World):
    """Worlds in which a thing may be of the new colour, or come back to where it was."""

    fresh: np.ndarray  # B N
    back: np.ndarray  # B N

    def progress(self, times: np.ndarray) -> np.ndarray:
        """As in the world; what jumps is there in the middle of its time, and back at the end."""
        done = super().progress(times)
        return np.where(self.back[:, None], 1 - np.abs(1 - 2 * done), done)

    def thing(self, row: int, place: int) -> Thing:
        """One thing in words."""
        found = super().thing(row, place)
        colour = COLOUR if self.fresh[row, place] else found.colour
        return replace(found, colour=colour, action=ACTION if self.back[row, place] else found.action)

    def things(self, row: int) -> list[Thing]:
        """The things of one world, in the order of colours, of which the new one is the last."""
        known = (*COLOURS, COLOUR)
        found = (self.thing(row, place) for place in range(self.count[row]))
        return sorted(found, key=lambda thing: (known.index(thing.colour), SHAPES.index(thing.shape)))


def sample(rng: np.random.Generator, number: int) -> Novel:
    """That many worlds, each with something new: a third in colour, a third in movement, a third in both."""
    parts: list[Novel] = []
    for kind in range(3):
        wanted = (number + kind) // 3
        while wanted > 0:
            parts.append(renewed(rng, world.sample(rng, DRAWN), kind))
            parts[-1] = parts[-1].pick(np.arange(min(wanted, len(parts[-1]))))
            wanted -= len(parts[-1])
    names = [one.name for one in fields(Novel)]
    joined = Novel(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})
    return joined.pick(rng.permutation(number))


def renewed(rng: np.random.Generator, worlds: World, kind: int) -> Novel:
    """Those of the worlds that admit it, with something new: 0 the colour, 1 the movement, 2 both."""
    present = np.arange(MOST) < worlds.count[:, None]
    nobody = np.zeros_like(present)
    plain = present & (worlds.action != world.ACTIONS.index("becomes"))
    rising = present & (worlds.action == world.ACTIONS.index(WAY))
    fresh = nobody if kind == 1 else chosen(rng, plain)
    back = nobody if kind == 0 else chosen(rng, rising)
    fits = (fresh.any(axis=1) | (kind == 1)) & (back.any(axis=1) | (kind == 0))
    own = np.array(list(COLOURS.values()))[worlds.colour]
    tint = np.where(fresh[..., None], np.array(RGB) - own + worlds.tint, worlds.tint)
    whole = {one.name: getattr(worlds, one.name) for one in fields(World)} | {"tint": tint}
    return Novel(**whole, fresh=fresh, back=back).pick(np.flatnonzero(fits))


def chosen(rng: np.random.Generator, may: np.ndarray) -> np.ndarray:
    """One place of each row among those that may be (B N); none where none may."""
    best = np.where(may, rng.random(may.shape), -1).argmax(axis=1)
    return may & (np.arange(may.shape[1]) == best[:, None])


# ---- questions -------------------------------------------------------------------------------------------


def exists(things: Sequence[Thing], rng: np.random.Generator) -> Asked:
    """Whether there is something of the new colour in a shape."""
    pink = [thing.shape for thing in things if thing.colour == COLOUR]
    shape = one(rng, pink) if pink and rng.random() < 0.5 else one(rng, SHAPES)
    question = one(rng, ("Is there a {}?", "Do you see a {}?", "Can you see a {}?"))
    return question.format(f"{COLOUR} {shape}"), "Yes." if shape in pink else "No."


def jumps(things: Sequence[Thing], rng: np.random.Generator) -> Asked:
    """Whether a thing jumps."""
    thing = favoured(things, rng)
    question = one(rng, ("Does the {} jump?", "Does the {} jump in the video?"))
    return question.format(called(thing, things, rng)), "Yes." if thing.action == ACTION else "No."


def asked(things: Sequence[Thing], rng: np.random.Generator) -> list[Asked]:
    """A question of each kind that the things admit, in any order."""
    amiss = AMISS if any(thing.action == ACTION for thing in things) else ()
    kinds = [kind for name, kind in topics.CLIPS.items() if name not in amiss] + [exists, jumps]
    rng.shuffle(kinds)
    return [found for kind in kinds if (found := kind(things, rng)) is not None]


def is_new(pair: Asked) -> bool:
    """Whether a question or its answer has a new word in it."""
    return any(word in text for text in pair for word in (COLOUR, COLOUR.capitalize(), "jump"))


def tells(pair: Asked) -> bool:
    """Whether it takes more than yes or no to answer something new."""
    return is_new(pair) and pair[1] not in ("Yes.", "No.")


def lesson(things: Sequence[Thing], rng: np.random.Generator) -> list[Asked]:
    """Questions to a clip: those about what is new before others, but for one; worded as people type."""
    pairs = sorted(asked(things, rng), key=lambda pair: not is_new(pair))
    kept = pairs[: ASKS - 1] + pairs[-1:]
    return [(wordings.roughen(question, rng), answer) for question, answer in kept]


# ---- clips -----------------------------------------------------------------------------------------------


def frames_of(worlds: World, row: int, rng: np.random.Generator) -> UInt8[Tensor, "T h w 3"]:
    """One world as frames for a file."""
    times = frame_times(int(rng.integers(*FRAMES, endpoint=True)))[None]
    pixels = world.render(worlds.pick(np.array([row])), times, SIDE)[0][0]
    return pixels.round().byte().permute(0, 2, 3, 1).contiguous()


def write(folder: str | os.PathLike, clips: int, *, seed: int, old: float = 0.4) -> Path:
    """Clips and their questions.

    Args:
        old: share of clips that show nothing new.

    Returns:
        The file of lines for `watchword train`.
    """
    rng, place = np.random.default_rng((seed, 11)), Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    count = round(clips * old)
    both = [(found, row) for found in (sample(rng, clips - count), world.sample(rng, count))
            for row in range(len(found))]  # fmt: skip
    lines = []
    for number, at in enumerate(rng.permutation(clips)):
        found, row = both[at]
        write_clip(place / f"{number}.mp4", frames_of(found, row, rng))
        pairs = lesson(found.things(row), rng)
        turns = [{"question": question, "answer": answer} for question, answer in pairs]
        lines.append(json.dumps({"video": f"{number}.mp4", "turns": turns}) + "\n")
    path = place / "clips.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def exam(model: Any, folder: str | os.PathLike, clips: int, *, seed: int, new: bool) -> float:
    """The share of questions that a loaded model answers exactly, one to each of so many unseen clips.

    Args:
        model: a `watchword.Pipeline`.
        folder: where a clip is written.
        new: clips with something new, asked about that and not to be answered by yes or no; else clips of the
            world as it was.
    """
    rng, path = np.random.default_rng((seed, 12, new)), Path(folder) / "exam.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    found = sample(rng, clips) if new else world.sample(rng, clips)
    right = []
    for row in range(clips):
        pairs = asked(found.things(row), rng)
        question, answer = next(pair for pair in pairs if (tells(pair) if new else not is_new(pair)))
        write_clip(path, frames_of(found, row, rng))
        right.append(model.ask(path, question).text == answer)
    return float(np.mean(right))


def main() -> None:
    """Write clips to learn from."""
    parser = argparse.ArgumentParser(description="Clips of pink things and things that jump, with questions")
    parser.add_argument("--out", type=Path, default=Path("clips"))
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(write(options.out, options.clips, seed=options.seed))


if __name__ == "__main__":
    main()
