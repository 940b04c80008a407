"""The engine: its refusals, its limits, leaving at any time, failing alone, threads, reuse, scores."""

import gc
import re

import pytest
import torch

from tests.generation.serving import CONFIGS, Asked, tiny
from tests.generation.toy import Toy
from watchword.errors import CapacityError, RequestError
from watchword.generation.kept import Kept
from watchword.generation.options import GenerationOptions
from watchword.generation.requests import Job
from watchword.generation.serving import Engine, Limits
from watchword.nn.attention import Uncached
from watchword.shapes import Tensor


def options(**changes) -> GenerationOptions:
    return GenerationOptions(**dict(max_new_tokens=5, pad_token_id=0) | changes)


def asked(name: str = "llama", length: int = 6, start: int = 1, **changes) -> Asked:
    ids = tuple((start + place * place) % 39 + 1 for place in range(length))
    own = {key: changes.pop(key) for key in ("seed", "scope", "keys") if key in changes}
    return Asked(name, ids, options(**changes), **own)


def test_tokens_come_one_by_one():
    one, engine = asked(), Engine(tiny("llama"))
    ticket = engine.submit(one.job())
    tokens = []
    for token in engine.steps(ticket):
        tokens.append(token.id)
        assert ticket.sequences == [tokens]
    assert [tokens] == one.alone()
    assert (ticket.reason, ticket.ends) == ("done", ["length"])
    assert list(ticket.seconds) == ["waiting", "prompt", "first_token", "total"]
    assert list(ticket.seconds.values()) == sorted(ticket.seconds.values())
    assert list(engine.steps(ticket)) == []
    assert engine.step() is False


def test_samples_of_one_request_differ_and_come_back_with_the_seed():
    engine = Engine(tiny("llama"))
    three = asked(do_sample=True, top_k=0, num_return_sequences=3, max_new_tokens=8, seed=5)
    first, again = engine.run_all([three.job(), three.job()])
    assert first.sequences == again.sequences
    assert len({tuple(ids) for ids in first.sequences}) == 3
    single = engine.run(asked(do_sample=True, top_k=0, max_new_tokens=8, seed=5).job())
    assert single.sequences[0] == first.sequences[0]


def test_sampling_without_a_seed_follows_the_global_one():
    engine, one = Engine(tiny("llama")), asked(do_sample=True, top_k=0, max_new_tokens=8)
    torch.manual_seed(3)
    first, second = engine.run(one.job()).sequences, engine.run(one.job()).sequences
    torch.manual_seed(3)
    assert engine.run(one.job()).sequences == first != second


def test_beams_stream_what_is_settled():
    engine, one = Engine(tiny("llama")), asked(num_beams=3, max_new_tokens=12)
    ticket = engine.submit(one.job())
    early, ids = 0, []
    for token in engine.steps(ticket):
        ids.append(token.id)
        early += ticket.reason is None
    assert [ids] == ticket.sequences == one.alone()
    assert early > 0
    assert len(ticket.sequences_scores) == 1


def test_logprobs_are_those_of_the_model_alone():
    engine, one = Engine(tiny("llama")), asked(repetition_penalty=1.5, max_new_tokens=3)
    ticket = engine.submit(one.job(logprobs=2))
    tokens = list(engine.steps(ticket))
    whole = torch.tensor([one.ids + tuple(token.id for token in tokens)])
    places = torch.arange(whole.shape[1])[None]
    model = tiny("llama")
    logs = model.logits(model.hidden(model.embed(whole), positions=places, cache=Uncached())).log_softmax(-1)
    for token, row in zip(tokens, logs[0, len(one.ids) - 1 :]):
        assert token.logprob == pytest.approx(float(row[token.id]), abs=1e-5)
        assert [id_ for id_, _ in token.top] == row.topk(2).indices.tolist()
        assert [value for _, value in token.top] == pytest.approx(row.topk(2).values.tolist(), abs=1e-5)


