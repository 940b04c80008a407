"""Steps of fixed shape: the ids of ordinary steps, recorded once for each shape. No GPU is needed: a stand-in
records, and runs the step again where a graph would be replayed, into the same memory."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.generation.serving import Asked, tiny
from watchword.errors import ConfigError, RequestError
from watchword.generation import graphs
from watchword.generation.cache import KVCache
from watchword.generation.graphs import SLOTS, StaticCache, Stepper, recorder
from watchword.generation.kept import Kept
from watchword.generation.options import GenerationOptions
from watchword.generation.serving import Engine
from watchword.nn.lora import using

DECODERS = ("llama", "mistral", "opt")


def replayed(run):
    """A recording: warm-up runs, the recorded one, and then the same memory again and again."""
    run()
    kept = run()

    def replay():
        kept.copy_(run())
        return kept

    return replay


def stepper(name):
    shapes = []

    def record(run):
        shapes.append(run)
        return replayed(run)

    return Stepper(tiny(name), record), shapes


def requests(name):
    return [
        Asked(name, (5, 9, 2, 7), GenerationOptions(max_new_tokens=7)),
        Asked(name, tuple(range(1, 20)), GenerationOptions(max_new_tokens=5)),
        Asked(name, (3, 1), GenerationOptions(max_new_tokens=6, do_sample=True, num_return_sequences=3), 7),
        Asked(name, (8, 8, 4), GenerationOptions(max_new_tokens=6, num_beams=3, num_return_sequences=2)),
        Asked(name, (6,), GenerationOptions(max_new_tokens=1)),
    ]


@pytest.mark.parametrize("name", DECODERS)
def test_steps_of_fixed_shape_give_the_ids_of_ordinary_ones(name):
    decoder, _ = stepper(name)
    asked = requests(name)
    ordinary, engine = Engine(tiny(name)), Engine(decoder)
    expected = [ordinary.run(one.job()).sequences for one in asked]
    together = engine.run_all([one.job() for one in asked])
    assert [ticket.sequences for ticket in together] == expected
    assert [engine.run(one.job()).sequences for one in asked] == expected


def test_each_shape_is_recorded_once():
    decoder, shapes = stepper("llama")
    engine = Engine(decoder)
    for count in (1, 1, 3, 4, 2, 1):
        engine.run_all([requests("llama")[0].job() for _ in range(count)])
    cache = engine._batch.cache
    # three rows leave one by one, and pass through the shape of two
    assert sorted(cache.steps) == [(1, SLOTS), (2, SLOTS), (4, SLOTS)]
    recorded = len(shapes)
    engine.run_all([requests("llama")[1].job() for _ in range(4)])
    assert len(shapes) == recorded


def test_a_longer_row_takes_a_wider_shape_and_keeps_its_ids(monkeypatch):
    monkeypatch.setattr(graphs, "SLOTS", 8)
    decoder, _ = stepper("llama")
    engine = Engine(decoder)
    one = Asked("llama", (5, 9, 2, 7), GenerationOptions(max_new_tokens=30))
    assert engine.run(one.job()).sequences == one.alone()
    assert {slots for _, slots in engine._batch.cache.steps} <= {8, 16, 24, 32, 40}
    assert engine._batch.cache.store.shape[4] >= 33


def test_shapes_do_not_reach_beyond_learned_positions():
    decoder, _ = stepper("opt")  # 120 of them
    engine = Engine(decoder)
    one = Asked("opt", tuple(range(1, 30)), GenerationOptions(max_new_tokens=91))
    assert engine.run(one.job()).sequences == one.alone()
    assert {slots for _, slots in engine._batch.cache.steps} == {120}


def test_blocks_are_kept_from_the_rectangle_and_reused():
    decoder, _ = stepper("llama")
    engine = Engine(decoder, kept=Kept(2**20))
    one = Asked("llama", tuple(i % 37 for i in range(200)), GenerationOptions(max_new_tokens=40), scope="")
    assert engine.run(one.job()).sequences == one.alone()
    again = engine.run(one.job())
    assert (again.sequences, again.reused > 0) == (one.alone(), True)


def test_a_request_that_fails_in_company_leaves_the_others_right(monkeypatch):
    decoder, _ = stepper("llama")
    engine = Engine(decoder)
    asked = requests("llama")[:2]
    failing = iter((True,))
    step = decoder.step

    def once(cache):
        if len(cache.lengths) == 2 and next(failing, False):
            raise RuntimeError("lost")
        return step(cache)

    monkeypatch.setattr(decoder, "step", once)
    tickets = engine.run_all([one.job() for one in asked])
    assert [ticket.sequences for ticket in tickets] == [one.alone() for one in asked]
    assert engine.run(asked[0].job()).sequences == asked[0].alone()
    assert isinstance(engine._batch.cache, StaticCache)  # and back to fixed shapes


def test_a_static_cache_keeps_rows_as_an_ordinary_one_does():
    spec = tiny("llama").cache_spec
    ordinary, static = KVCache(spec, 0, 0), StaticCache(spec, torch.float32, "cpu")
    for length in (3, 5, 4):
        one = KVCache(spec, 1, length)
        one.fill([torch.randn(spec.layers, 2, spec.heads, length, spec.head_dim)])
        ordinary.append_rows(one)
        static.append_rows(one)
    for change in (lambda c: c.exchange([2], [0], 1), lambda c: c.remove([0]), lambda c: c.picked([1, 0])):
        results = [change(cache) for cache in (ordinary, static)]
        if isinstance(results[0], KVCache):
            ordinary, static = results
        else:
            assert results[0] == results[1]
        assert ordinary.lengths.tolist() == static.lengths.tolist()
        for row, length in enumerate(ordinary.lengths.tolist()):
            assert torch.equal(ordinary.read(row, 0, length), static.read(row, 0, length))


def test_what_an_earlier_request_left_is_never_read():
    static = StaticCache(tiny("llama").cache_spec, torch.float32, "cpu")
    one = KVCache(static.spec, 1, 4)
    one.fill([torch.full((static.spec.layers, 2, static.spec.heads, 4, static.spec.head_dim), torch.inf)])
    static.append_rows(one)
    short = KVCache(static.spec, 1, 2)
    short.fill([torch.zeros(static.spec.layers, 2, static.spec.heads, 2, static.spec.head_dim)])
    assert bool(static.restarted(short).store[:, :, 0].isfinite().all())


def test_a_text_model_with_an_encoder_is_refused():
    with pytest.raises(ConfigError, match=r"has an encoder \(T5\), .* LLaMA, Mistral and OPT"):
        Stepper(tiny("t5"), replayed)


def test_recording_needs_cuda():
    with pytest.raises(ConfigError, match="compile: device 'cpu'; expected a CUDA device"):
        recorder(torch.device("cpu"))


def test_an_adapter_is_refused_under_recorded_steps():
    decoder, _ = stepper("llama")
    static = StaticCache(decoder.cache_spec, torch.float32, "cpu")
    with pytest.raises(RequestError, match="compile: an adapter was asked for"), using("other"):
        decoder.decode(torch.tensor([1]), static)


COMPILED = """
import torch
from tests.generation.serving import Asked, tiny
from watchword.generation.graphs import Stepper
from watchword.generation.options import GenerationOptions
from watchword.generation.serving import Engine
for name in ("llama", "mistral", "opt"):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    engine = Engine(Stepper(tiny(name), lambda run: torch.compile(run, dynamic=False, fullgraph=True)))
    one = Asked(name, (5, 9, 2, 7), GenerationOptions(max_new_tokens=12))
    assert engine.run(one.job()).sequences == one.alone(), name
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1, name
"""


COMPILED_OFTEN = """
import torch
from tests.generation.serving import tiny
from watchword.generation import graphs
from watchword.generation.options import GenerationOptions
from watchword.generation.requests import Job
from watchword.generation.serving import Engine

