"""Documented signatures that say which argument was meant."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from watchword.errors import refuse_unknown


def refuse_others(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let a method with a documented signature (no `**kwargs`) say which argument was meant."""
    known = [name for name in inspect.signature(method).parameters if name != "self"]

    @functools.wraps(method)
    def checked(self: object, *args: Any, **kwargs: Any) -> Any:
        refuse_unknown(f"{type(self).__name__}.{method.__name__}", kwargs, known)
        return method(self, *args, **kwargs)

    return checked
