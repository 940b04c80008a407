"""Requests of different adapters in one engine: each as alone, and nothing that is kept changes hands."""

import copy

import pytest
import torch

from tests.generation import serving
from tests.generation.serving import Asked
from watchword.generation.kept import Kept
from watchword.generation.options import GenerationOptions
from watchword.generation.serving import Engine
from watchword.nn import lora

NAMES = ("base", "one", "two", None)
KINDS = (dict(), dict(do_sample=True, top_k=0), dict(num_beams=3), dict(num_beams=2, num_return_sequences=2))


@pytest.fixture
def adapted(monkeypatch):
    """A tiny model of a kind, with two adapters, in the place of the plain one."""

    def make(name):
        model = copy.deepcopy(serving.tiny(name))
        for at, adapter in enumerate(("one", "two")):
            lora.add_adapter(model, lora.ALL, 2, name=adapter, learns=False)
            source = torch.Generator().manual_seed(at)
            for linear in lora.adapted(model).values():
                linear.adapters[adapter].B.data.normal_(generator=source, std=0.2 if name == "t5" else 0.5)
        monkeypatch.setitem(serving._MADE, name, model.eval())
        return model

    return make


def asked(name, kind, seed):
    options = GenerationOptions(max_new_tokens=8, eos_token_ids=(2,), pad_token_id=0, **kind)
    return Asked(name, tuple(range(5, 40)), options, seed=seed, scope="all the same")


def alone(one, adapter):
    with lora.using(adapter):
        return one.alone()


@pytest.mark.parametrize("name", ["llama", "opt", "t5"])
def test_rows_of_all_adapters_step_together_and_answer_as_alone(adapted, name):
    model = adapted(name)
    engine = Engine(model, kept=Kept(10**8), piece=16)
    requests = [(asked(name, kind, at), adapter) for at, kind in enumerate(KINDS) for adapter in NAMES]
    for _ in range(2):  # the second time what is kept could answer for another
        tickets = engine.run_all(one.job(adapter=adapter) for one, adapter in requests)
        for ticket, (one, adapter) in zip(tickets, requests):
            assert ticket.error is None
            assert ticket.sequences == alone(one, adapter)
    drawn = [[alone(asked(name, KINDS[1], at), adapter) for at in range(4)] for adapter in NAMES]
    assert drawn[3] == drawn[2]  # None is the active one, which came last
    assert len({str(one) for one in drawn}) == 3


def test_a_prompt_is_run_again_for_another_adapter_and_found_again_for_the_same(adapted):
    engine = Engine(adapted("llama"), kept=Kept(10**8))
    one = asked("llama", {}, 0)
    reused = [engine.run(one.job(adapter=adapter)).reused for adapter in ("one", "two", None, "base", "one")]
    assert reused == [0, 0, 0, 0, 32]


def test_answers_are_scored_with_the_request_s_adapter(adapted):
    engine = Engine(adapted("llama"), kept=Kept(10**8))
    job = asked("llama", {}, 0).job(answers=((7, 9, 4), (3,)))
    found = {}
    for adapter in ("one", "base"):
        found[adapter] = engine.run(asked("llama", {}, 0).job(answers=job.answers, adapter=adapter)).scores
    lora.set_active(engine._decoder, "one")
    assert engine.run(job).scores == found["one"] != found["base"]


def test_one_that_fails_leaves_the_others_their_adapters(adapted):
    model = adapted("llama")
    requests = [asked("llama", {}, at) for at in range(3)]
    wanted = [alone(one, adapter) for one, adapter in zip(requests, ("one", "two", "base"))]
    decode, calls = model.decode, []

    def broken(ids, cache):
        calls.append(len(ids))
        if len(calls) == 2:
            raise RuntimeError("too many rows")
        return decode(ids, cache)

    model.decode = broken
    engine = Engine(model, kept=None)
    tickets = engine.run_all(one.job(adapter=a) for one, a in zip(requests, ("one", "two", "base")))
    assert [ticket.sequences for ticket in tickets] == wanted
    assert calls[1:5] == [calls[1], 1, 1, 1][: 1 + calls[1]]
