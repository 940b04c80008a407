"""Attention, caches, norms and positions of a 7B text model on a CPU, and the frames of a vision tower.

    python -m benchmarks.attention --threads 2 --layers 2

Everything in bfloat16, with random weights. "fused" is `attn_implementation="sdpa"`, "blocks" is "blocked";
"plain" is what training runs: one pass after the other. Both sides of a ratio take turns. Layers and caches
go round, so that no cache of the processor holds what a step reads. The last line of the output is a JSON
object.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional as F

from benchmarks.models import built, text
from watchword.config import CLIPVisionConfig, LlamaConfig
from watchword.generation.cache import KVCache
from watchword.models.clip import ClipVision
from watchword.models.llama import Llama
from watchword.nn.attention import CacheSpec, attention
from watchword.nn.layers import RMSNorm
from watchword.nn.rope import Rotary, apply_rope
from watchword.shapes import Tensor

LONG, SHORT, WIDTH, HEADS = 2087, 46, 4096, 32
"""Positions of a prompt with 8 frames and of one with a picture's 32 tokens; a 7B model's numbers."""

BACKENDS = {"fused": "sdpa", "blocks": "blocked"}


def milliseconds(rounds: int, **runs: Callable[[], object]) -> dict[str, float]:
    """The median of each, taking turns after a first round that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            taken[name].append(1000 * (time.perf_counter() - start))
    return {name: round(statistics.median(times[1:]), 2) for name, times in taken.items()}


def noise(*shape: int) -> Tensor:
    """Random numbers in bfloat16."""
    return torch.randn(shape).bfloat16()


def limits(rounds: int) -> dict[str, float]:
    """The machine's matrix rate for a linear of this width, and how fast it reads 1 GB."""
    x, weight, much = noise(LONG, WIDTH), noise(11008, WIDTH), torch.zeros(2**28)
    taken = milliseconds(rounds, product=lambda: F.linear(x, weight), read=lambda: much.sum())
    return {
        "matrix_gflops": round(2 * LONG * WIDTH * 11008 / taken["product"] / 1e6, 1),
        "read_gb_per_second": round(much.nbytes / taken["read"] / 1e6, 1),
    }


def prefill(rounds: int, queries: int, keys: int, groups: int) -> dict[str, float]:
    """Causal attention of the last so many positions, one layer."""
    q = noise(1, queries, HEADS, 128).transpose(1, 2)
    k, v = (noise(1, groups, keys, 128) for _ in range(2))

    def run(backend: str) -> Callable[[], object]:
        return lambda: attention(q, k, v, causal=True, backend=backend)

    return milliseconds(rounds, **{name: run(backend) for name, backend in BACKENDS.items()})