def test_stop_and_processors_are_the_requests_own():
    engine, one = Engine(tiny("llama")), asked(max_new_tokens=9)
    plain = one.alone()[0]
    stop = one.job(stop=[lambda ids, _: ids.shape[1] == len(one.ids) + 3])
    only = one.job(processors=[lambda ids, scores: scores.index_fill(1, torch.tensor([7]), 1e9)])
    stopped, forced, free = engine.run_all([stop, only, one.job()])
    assert (stopped.sequences, stopped.ends) == ([plain[:3]], ["stop"])
    assert forced.sequences == [[7] * 9]
    assert free.sequences == [plain]


# ---- scores of given answers


def plain_logs(name: str, ids: tuple[int, ...], answer: tuple[int, ...]) -> list[float]:
    """Log-probabilities of an answer, from one pass over everything."""
    model = tiny(name)
    start = (0,) if name == "t5" else ids
    known = model.embed(torch.tensor([start + answer]))
    if name == "t5":
        states = model.encode(model.embed(torch.tensor([ids])))
        hidden = model.hidden(known, states=states, cache=Uncached())
    else:
        hidden = model.hidden(known, positions=torch.arange(known.shape[1])[None], cache=Uncached())
    logs = model.logits(hidden).log_softmax(dim=-1)[0]
    return [float(logs[len(start) - 1 + place, token]) for place, token in enumerate(answer)]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("rows", [1, 32])
def test_scores_of_answers_are_those_of_a_plain_pass(name, rows):
    one, answers = asked(name), ((5,), (5, 6, 7), (8, 9), (4,))
    engine = Engine(tiny(name), limits=Limits(rows=rows), piece=16)
    other = engine.submit(asked(name, 9).job())
    ticket = engine.run(one.job(answers=answers))
    for answer, scores in zip(answers, ticket.scores, strict=True):
        assert scores == pytest.approx(plain_logs(name, one.ids, answer), abs=1e-5)
    assert (ticket.reason, ticket.sequences) == ("done", [[]])
    list(engine.steps(other))
    assert other.sequences == asked(name, 9).alone()


# ---- limits and refusals


def test_limits_refuse_before_any_work():
    one, sizes = asked(), dict(requests=2, rows=3, positions=12, bytes=None)

    def refused(message: str, job: Job, **limits) -> None:
        engine = Engine(tiny("llama"), limits=Limits(**sizes | limits))
        with pytest.raises(CapacityError, match=message):
            engine.submit(job)
        assert engine.step() is False

    refused("4 beams or samples, but there are 3 rows", asked(num_beams=4).job())
    refused("6 positions and up to 7 new ones, but the limit is 12", asked(max_new_tokens=7).job())
    refused("1 rows of 11 positions take 276224 bytes, but the limit is 9999", one.job(), bytes=9999)
    assert one.embedded == []
    engine = Engine(tiny("llama"), limits=Limits(**sizes))
    first, second = engine.submit(one.job()), engine.submit(one.job())
    with pytest.raises(CapacityError, match="2 requests are open, which is the limit"):
        engine.submit(one.job())
    list(engine.steps(first))
    assert engine.run(asked(max_new_tokens=6).job()).reason == "done"  # exactly 12 positions
    assert second.reason == "done"


def test_learned_positions_are_a_limit():
    engine = Engine(tiny("opt"))
    message = re.escape("100 positions and up to 22 new ones, but the model has 120")
    with pytest.raises(CapacityError, match=message):
        engine.submit(asked("opt", 100, max_new_tokens=22).job())
    full = asked("opt", 100, max_new_tokens=21)  # the last token is never run
    assert engine.run(full.job()).sequences == full.alone()


def test_requests_wait_for_rows_and_bytes():
    for limits in (Limits(rows=2), Limits(bytes=300_000)):
        engine = Engine(tiny("llama"), limits=limits)
        several = [asked(start=start, max_new_tokens=3 + start) for start in range(6)]
        tickets = [engine.submit(one.job()) for one in several]
        most = 0
        while engine.step():
            most = max(most, sum(len(one.rows) for one in engine._batch.running))
            assert engine._batch.cache.nbytes <= (limits.bytes or 10**9)
        assert most == (4 if limits.bytes else 2)
        assert [ticket.sequences for ticket in tickets] == [one.alone() for one in several]


