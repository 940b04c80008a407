"""The error tree. Everything watchword raises on purpose derives from `WatchwordError`.

A message has four parts: where, what was found, what was expected, what to do.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class WatchwordError(Exception):
    """Root of all errors raised on purpose."""


class ConfigError(WatchwordError, ValueError):
    """A config says something that is not implemented here, or contradicts itself."""


class CheckpointError(WatchwordError, RuntimeError):
    """Files are missing, or names or shapes in them do not fit the model."""


class MediaError(WatchwordError, ValueError):
    """A picture or video cannot be opened or decoded, or does not hold the frames asked for."""


class RequestError(WatchwordError, ValueError):
    """The caller's input does not fit: wrong lengths, unknown options, placeholders without media."""


class UnknownArgument(RequestError, TypeError):
    """A keyword argument that nothing here understands."""


class CapacityError(WatchwordError, RuntimeError):
    """Too long, too many, or out of memory."""


class TrainingError(WatchwordError, RuntimeError):
    """A run cannot go on: its loss is no number, or jumped."""


class MissingExtra(WatchwordError, ImportError):
    """An optional dependency is needed; the message names the extra to install."""


def refuse_unknown(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Check that each name in `given` is in `known`.

    Raises:
        UnknownArgument: for the first that is not; the message names the nearest known one, or all of them.
    """
    known = sorted(known)
    for name in given:
        if name not in known:
            shown = [one for one in known if not one.startswith("_")]
            near = get_close_matches(name, shown, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(shown)}"
            raise UnknownArgument(f"{where}: unknown argument {name!r}; {hint}")
