"""Documented signatures that say which argument was meant, and what it should have been."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from watchword.errors import RequestError, refuse_unknown
from watchword.shapes import Tensor


def refuse_others(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let a method with a documented signature (no `**kwargs`) say which argument was meant."""
    known = [name for name in inspect.signature(method).parameters if name != "self"]

    @functools.wraps(method)
    def checked(self: object, *args: Any, **kwargs: Any) -> Any:
        refuse_unknown(f"{type(self).__name__}.{method.__name__}", kwargs, known)
        return method(self, *args, **kwargs)

    return checked


def own_arguments(method: Callable[..., Any]) -> list[str]:
    """The names that a method takes itself."""
    parameters = inspect.signature(method).parameters.values()
    return [one.name for one in parameters if one.name != "self" and one.kind is not one.VAR_KEYWORD]


def tensors(where: str, **given: Any) -> None:
    """Refuse what is neither a tensor nor None.

    Raises:
        RequestError: it is something else, such as the lists that a processor returns without
            `return_tensors`.
    """
    for name, value in given.items():
        if value is not None and not isinstance(value, Tensor):
            raise RequestError(
                f"{where}: {name} is a {type(value).__name__}; expected a tensor; have the processor make it "
                "with return_tensors='pt'"
            )


def rows_of(name: str, ids: Any, rows: int) -> None:
    """Refuse ids that are no tensor of whole numbers with so many rows.

    Raises:
        RequestError: they are not.
    """
    tensors(name, ids=ids)
    if ids.ndim != 2 or len(ids) != rows or not ids.shape[1] or ids.is_floating_point():
        raise RequestError(
            f"{name}: shape {tuple(ids.shape)}, {ids.dtype}; expected ids, a row for each of {rows} prompts"
        )
