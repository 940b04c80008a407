"""All that is wrong with the data, found before the first step: lines, media, lengths."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from watchword.errors import MediaError, RequestError, WatchwordError
from watchword.media.decode import read_media
from watchword.media.gate import OPEN, Policy, admit
from watchword.media.pick import uniform
from watchword.train.encoding import Encoder
from watchword.train.examples import DataSet, Example, Fault, Kind, Medium
from watchword.train.saves import write_lines
from watchword.train.templates import wordings

SHOWN = 20
"""Faults that a message tells; the file has all."""


@dataclass
class Looked:
    """What is known of a medium: how many frames of it are looked at; or what is wrong with it."""

    kind: Kind
    frames: int = 0
    wrong: str = ""


@dataclass
class Checked:
    """Examples that can be learned from.

    Attributes:
        examples: of all data sets, one after the other.
        groups: the numbers of the examples of each data set.
        lengths: positions of each example's longest row.
        learned: ids that are learned of each.
        frames: of each medium of each example its kind, and how many frames of it are looked at.
        faults: what is wrong with the others.
        notes: what a user should know.
    """

    examples: list[Example] = field(default_factory=list)
    groups: list[list[int]] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    learned: list[int] = field(default_factory=list)
    frames: list[tuple[tuple[Kind, int], ...]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Limits:
    """What a row may take; None where nothing ends it.

    Attributes:
        positions: of the text model.
        told: words of the instruction, for the Q-Former.
        why: where the first comes from.
    """

    positions: int | None
    told: int | None
    why: str


def limits_of(config: Any, asked: int | None) -> Limits:
    """The limits of a model, and the one asked for."""
    text = config.text_config
    own = None if text.is_encoder_decoder else getattr(text, "max_position_embeddings", None)
    told = config.qformer_config.max_position_embeddings if hasattr(config, "qformer_config") else None
    if asked is not None and (own is None or asked <= own):
        return Limits(asked, told, "max_length")
    return Limits(own, told, "the text model's max_position_embeddings")


def look_at(
    media: Iterable[Medium],
    frames: int,
    *,
    quick: bool,
    workers: int,
    policy: Policy = OPEN,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Medium, Looked]:
    """Read each medium once, as it will be read while training; or only let it through the gate."""
    distinct = list(dict.fromkeys(media))
    found: dict[Medium, Looked] = {}
    with ThreadPoolExecutor(max(1, workers)) as pool:  # decoders and resizers let other threads run
        for done, (one, looked) in enumerate(
            zip(distinct, pool.map(lambda one: look(one, frames, quick, policy), distinct)), start=1
        ):
            found[one] = looked
            tell(done, len(distinct))
    return found


def look(medium: Medium, frames: int, quick: bool, policy: Policy) -> Looked:
    """Read one medium."""
    try:
        if quick:
            if isinstance(medium.source, str):
                admit(medium.source, policy)
            return Looked(medium.kind, 1 if medium.kind == "picture" else frames)
        clip = read_media(medium.open(), uniform(frames), policy=policy)
    except (WatchwordError, LookupError, OSError, ValueError, TypeError) as error:
        told = str(error) if isinstance(error, WatchwordError) else f"{type(error).__name__}: {error}"
        return Looked(medium.kind, wrong=told)
    if clip.kind != medium.kind:
        field_name = "image" if medium.kind == "picture" else "video"
        return Looked(
            medium.kind, wrong=f"{medium.name}: is a {clip.kind}, but the line calls it {field_name}"
        )
    return Looked(clip.kind, len(clip.frames))


def check(
    sets: Sequence[DataSet], encoder: Encoder, looked: Mapping[Medium, Looked], limits: Limits
) -> Checked:
    """Sort the examples: those that can be learned from, and what is wrong with the others."""
    found = Checked()
    lacking: list[Example] = []
    for data in sets:
        found.faults += data.faults
        found.notes += data.notes
        group: list[int] = []
        for example in data.examples:
            wrong = next((looked[one].wrong for one in example.media if looked[one].wrong), "")
            try:
                if wrong:
                    raise MediaError(wrong)
                seen = tuple((looked[one].kind, looked[one].frames) for one in example.media)
                length, learned, known = measured(example, seen, encoder, limits)
            except WatchwordError as error:
                found.faults.append(Fault(example.where, str(error), example.raw))
                continue
            group.append(len(found.examples))
            found.examples.append(example)
            found.lengths.append(length)
            found.learned.append(learned)
            found.frames.append(seen)
            lacking += [] if known else [example]
        found.groups.append(group)
    if lacking:
        first = lacking[0]
        found.notes.append(
            f"{len(lacking)} examples have answers with words that the model's vocabulary lacks; it learns "
            f"{encoder.words.text.unk_token!r} for those; the first is {first.where}"
        )
    return found


def measured(
    example: Example, seen: tuple[tuple[Kind, int], ...], encoder: Encoder, limits: Limits
) -> tuple[int, int, bool]:
    """Positions of an example's longest row, the ids that it teaches, and whether the vocabulary has all
    words of its answers; under its longest wording.

    Raises:
        RequestError: a row, or an instruction, that is too long.
    """
    if example.task is not None:  # whichever wording is drawn later, it fits
        kind = seen[0][0] if seen else "text"
        task = example.task
        turns = tuple(
            type(turn)(max(wordings(task, turn.question, kind), key=len), turn.answer)
            for turn in example.turns
        )
        example = Example(example.where, example.raw, example.media, turns)
    rows = encoder.rows(example, seen)
    longest = max(row.positions for row in rows)
    if encoder.config.text_config.is_encoder_decoder:
        longest = max(longest, max(len(row.labels) for row in rows))
    if limits.positions is not None and longest > limits.positions:
        answer = max(row.learned for row in rows)
        raise RequestError(
            f"takes {longest} positions, {answer} of them answers; at most {limits.positions} are allowed "
            f"({limits.why}); shorten it, take fewer frames, or divide the conversation"
        )
    told = max(len(row.told) for row in rows)
    if limits.told is not None and told > limits.told:
        raise RequestError(
            f"the question has {told} tokens; the Q-Former reads at most {limits.told}; shorten it"
        )
    unknown = encoder.words.text.unk_token_id
    apart = unknown not in (None, encoder.end)  # OPT's is the end of every answer too
    known = not apart or not any(unknown in row.labels for row in rows)
    return longest, sum(row.learned for row in rows), known


def settle(found: Checked, *, skip_bad: bool, aside: Path) -> None:
    """Go on, or say what is wrong. What is left out is written aside, and nothing vanishes.

    Raises:
        RequestError: lines are wrong and are not to be left out; or nothing is left.
    """
    if found.faults and skip_bad:
        told = ({"where": one.where, "error": one.message, "line": one.raw} for one in found.faults)
        write_lines(aside, told)
        found.notes.append(f"{len(found.faults)} lines are left out; {aside} has them and what is wrong")
    elif found.faults:
        told = "\n".join(f"  {one}" for one in found.faults[:SHOWN])
        more = f"\n  and {len(found.faults) - SHOWN} more" if len(found.faults) > SHOWN else ""
        total = len(found.faults) + len(found.examples)
        raise RequestError(
            f"{len(found.faults)} of {total} lines cannot be learned from; repair them, or leave them out "
            f"with --skip-bad:\n{told}{more}"
        )
    if empty := [number for number, group in enumerate(found.groups) if not group]:
        raise RequestError(
            f"data set {empty[0] + 1} of {len(found.groups)}: no line can be learned from; expected at "
            "least one"
        )