def step(rounds: int, keys: int, groups: int, rows: int = 1) -> dict[str, float]:
    """One query of each row on a filled cache, one layer."""
    spec = CacheSpec(8, groups, 128)
    q, k = noise(rows, HEADS, 1, 128), noise(rows, groups, 1, 128)

    def run(backend: str) -> Callable[[], object]:
        cache = KVCache(spec, rows, keys + keys // 8, torch.bfloat16)
        much = noise(rows, groups, keys, 128)
        for index in range(spec.layers):
            cache.layer(index).attend(much[:, :, -1:].repeat(1, HEADS // groups, 1, 1), much, much)
        cache.advance(keys)
        turn = iter(range(10**9))
        return lambda: cache.layer(next(turn) % spec.layers).attend(q, k, k, backend=backend)

    return milliseconds(5 * rounds, **{name: run(backend) for name, backend in BACKENDS.items()})


def elementwise(rounds: int) -> dict[str, dict[str, float]]:
    """The norm of all positions, and the rotation of all queries."""
    norm, x = RMSNorm(WIDTH, 1e-5).bfloat16(), noise(1, LONG, WIDTH)
    heads = x.view(1, LONG, HEADS, 128).transpose(1, 2)
    cos, sin = Rotary(128, 10000.0, None, 4096)(torch.arange(LONG)[None], torch.bfloat16)
    slow = heads.detach().requires_grad_()

    def learning(run: Callable[[], object]) -> Callable[[], object]:
        def ran() -> object:
            with torch.enable_grad():
                return run()

        return ran

    return {
        "rms_norm": milliseconds(rounds, plain=learning(lambda: norm(x)), pieces=lambda: norm(x)),
        "rope": milliseconds(
            rounds,
            plain=learning(lambda: apply_rope(slow, cos, sin)),
            pieces=lambda: apply_rope(heads, cos, sin),
        ),
    }


def layer(rounds: int, layers: int, pieces: list[int]) -> dict[str, dict[str, float]]:
    """A whole layer: a long prompt, in pieces or in one, and a token after short and long prompts."""
    settings = {name: value for name, value in text(layers, WIDTH).items() if name != "model_type"}
    config = LlamaConfig(**settings | {"vocab_size": 256})
    fused = built(lambda: Llama(config, backend="sdpa"))
    models = {"fused": fused, "blocks": built(lambda: Llama(config, backend="blocked"))}
    models["blocks"].load_state_dict(fused.state_dict(), assign=True)
    embeds = fused.embed(torch.randint(3, 200, (1, LONG)))

    def filled(model: Llama, length: int, piece: int) -> KVCache:
        cache = KVCache(model.cache_spec, 1, length + length // 8, torch.bfloat16)
        for part in embeds[:, :length].split(piece, dim=1):
            model.prefill(part, torch.tensor([part.shape[1]]), cache)
        return cache

    def per_layer(rounds: int, **runs: Callable[[], object]) -> dict[str, float]:
        return {name: round(taken / layers, 2) for name, taken in milliseconds(rounds, **runs).items()}

    found = {}
    for piece in pieces:
        runs = {name: partial(filled, model, LONG, piece) for name, model in models.items()}
        found[f"layer, {LONG} positions, pieces of {piece}"] = per_layer(max(1, rounds // 2), **runs)
    token = torch.tensor([5])
    for length in (SHORT, LONG):
        caches = {name: filled(model, length, 512) for name, model in models.items()}
        runs = {name: partial(model.decode, token, caches[name]) for name, model in models.items()}
        found[f"layer, one token after {length}"] = per_layer(3 * rounds, **runs)
    return found


def frames(rounds: int, layers: int = 4) -> dict[str, float]:
    """Eight pictures through one layer of CLIP-L."""
    config = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=layers, num_attention_heads=16,
        image_size=224, patch_size=14,
    )  # fmt: skip
    pixels, runs = noise(8, 3, 224, 224), {}
    for name, backend in BACKENDS.items():
        tower = built(lambda backend=backend: ClipVision(config, backend=backend))
        runs[name] = partial(tower.features, pixels, layers)
    return {name: round(taken / layers, 2) for name, taken in milliseconds(rounds, **runs).items()}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=2, help="layers of the text model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pieces", type=int, nargs="*", default=[512, LONG])
    parser.add_argument("--only", nargs="*", help="names, or beginnings of names, of cases")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    n = given.rounds
    cases: dict[str, Callable[[], dict]] = {
        f"prefill, {LONG} causal": lambda: prefill(n, LONG, LONG, HEADS),
        f"prefill, {LONG} causal, 8 key heads": lambda: prefill(n, LONG, LONG, 8),
        "prefill, 512 behind 1,536": lambda: prefill(n, 512, 2048, HEADS),
        f"step, {LONG} keys": lambda: step(n, LONG, HEADS),
        f"step, {LONG} keys, 8 key heads": lambda: step(n, LONG, 8),
        "step, 5 rows of 64 keys": lambda: step(n, 64, HEADS, rows=5),
        "elementwise": lambda: elementwise(n),
        "frames, CLIP-L layer": lambda: frames(n),
        "layer": lambda: layer(n, given.layers, given.pieces),
    }
    result: dict[str, object] = {"torch": torch.__version__, "threads": given.threads, "limits": limits(n)}
    for name, run in cases.items():
        if given.only is None or any(name.startswith(one) for one in given.only):
            result[name] = run()
            print(name, result[name], flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