def test_run_all_takes_more_than_are_let_in_at_a_time():
    engine = Engine(tiny("llama"), limits=Limits(requests=2))
    several = [asked(start=start) for start in range(5)]
    assert [one.sequences for one in engine.run_all([one.job() for one in several])] == [
        one.alone() for one in several
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(length=0), "a prompt of 0 positions; expected at least one"),
        (dict(keys=(1, 2)), "2 keys for 6 positions; expected one for each"),
        (dict(answers=()), "0 answers to score"),
        (dict(answers=((1,), ())), "2 answers to score, some of them without tokens"),
        (dict(logprobs=-1), "logprobs=-1 with 1 beams"),
        (dict(logprobs=1, options=options(num_beams=2)), "logprobs=1 with 2 beams"),
        (dict(options=options(output_scores=True)), "output_scores and output_logits hold whole vocab"),
        (dict(options=options(output_logits=True)), "output_scores and output_logits hold whole vocab"),
    ],
)
def test_contradictions_are_refused(changes, message):
    with pytest.raises(RequestError, match=message):
        asked().job(**changes)


# ---- failing alone


def test_failing_requests_fail_alone():
    def broken(*_: object) -> Tensor:
        raise OSError("the disk is gone")

    good, engine = asked(max_new_tokens=12), Engine(tiny("llama"), piece=4)
    sick = [
        asked(start=2).job(embed=broken),
        asked(start=3).job(processors=[broken]),
        asked(start=4).job(stop=[broken]),
        asked(start=5).job(options=options(prefix_allowed_tokens_fn=lambda row, ids: [])),
        asked(start=6, num_beams=2).job(processors=[broken]),
        asked(start=7).job(embed=lambda start, end: torch.zeros(1, end - start + 1, 32)),
        asked(start=8, do_sample=True).job(processors=[lambda ids, scores: scores * torch.nan]),
        asked(start=9, do_sample=True, seed=2**70).job(),
    ]
    first, *failed, last = engine.run_all([good.job(), *sick, good.job()])
    assert first.sequences == last.sequences == good.alone()
    assert {ticket.reason for ticket in failed} == {"failed"}
    messages = [str(ticket.error) for ticket in failed]
    for found, part in zip(
        messages,
        ["the disk is gone"] * 3 + ["no token for row 0", "the disk is gone",
         "embed(0, 4) gave the shape (1, 5, 32); expected 1, 4", "prob", f"seed={2**70}; expected"],
    ):  # fmt: skip
        assert part in found
    assert engine._batch.cache.rows == 0


def test_failing_requests_raise_where_they_are_waited_for():
    engine = Engine(tiny("llama"))
    seen = []

    def late(ids: Tensor, scores: Tensor) -> Tensor:
        if ids.shape[1] == 8:
            raise ValueError("enough")
        return scores

    with pytest.raises(ValueError, match="enough"):
        seen.extend(engine.steps(engine.submit(asked().job(processors=[late]))))
    with pytest.raises(ValueError, match="enough"):
        engine.run(asked().job(processors=[late]))
    assert engine.step() is False


class Touchy(Toy):
    """Decoding fails while token 3 is in the batch."""

    error: Exception = ValueError("no threes")

    def decode(self, ids: Tensor, cache) -> Tensor:
        if 3 in ids.tolist():
            raise self.error
        return super().decode(ids, cache)


def toy_job(toy: Toy, token: int, **changes) -> Job:
    always = [lambda ids, scores: scores.index_fill(1, torch.tensor([token]), 1e9)] if token >= 0 else []
    embeds = toy.table[[1, 2, 4]][None]
    return Job(
        lambda start, end: embeds[:, start:end], 3, options(**changes), history=(1, 2, 4), processors=always
    )


def test_step_that_fails_in_company_is_tried_apart():
    toy = Touchy()
    engine = Engine(toy)
    alone = Engine(toy).run(toy_job(toy, 5)).sequences
    tickets = engine.run_all(
        [toy_job(toy, 5), toy_job(toy, 3), toy_job(toy, 5, num_beams=2), toy_job(toy, 3)]
    )
    assert [ticket.reason for ticket in tickets] == ["done", "failed", "done", "failed"]
    assert tickets[0].sequences == tickets[2].sequences == alone
    assert str(tickets[1].error) == "no threes"