graphs.SLOTS = 16
graphs.PassLayer.attend = torch.compiler.disable(graphs.PassLayer.attend)
torch._dynamo.config.fail_on_recompile_limit_hit = True
for name in ("llama", "mistral", "opt"):
    shapes = []

    def record(run):
        shapes.append(run)
        return graphs.fused(run, backend="eager")

    decoder = tiny(name)
    fixed, plain = Engine(graphs.Stepper(decoder, record)), Engine(decoder)
    width = decoder.get_input_embeddings().embedding_dim
    for rows in (1, 2, 4, 8):
        for length in (5, 20, 40):
            embeds = torch.randn(rows, 1, length, width)
            jobs = [
                Job(lambda a, b, x=x: x[:, a:b], length, GenerationOptions(max_new_tokens=3)) for x in embeds
            ]
            found, expected = fixed.run_all(jobs), plain.run_all(jobs)
            assert [one.sequences for one in found] == [one.sequences for one in expected], (name, rows)
            assert not any(one.error for one in found), (name, [one.error for one in found])
    assert len(shapes) == 12, name
"""


def test_more_shapes_are_compiled_than_torch_allows_by_itself():
    subprocess.run([sys.executable, "-c", COMPILED_OFTEN], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
def test_a_compiled_step_is_one_graph_and_gives_the_ids_of_an_ordinary_one():
    # in a process of its own, without the checks of shapes: they are no part of what is compiled
    subprocess.run([sys.executable, "-c", COMPILED], check=True, cwd=Path(__file__).parents[2])
