"""From data and a checkpoint to all that a run needs, and the proof that it is the same when resumed."""

import errno
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from watchword.errors import RequestError
from watchword.train import order as ordering
from watchword.train.checking import Checked, Looked, check, limits_of, look_at, settle
from watchword.train.encoding import Encoder
from watchword.train.examples import DataSet, Medium
from watchword.train.formats import read_data
from watchword.train.opening import Opened, identity
from watchword.train.options import Options, record
from watchword.train.parallel import Team
from watchword.train.saves import replace_text, steps_saved

RUN, MEDIA, BAD, LOCK = "run.json", "media.json", "bad.jsonl", ".lock"
HELD_OUT_SHARE, MOST_HELD_OUT = 0.05, 100
Tell = Callable[[str], None]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What is learned from, and when.

    Attributes:
        data: the examples.
        order: the numbers of the examples of each step.
        held_out: the numbers of those that measure.
        digest: names the examples and their media.
    """

    data: Checked
    order: np.ndarray
    held_out: tuple[int, ...]
    digest: str


def plan(
    sources: Sequence[Any],
    opened: Opened,
    chosen: Options,
    out: Path,
    *,
    team: Team,
    resume: bool,
    tell: Tell,
) -> Plan:
    """Read and check the data, set some aside, and draw the order.

    Raises:
        RequestError: data that cannot be learned from; fewer processes' shares than a step has.
    """
    sets = [read_data(one, root=chosen.root) for one in sources]
    digest = digest_of(sets)
    frames = chosen.frames or opened.family.frames
    looked = looked_at(sets, digest, frames, chosen, out, team=team, resume=resume, tell=tell)
    encoder = Encoder(opened.family, opened.config, opened.words, chosen.turns == "apart")
    data = check(sets, encoder, looked, limits_of(opened.config, chosen.max_length))
    settle(data, skip_bad=chosen.skip_bad, aside=out / BAD)
    for note in data.notes:
        tell(note)
    keys = [[one.source for one in example.media] for example in data.examples]
    aside = ordering.held_out(keys, held_out_count(len(keys), chosen), chosen.seed)
    groups = [[one for one in group if one not in aside] for group in data.groups]
    if not all(groups):
        raise RequestError(
            f"hold_out={len(aside)}: nothing is left of a data set; hold out fewer of its examples"
        )
    if chosen.batch % team.world:
        raise RequestError(
            f"batch={chosen.batch}: cannot be divided by {team.world} processes; expected a multiple"
        )
    learned_from = sum(map(len, groups))
    steps = chosen.steps or max(1, round(chosen.epochs * learned_from / chosen.batch))
    drawn = ordering.order(
        groups,
        ordering.shares([len(group) for group in groups], chosen.weights, chosen.cap),
        data.lengths,
        batch=chosen.batch,
        steps=steps,
        seed=chosen.seed,
    )
    return Plan(data, drawn, tuple(sorted(aside)), digest)


def held_out_count(examples: int, chosen: Options) -> int:
    """How many examples measure and do not teach."""
    if chosen.hold_out is not None:
        return chosen.hold_out
    return min(MOST_HELD_OUT, int(examples * HELD_OUT_SHARE))


def looked_at(
    sets: Sequence[DataSet],
    digest: str,
    frames: int,
    chosen: Options,
    out: Path,
    *,
    team: Team,
    resume: bool,
    tell: Tell,
) -> dict[Medium, Looked]:
    """Every medium read once, by the leading process; not again when a run goes on with the same files."""
    media = list(dict.fromkeys(one for data in sets for example in data.examples for one in example.media))
    path, name = out / MEDIA, f"{digest} {frames} {chosen.check}"
    told: list[list[Any]] | None = None
    if team.leads:
        known = json.loads(path.read_text()) if resume and path.exists() else {}
        told = known.get("media") if known.get("of") == name else None
        if told is None:
            tell(
                f"reading {len(media)} pictures and clips"
                if chosen.check == "full"
                else "quick check of media"
            )
            found = look_at(media, frames, quick=chosen.check == "quick", workers=max(1, chosen.workers))
            told = [[found[one].frames, found[one].wrong] for one in media]
            replace_text(path, json.dumps({"of": name, "media": told}))
    told = team.shared(told)
    return {
        one: Looked(one.kind, count, wrong) for one, (count, wrong) in zip(media, told or (), strict=True)
    }


def digest_of(sets: Sequence[DataSet]) -> str:
    """A name for all lines, and for the files that they name: path, size and time of the last change."""
    found = hashlib.sha256()
    for data in sets:
        for example in data.examples:
            found.update(repr((example.turns, example.task)).encode())
            found.update(repr([(one.kind, one.identity()) for one in example.media]).encode())
        found.update(repr([(one.where, one.raw) for one in data.faults]).encode())
    return found.hexdigest()


def begin(out: Path, resume: bool) -> IO[str]:
    """A folder for a new run, or that of one to go on with.

    Returns:
        A file that keeps others from training there, while it is open; it closes with its process.

    Raises:
        RequestError: a run is there and is not to be resumed; or none is there; or another process trains.
    """
    there = (out / RUN).exists()
    if resume and not there:
        raise RequestError(f"{out}: holds no run to go on with; leave out --resume, or name another folder")
    if there and not resume:
        told = f"saved up to step {steps_saved(out)[-1]}" if steps_saved(out) else "without a checkpoint yet"
        raise RequestError(f"{out}: holds a run already, {told}; go on with --resume, or name another folder")
    if out.exists() and not out.is_dir():
        raise RequestError(f"{out}: is a file; name a folder for the run")
    out.mkdir(parents=True, exist_ok=True)
    return locked(out)


def locked(folder: Path) -> IO[str]:
    """An open file that no other process has open so. Children, such as those that read data, do not hold it.

    Raises:
        RequestError: another one has.
    """
    file = (folder / LOCK).open("a")
    try:
        import fcntl  # not on Windows, where nobody is kept out

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        return file
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            logger.warning("%s: cannot be kept from others (%s); train there once", folder, error.strerror)
            return file
        file.close()
        raise RequestError(
            f"{folder}: another process is training here; wait until it ends, or name another folder"
        ) from error
    return file


def same(out: Path, facts: dict[str, Any], resume: bool) -> None:
    """Write down what the run is; when it goes on, refuse to go on with something else.

    Raises:
        RequestError: other data, another model, another recipe, other options; the message names the first.
    """
    if not resume:
        replace_text(out / RUN, json.dumps(facts, indent=1) + "\n")
        return
    before = json.loads((out / RUN).read_text())
    for name, now in facts.items():
        if before.get(name) == now:
            continue
        if name == "data":
            raise RequestError(
                f"{out}: was begun with other data (a line, a file or its date has changed); go on with what "
                "it was begun with, or begin a new run"
            )
        if name == "options":
            then = before.get(name, {})
            other = next(one for one in now if then.get(one) != now[one])
            raise RequestError(
                f"{out}: was begun with {other}={then.get(other)!r}, not {now[other]!r}; go on with the same "
                "options, or begin a new run"
            )
        raise RequestError(
            f"{out}: was begun with {name} {before.get(name)!r}, not {now!r}; go on with the same, or "
            "begin a new run"
        )


def facts_of(opened: Opened, recipe: str, chosen: Options, digest: str, team: Team) -> dict[str, Any]:
    """What has to be the same for a run to go on."""
    return {
        "form": "watchword run 1",
        "model": opened.name,
        "checkpoint": identity(opened.folder),
        "recipe": recipe,
        "processes": team.world,
        "options": record(chosen),
        "data": digest,
    }