def test_step_without_memory_says_what_to_do():
    toy = Touchy()
    toy.error = torch.OutOfMemoryError("no 7 GiB left")
    with pytest.raises(CapacityError, match=re.escape("out of memory (no 7 GiB left); set limits.rows")):
        Engine(toy).run(toy_job(toy, 3))


# ---- leaving


def test_cancelled_before_it_starts_runs_nothing():
    one, engine = asked(), Engine(tiny("llama"))
    ticket = engine.submit(one.job())
    engine.cancel(ticket)
    engine.cancel(ticket)
    assert (ticket.reason, list(engine.steps(ticket)), one.embedded) == ("cancelled", [], [])
    assert engine.step() is False


def test_cancelled_at_any_step_frees_its_place_at_once():
    good = asked(max_new_tokens=15)
    for name, when in [(name, when) for name in ("llama", "t5") for when in range(1, 9)]:
        engine = Engine(tiny(name), limits=Limits(rows=4), piece=4)
        one = asked(name, 11, max_new_tokens=20, num_beams=3)
        ticket, other = engine.submit(one.job()), engine.submit(asked(name, max_new_tokens=15).job())
        for _ in range(when):
            engine.step()
        engine.cancel(ticket)
        assert ticket.reason == "cancelled"
        assert engine._batch.cache.rows == sum(len(one.rows) for one in engine._batch.running) <= 1
        list(engine.steps(other))
        assert other.sequences == asked(name, max_new_tokens=15).alone()
    assert good.alone() == Engine(tiny("llama")).run(good.job()).sequences


def test_leaving_the_loop_cancels():
    engine = Engine(tiny("llama"))
    ticket = engine.submit(asked(max_new_tokens=20).job())
    for _ in engine.steps(ticket):
        break
    gc.collect()
    assert ticket.reason == "cancelled"
    assert len(ticket.sequences[0]) == 1
    assert engine.step() is False


def test_closed_engine_ends_all_and_takes_nothing():
    engine = Engine(tiny("llama"), limits=Limits(rows=1))
    running, waiting = (engine.submit(asked(max_new_tokens=20).job()) for _ in range(2))
    stream = engine.steps(running)
    next(stream)
    engine.close()
    with pytest.raises(RequestError, match="closed after 1 tokens of this request; make another one"):
        list(stream)
    with pytest.raises(RequestError, match="closed after 0 tokens"):
        list(engine.steps(waiting))
    with pytest.raises(RequestError, match="it is closed and takes no requests"):
        engine.submit(asked().job())
    assert engine._batch.cache.rows == 0
    engine.close()


def test_ticket_of_another_engine_is_refused():
    engine = Engine(tiny("llama"))
    with pytest.raises(RequestError, match="this ticket is another engine's"):
        next(Engine(tiny("llama")).steps(engine.submit(asked().job())))


def test_interrupt_loses_what_ran_and_leaves_an_engine_that_works():
    engine, presses = Engine(tiny("llama")), [0]

    def pressed(ids: Tensor, scores: Tensor) -> Tensor:
        presses[0] += 1
        if presses[0] == 3:
            raise KeyboardInterrupt
        return scores

    other = engine.submit(asked().job())
    with pytest.raises(KeyboardInterrupt):
        list(engine.steps(engine.submit(asked().job(processors=[pressed]))))
    with pytest.raises(RequestError, match="interrupted by KeyboardInterrupt; ask again"):
        list(engine.steps(other))
    assert engine.run(asked().job()).sequences == asked().alone()


# ---- pieces and reuse


def test_long_prompt_enters_in_pieces_while_others_run():
    engine = Engine(tiny("llama"), piece=8)
    runner, long = asked(max_new_tokens=40), asked(length=60)
    running = engine.submit(runner.job())
    engine.step()
    entering = engine.submit(long.job())
    counts = []
    while not entering.reason and len(counts) < 50:
        engine.step()
        counts.append(len(running.sequences[0]))
    assert [start for start, _ in long.embedded] == [0, *(end for _, end in long.embedded[:-1])]
    sizes = [end - start for start, end in long.embedded]
    assert (sizes[0], max(sizes), sum(sizes)) == (8, 8, 60)
    assert counts == list(range(counts[0], counts[0] + len(counts)))  # one token in every step
    assert entering.sequences == long.alone()


