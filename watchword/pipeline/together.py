"""Many requests at once, as many as the engine has rows."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from watchword.errors import CapacityError, WatchwordError
from watchword.pipeline.streaming import Stream


def together(pipeline: Any, asks: Sequence[Callable[[], Stream]], errors: str) -> list[Any]:
    """Run requests together, as many as the engine has rows; each is prepared when its turn comes.

    Args:
        pipeline: the `Pipeline`.
        asks: each hands a request to the engine.
        errors: "return" puts the error of a request that fails in its answer's place; "raise" raises the
            first of them.
    """
    waiting = deque(enumerate(asks))
    running: dict[int, Stream] = {}
    found: list[Any] = [None] * len(asks)
    limit = min(pipeline.engine.limits.rows, pipeline.engine.limits.requests)
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                at, ask = waiting.popleft()
                try:
                    running[at] = ask()
                except CapacityError as error:
                    if running:  # others may have filled the engine: try again when one of ours is done
                        waiting.appendleft((at, ask))
                        break
                    found[at] = failed(error, errors)
                except WatchwordError as error:
                    found[at] = failed(error, errors)
            pipeline.engine.step()
            for at in [at for at, stream in running.items() if stream.ticket.is_over()]:
                try:
                    found[at] = running.pop(at).collect()
                except WatchwordError as error:
                    found[at] = failed(error, errors)
    finally:
        for stream in running.values():
            stream.close()
    return found


def failed(error: WatchwordError, errors: str) -> WatchwordError:
    """The error in the place of an answer, or raised."""
    if errors == "raise":
        raise error
    return error
