"""Spellings of weight names: small tables of rules, and their exact inverse.

A rule speaks of whole names. `{n}` stands for a number, `{rest}` for any tail:

    Rename("model.image_tower.{rest}", "image_tower.{rest}")

In a table each name matches exactly one rule. A name that matches none belongs to no known spelling, and the
loader reports it as extra; one that matches two is a mistake in the table.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from watchword.errors import CheckpointError
from watchword.shapes import Tensor

HOLES = {"{n}": r"(?P<n>\d+)", "{rest}": r"(?P<rest>.+)"}


@dataclass(frozen=True)
class Rename:
    """One tensor under another name: `old` in the file, `new` in the module."""

    old: str
    new: str


@dataclass(frozen=True)
class Join:
    """Several tensors of the file that are one in the module, one after the other along the first axis.

    None stands for zeros like the first part: `Join(("{n}.q_bias", None, "{n}.v_bias"), "{n}.qkv.bias")`.
    """

    old: tuple[str | None, ...]
    new: str


@dataclass(frozen=True)
class Drop:
    """A tensor of the file that the module does not want; the load report says `why`."""

    old: str
    why: str


Rule = Rename | Join | Drop
Rules = Sequence[Rule]

SAME: Rules = (Rename("{rest}", "{rest}"),)
"""The canonical spelling: names in the file are names in the module."""


@dataclass(frozen=True)
class Spelling:
    """What a table makes of the names in a file."""

    sources: Mapping[str, tuple[str | None, ...]]
    """Name in the module → names in the file, which are joined if there are several; None means zeros."""
    dropped: Mapping[str, str]
    """Name in the file → why it is not wanted."""
    unknown: tuple[str, ...]
    """Names in the file that match no rule, whose companions are missing, or whose place is taken already."""


def spell(names: Iterable[str], rules: Rules) -> Spelling:
    """What the names of a file mean to the module.

    Raises:
        CheckpointError: a name that two rules match.
    """
    present = list(names)
    known = set(present)
    sources: dict[str, tuple[str | None, ...]] = {}
    dropped: dict[str, str] = {}
    unknown: list[str] = []
    for name in present:
        rule, holes = _only_match(name, rules)
        if isinstance(rule, Drop):
            dropped[name] = rule.why
            continue
        parts = () if rule is None else tuple(p and _fill(p, holes) for p in _parts(rule))
        incomplete = any(part is not None and part not in known for part in parts)
        if rule is None or incomplete or sources.setdefault(_fill(rule.new, holes), parts) != parts:
            unknown.append(name)
    return Spelling(sources, dropped, tuple(unknown))


def respell(state: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """A module's state under the names of a file: the inverse of `spell`.

    Raises:
        CheckpointError: a name that no rule or several rules make, or values where only zeros have room.
    """
    makers = [rule for rule in rules if not isinstance(rule, Drop)]
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        made_by = [(rule, holes) for rule in makers if (holes := _holes(rule.new, name)) is not None]
        if len(made_by) != 1:
            raise CheckpointError(
                f"{name}: made by {len(made_by)} rules ({_listed([rule for rule, _ in made_by])}); "
                "expected one; correct the table of this spelling"
            )
        rule, holes = made_by[0]
        parts = _parts(rule)
        pieces = tensor.chunk(len(parts)) if len(parts) > 1 else (tensor,)
        for part, piece in zip(parts, pieces, strict=True):
            if part is not None:
                out[_fill(part, holes)] = piece
            elif piece.any():
                raise CheckpointError(
                    f"{name}: {piece.count_nonzero()} values are not zero where this spelling stores "
                    "nothing; save in the canonical spelling"
                )
    return out


def assemble(parts: Sequence[Tensor | None]) -> Tensor:
    """One tensor from its parts; None stands for zeros like the first."""
    if len(parts) == 1 and parts[0] is not None:
        return parts[0]
    first = next(part for part in parts if part is not None)
    return torch.cat([torch.zeros_like(first) if part is None else part for part in parts])


def matches(name: str, patterns: Iterable[str]) -> bool:
    """True when a name fits one of the patterns, as a whole."""
    return any(_holes(pattern, name) is not None for pattern in patterns)


def _only_match(name: str, rules: Rules) -> tuple[Rule | None, dict[str, str]]:
    """The one rule that a name of the file matches, with what fills its holes; None when there is none."""
    found = [
        (rule, holes)
        for rule in rules
        for part in _parts(rule)
        if part is not None and (holes := _holes(part, name)) is not None
    ]
    if len(found) > 1:
        raise CheckpointError(
            f"{name}: matches {len(found)} rules ({_listed([rule for rule, _ in found])}); expected one; "
            "make the patterns of the table exclude each other"
        )
    return found[0] if found else (None, {})


def _parts(rule: Rule) -> tuple[str | None, ...]:
    return rule.old if isinstance(rule, Join) else (rule.old,)


def _listed(rules: Sequence[Rule]) -> str:
    return ", ".join(f"{rule.old!r} → {getattr(rule, 'new', 'dropped')!r}" for rule in rules) or "none"


def _holes(pattern: str, name: str) -> dict[str, str] | None:
    """What fills the holes of a pattern to make this name; None when nothing does."""
    found = _regex(pattern).fullmatch(name)
    return None if found is None else found.groupdict()


@cache
def _regex(pattern: str) -> re.Pattern[str]:
    escaped = re.escape(pattern)
    for hole, regex in HOLES.items():
        escaped = escaped.replace(re.escape(hole), regex)
    return re.compile(escaped)


def _fill(pattern: str, holes: Mapping[str, str]) -> str:
    for key, value in holes.items():
        pattern = pattern.replace("{" + key + "}", value)
    return pattern