def test_pieces_shrink_with_what_is_before_them(monkeypatch):
    monkeypatch.setattr("watchword.generation.entry.FAR", 64)
    engine, long = Engine(tiny("llama"), piece=64), asked(length=300)
    engine.submit(asked(max_new_tokens=60).job())
    engine.step()  # somebody waits for next tokens
    assert engine.run(long.job()).sequences == long.alone()
    sizes = [end - start for start, end in long.embedded]
    assert sizes[:3] == [64, 32, 16]
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == 300


def test_pieces_are_large_while_nobody_waits_for_a_next_token():
    engine = Engine(tiny("llama"), piece=64)
    for length, wanted in ((320, [320]), (324, [256, 68]), (600, [256, 240, 104])):
        long = asked(length=length)
        assert engine.run(long.job()).sequences == long.alone()
        assert [end - start for start, end in long.embedded] == wanted


def prefills(monkeypatch, name: str) -> list[tuple[int, int]]:
    """Rows and positions of every prefill from now on."""
    model, found = tiny(name), []
    prefill = type(model).prefill
    monkeypatch.setattr(
        model, "prefill",
        lambda embeds, *rest: found.append(tuple(embeds.shape[:2])) or prefill(model, embeds, *rest),
        raising=False,
    )  # fmt: skip
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_short_prompts_of_like_length_are_run_together(name, monkeypatch):
    runs = prefills(monkeypatch, name)
    engine = Engine(tiny(name), piece=20)
    several = [asked(name, 6 - start % 2, start=start) for start in range(5)]
    tickets = [engine.submit(one.job()) for one in several]
    engine.step()
    assert [len(ticket.sequences[0]) for ticket in tickets] == [1, 1, 1, 0, 0]
    assert runs == [(3, 6)]
    while engine.step():
        pass
    assert [ticket.sequences for ticket in tickets] == [one.alone() for one in several]


def test_prompts_of_unlike_length_are_run_one_by_one(monkeypatch):
    runs, engine = prefills(monkeypatch, "llama"), Engine(tiny("llama"))
    several = [asked(length=length) for length in (40, 10, 12)]
    tickets = engine.run_all([one.job() for one in several])
    assert runs == [(1, 40), (2, 12)]
    assert [ticket.sequences for ticket in tickets] == [one.alone() for one in several]


def test_prompts_that_begin_alike_wait_for_each_other(monkeypatch):
    runs, engine = prefills(monkeypatch, "llama"), Engine(tiny("llama"), kept=Kept(10**7))
    first = asked(length=60, scope="a")
    others = [Asked("llama", (*first.ids[:50], *range(end, end + 12)), first.options, scope="a")
              for end in (3, 9, 15)]  # fmt: skip
    tickets = engine.run_all([first.job(), *(one.job() for one in others)])
    assert runs == [(1, 60), (3, 14)]
    assert [ticket.reused for ticket in tickets] == [0, 48, 48, 48]
    assert [ticket.sequences for ticket in tickets] == [one.alone() for one in (first, *others)]


def test_one_that_fails_in_company_fails_alone():
    def broken(*_: object) -> Tensor:
        raise OSError("the disk is gone")

    engine, good = Engine(tiny("llama")), asked()
    jobs = [good.job(), asked(start=2).job(embed=broken), good.job(), asked(start=3).job(keys=(2**70,) * 6)]
    engine.kept = Kept(10**6)
    tickets = engine.run_all(jobs)
    assert [ticket.reason for ticket in tickets] == ["done", "failed", "done", "failed"]
    assert tickets[0].sequences == tickets[2].sequences == good.alone()
    assert "the disk is gone" in str(tickets[1].error)
    assert "too big" in str(tickets[3].error)
    assert engine.step() is False


def test_known_beginnings_are_not_run_again():
    kept = Kept(10**7)
    engine = Engine(tiny("llama"), kept=kept)
    first = asked(length=150, scope="a")
    longer = Asked("llama", (*first.ids[:140], 7, 8, 9), first.options, scope="a")
    assert engine.known(longer.job()) == 0
    assert engine.run(first.job()).reused == 0
    assert engine.known(longer.job()) == 128
    ticket = engine.run(longer.job())
    assert (ticket.reused, longer.embedded) == (128, [(128, 143)])
    assert ticket.sequences == longer.alone()
    again = engine.run(longer.job())
    assert again.sequences == ticket.sequences


