"""One engine between threads: whoever waits takes a turn for all; requests end at any time, in any thread."""

import gc
import random
import threading

import pytest

from tests.generation.serving import tiny
from tests.generation.test_serving import asked
from watchword.errors import CapacityError, RequestError
from watchword.generation.kept import Kept
from watchword.generation.serving import Engine, Limits
from watchword.shapes import Tensor


def test_threads_share_one_engine():
    engine, found = Engine(tiny("llama"), limits=Limits(rows=3), kept=Kept(10**7), piece=4), {}

    def ask(place: int) -> None:
        for turn in range(4):
            one = asked(start=place, length=3 + 5 * turn, max_new_tokens=4 + place, scope="")
            found[place, turn] = (list(engine.steps(engine.submit(one.job()))), one)

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(found) == 20
    for tokens, one in found.values():
        assert [[token.id for token in tokens]] == one.alone()
    assert engine.step() is False


def test_cancel_and_close_from_another_thread():
    for stop in ("cancel", "close"):
        engine, reached = Engine(tiny("llama")), threading.Event()
        ticket = engine.submit(asked(max_new_tokens=20_000, length=3).job())
        outcome = []

        def read(engine=engine, ticket=ticket, reached=reached, outcome=outcome) -> None:
            try:
                for _ in engine.steps(ticket):
                    reached.set()
                outcome.append(None)
            except RequestError as error:
                outcome.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        assert reached.wait(timeout=30)
        engine.cancel(ticket) if stop == "cancel" else engine.close()
        reader.join(timeout=30)
        assert ticket.reason == ("cancelled" if stop == "cancel" else "failed")
        assert len(outcome) == 1
        assert (outcome[0] is None) == (stop == "cancel")


def test_ending_a_request_never_waits_for_a_lock():
    engine = Engine(tiny("llama"))
    ticket, other = engine.submit(asked().job()), engine.submit(asked(start=2).job())
    stream = engine.steps(ticket)
    next(stream)
    with engine._lock:  # as if garbage collection came in the middle of the engine's own book-keeping
        engine.cancel(other)
        stream.close()
    assert (ticket.reason, other.reason) == (None, None)
    assert engine.step() is False
    assert (ticket.reason, other.reason) == ("cancelled", "cancelled")


def test_places_of_the_cancelled_are_free_for_the_next():
    engine = Engine(tiny("llama"), limits=Limits(requests=1))
    ticket = engine.submit(asked().job())
    ticket.cancelled = True  # as a forgotten stream does
    assert engine.run(asked(start=2).job()).reason == "done"
    assert ticket.reason == "cancelled"


def test_interrupt_while_a_prompt_begins_loses_no_ticket(monkeypatch):
    engine = Engine(tiny("llama"))
    first, second, third = (engine.submit(asked(start=start).job()) for start in range(3))

    def pressed(*_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("watchword.generation.serving.may_join", pressed)
        with pytest.raises(KeyboardInterrupt):
            engine.step()
    for ticket in (first, second):
        with pytest.raises(RequestError, match="interrupted by KeyboardInterrupt; ask again"):
            list(engine.steps(ticket))
    assert [token.id for token in engine.steps(third)] == asked(start=2).alone()[0]
    assert engine.step() is False


def test_threads_that_ask_cancel_forget_and_interrupt_never_hang():
    """Many threads, each doing all that may be done with a request, while collection runs all the time."""
    engine = Engine(tiny("llama"), limits=Limits(requests=6, rows=5), kept=Kept(200_000), piece=16)
    wanted = {start: asked(start=start, length=20, max_new_tokens=6).alone() for start in range(4)}
    failures: list[BaseException] = []

    def pressed(ids: Tensor, scores: Tensor) -> Tensor:
        raise KeyboardInterrupt

    def once(draw: random.Random) -> None:
        start = draw.randrange(4)
        one = asked(start=start, length=20, max_new_tokens=6, scope="a")
        act = draw.choice(["read", "read", "read", "drop", "cancel", "interrupt"])
        try:
            ticket = engine.submit(one.job(processors=[pressed] if act == "interrupt" else ()))
            stream = engine.steps(ticket)
            if act == "drop":
                loop: list[object] = [next(stream, None), stream]
                loop.append(loop)  # only collection ends it, in whatever thread it happens to run
                return
            if act == "cancel":
                next(stream, None)
                engine.cancel(ticket)
            tokens = [token.id for token in stream]
            if act == "read":
                assert [tokens] == wanted[start]
        except (CapacityError, KeyboardInterrupt):
            pass
        except RequestError as error:
            if "interrupted by KeyboardInterrupt" not in str(error):
                raise

    def work(seed: int) -> None:
        draw = random.Random(seed)
        try:
            for _ in range(40):
                once(draw)
        except BaseException as error:
            failures.append(error)

    thresholds = gc.get_threshold()
    gc.set_threshold(50, 2, 2)
    try:
        threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=120)
    finally:
        gc.set_threshold(*thresholds)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures
    gc.collect()
    engine.step()
    assert engine.run(asked(length=20, max_new_tokens=6).job()).sequences == wanted[1]
    assert (engine.step(), engine._batch.cache.rows) == (False, 0)