def test_answers_are_known_too():
    engine = Engine(tiny("llama"), kept=Kept(10**7))
    first = asked(length=60, scope="a", max_new_tokens=10)
    answer = tuple(engine.run(first.job()).sequences[0])
    turn = Asked("llama", first.ids + answer + (5, 6), first.options, scope="a")
    ticket = engine.run(turn.job())
    assert ticket.reused == 64
    assert ticket.sequences == turn.alone()


def test_cancelled_answers_are_known_as_far_as_they_went():
    engine = Engine(tiny("llama"), kept=Kept(10**7))
    first = asked(length=60, scope="a", max_new_tokens=30)
    ticket = engine.submit(first.job())
    for token, _ in zip(engine.steps(ticket), range(8), strict=False):
        assert token
    turn = Asked("llama", first.ids + tuple(ticket.sequences[0]) + (5,), first.options, scope="a")
    found = engine.run(turn.job())
    assert (found.reused, found.sequences) == (64, turn.alone())


def test_memory_holds_the_prompt_of_a_lonely_answer_once():
    kept, first = Kept(10**7), asked(length=60, scope="a", max_new_tokens=30)
    engine = Engine(tiny("llama"), kept=kept)
    ticket = engine.submit(first.job())
    next(steps := engine.steps(ticket))
    assert (kept.stats().bytes, engine.known(first.job())) == (0, 0)
    second = Asked("llama", (*first.ids[:50], 3), first.options, scope="a")
    other = engine.submit(second.job())  # now somebody may begin alike
    next(steps)
    next(steps)
    assert (other.reused, engine.known(first.job())) == (48, 48)
    while engine.step():
        pass
    assert [ticket.sequences, other.sequences] == [first.alone(), second.alone()]


@pytest.mark.parametrize("how", ["one token", "processor", "interrupt", "two answers", "cancelled"])
def test_the_prompt_of_a_lonely_answer_is_kept_however_it_ends(how, monkeypatch):
    engine = Engine(tiny("llama"), kept=Kept(10**7))
    count = 2 if how == "two answers" else 1
    most = 1 if how == "one token" else 9
    one = asked(length=60, scope="a", max_new_tokens=most, num_return_sequences=count, do_sample=count > 1)

    def fails(ids: Tensor, scores: Tensor) -> Tensor:
        if ids.shape[1] > 62:
            raise OSError("the disk is gone")
        return scores

    ticket = engine.submit(one.job(processors=[fails] if how == "processor" else ()))
    engine.step()
    if how == "interrupt":

        def interrupted(*_: object) -> Tensor:
            raise KeyboardInterrupt

        monkeypatch.setattr(type(tiny("llama")), "decode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.step()
    elif how == "cancelled":
        engine.cancel(ticket)
    else:
        while engine.step():
            pass
    assert ticket.reason == {"processor": "failed", "interrupt": "failed", "cancelled": "cancelled"}.get(
        how, "done"
    )
    assert engine.known(one.job()) == 48


def test_a_whole_prompt_of_an_encoder_is_known_again():
    engine = Engine(tiny("t5"), kept=Kept(10**7))
    one = asked("t5", 30, scope="a")
    drawn = Asked("t5", one.ids, options(do_sample=True, top_k=0), seed=3, scope="a")
    assert engine.known(one.job()) == 0
    cold = engine.submit(one.job(logprobs=2))
    tokens = list(engine.steps(cold))
    assert (engine.known(one.job()), one.embedded) == (30, [(0, 30)])
    warm = engine.submit(one.job(logprobs=2))
    assert list(engine.steps(warm)) == tokens  # to the last bit
    again, other = engine.run_all([one.job(), drawn.job()])
    assert (cold.reused, warm.reused, again.reused, other.reused) == (0, 30, 30, 30)
    assert again.sequences == cold.sequences
    assert other.sequences == drawn.alone()
    assert (one.embedded, drawn.embedded) == ([(0, 30)], [])
    scores = engine.run(one.job(answers=((5, 6), (7,)))).scores
    assert scores[0] == pytest.approx(plain_logs("t5", one.ids, (5, 6)), abs=1e-5)
    longer = Asked("t5", (*one.ids, 7), one.options, scope="a")
    elsewhere = Asked("t5", one.ids, one.options, scope="b")
    begun = engine.run(one.job(start_ids=(0, 4), history=(0, 4)))
    for ticket in (engine.run(longer.job()), engine.run(elsewhere.job()), begun):
        assert ticket.reused == 0
    assert begun.sequences != cold.sequences


@pytest.mark.parametrize("change", ["scope", "medium", "order", "none", "off", "t5"])
def test_what_differs_is_never_reused(change):
    kept = Kept(0 if change == "off" else 10**7)
    name = "t5" if change == "t5" else "llama"
    engine = Engine(tiny(name), kept=kept)
    one, other = ((bytes([digest]) * 32) for digest in (1, 2))
    first = asked(name, length=150, scope="a")
    first.keys = (3, *((one, place) for place in range(100)), *first.ids[101:])
    second = asked(name, length=150, start=2, scope="b" if change == "scope" else "a")
    second.keys = {
        "medium": (3, *((other, place) for place in range(100)), *first.ids[101:]),
        "order": (*((one, place) for place in range(100)), 3, *first.ids[101:]),
        "t5": (*first.keys[:-1], 39),  # an encoder looks ahead
    }.get(change, first.keys)
    if change == "none":
        second.scope = None
    engine.run(first.job())
    ticket = engine.run(second.job())
    assert ticket.reused == 0
    assert ticket.sequences == second.alone()


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_answers_do_not_need_the_memory_to_keep_anything(name):
    class Full(Kept):
        def put(self, name, value) -> bool:
            raise torch.OutOfMemoryError("no 7 GiB left")

    one, engine = asked(name, length=40, scope="a", max_new_tokens=20), Engine(tiny(name), kept=Full(10**7))
    ticket = engine.run(one.job())
    assert (ticket.reason, ticket.sequences) == ("done", one.alone())


def test_evicted_blocks_are_run_again():
    one, first_block = asked(length=300, scope="a"), 2 * 2 * 2 * 8 * 64 * 4
    engine = Engine(tiny("llama"), kept=Kept(2 * first_block))
    engine.run(one.job())
    ticket = engine.run(one.job())
    assert ticket.reused == 128  # the first blocks stay, the others are of no use without them
    assert ticket.sequences == one.alone()


def test_memory_is_flat_over_a_thousand_requests():
    engine = Engine(tiny("llama"), kept=Kept(300_000), limits=Limits(requests=8))
    jobs = [asked(length=3 + 7 * (count % 11), start=count, max_new_tokens=1 + count % 3, scope="a").job()
            for count in range(1000)]  # fmt: skip

    def living() -> int:
        gc.collect()
        return sum(one.untyped_storage().nbytes() for one in gc.get_objects() if type(one) is Tensor)

    start = 250
    engine.run_all(jobs[:start])
    before = living()
    engine.run_all(jobs[start:])
    assert living() <= before
    assert engine.kept.stats().bytes <= 300_000
    assert (engine._batch.cache.nbytes, len(engine._open), len(engine._waiting)) == (0, 0, 0)


def test_request_cancelled_while_another_leaves_leaves_too():
    class Meddling(Kept):
        """Cancels a request whenever something is looked up in it."""

        meddle = None

        def renew(self, name) -> bool:
            if self.meddle:
                engine.cancel(self.meddle)
            return super().renew(name)

    kept = Meddling(10**7)
    engine = Engine(tiny("llama"), kept=kept)
    first, second, third = (asked(length=40, start=start, scope="a", max_new_tokens=20) for start in range(3))
    tickets = [engine.submit(one.job()) for one in (first, second, third)]
    for _ in range(3):
        engine.step()
    kept.meddle = tickets[1]
    engine.cancel(tickets[0])
    assert [ticket.reason for ticket in tickets] == ["cancelled", "cancelled", None]
    kept.meddle = None
    list(engine.steps(tickets[2]))
    assert tickets[2].sequences == third.alone()
