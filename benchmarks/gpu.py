"""One card, a text model of 7B shape with random weights: how near the card's limits prefill and decode come.

    python -m benchmarks.gpu > gpu.jsonl        # about 15 GB of GPU memory; transformers if it is installed
    python -m benchmarks.gpu --device cpu --layers 1 --width 256 --prompt 32 --tokens 4 --sides ours fixed

One JSON line for the limits of the card (a timed read of 1 GiB, a large bfloat16 product), one for each side:
  ours          steps as Python asks for them
  flash         the same with FlashAttention-2, which prompts use; needs the flash-attn package
  fixed         steps of fixed shape, not recorded
  graph         the same recorded as a CUDA graph
  compiled      the same through torch.compile, then recorded
  int8, int4    compiled, with weights in so many bits (the head of int4 in 8)
  transformers  generate with a static cache, which it compiles on a card
Prefill is the time of an answer of one token, decode what each further token of a longer answer takes. Shares
are of the read rate (weights but the embedding, keys and values, each read once a step) and the matrix rate
(two operations for each weight and position, and attention). Sides that can not run say why in "left_out".
"""

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.models import BACKEND, text, wide_llama
from watchword.bench.machine import matrix_rate, read_rate
from watchword.bench.peer import hide_broken
from watchword.errors import WatchwordError
from watchword.generation.graphs import Stepper, recorder
from watchword.generation.options import GenerationOptions
from watchword.generation.requests import Job
from watchword.generation.serving import Engine
from watchword.nn.devices import chosen_device
from watchword.pipeline.opening import check_backend
from watchword.weights.quantize import POLICY, Recipe

SIDES = ("ours", "flash", "fixed", "graph", "compiled", "int8", "int4", "transformers")
FORMS = ("int8", "int4")

Answer = Callable[[int], object]
"""Answers the prompt with so many tokens."""


def engine_of(side: str, model: nn.Module, given: argparse.Namespace) -> Answer:
    """One of our sides, ready to answer."""
    decoder = model
    if side == "fixed":
        decoder = Stepper(model, lambda run: run)
    elif side not in ("ours", "flash"):
        decoder = Stepper(model, recorder(given.device, compiled=side != "graph"))
    engine = Engine(decoder, dtype=torch.bfloat16, device=given.device, piece=given.prompt)
    ids = torch.randint(3, 32000, (1, given.prompt), generator=torch.Generator().manual_seed(0))
    ids = ids.to(given.device)

    def answer(tokens: int) -> object:
        def embed(start: int, end: int) -> torch.Tensor:
            return model.embed(ids[:, start:end])

        options = GenerationOptions(max_new_tokens=tokens)
        jobs = [Job(embed, given.prompt, options, history=tuple(ids[0].tolist())) for _ in range(given.rows)]
        return engine.run_all(jobs)

    return answer


def reference(given: argparse.Namespace) -> Answer:
    """transformers with the same shapes; its weights are noise as well."""
    hide_broken("torchvision")
    import transformers

    settings = {
        name: value for name, value in text(given.layers, given.width).items() if name != "model_type"
    }
    with torch.device(given.device):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings)).to(torch.bfloat16).eval()
    ids = torch.randint(3, 32000, (given.rows, given.prompt)).to(given.device)

    def answer(tokens: int) -> object:
        return model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens,
            do_sample=False, cache_implementation="static", pad_token_id=0,
        )  # fmt: skip

    return answer


def seconds(answer: Answer, tokens: int, given: argparse.Namespace) -> list[float]:
    """How long answers of that length take, after rounds in which shapes are compiled and recorded."""
    found = []
    for _ in range(given.warm_ups + given.repeats):
        start = time.perf_counter()
        answer(tokens)
        if given.device.type == "cuda":
            torch.cuda.synchronize(given.device)
        found.append(time.perf_counter() - start)
    return found[given.warm_ups :]


def quantize(model: nn.Module, form: str) -> None:
    """The text model's linears in few bits, each of them on the card while it is converted."""
    recipe = Recipe(form)
    for path, linear in list(model.named_modules()):
        if isinstance(linear, nn.Linear):
            own = POLICY[form]["head" if path == "lm_head" else "text"]
            model.set_submodule(path, recipe.linear(own, linear.weight, path).to(linear.weight.device))


def work(given: argparse.Namespace, side: str = "ours") -> tuple[float, float]:
    """Bytes that a step reads, and operations of a prefill."""
    width, inner = given.width, int(given.width * 2.6875)
    weights = given.layers * (4 * width * width + 3 * width * inner)
    middle = given.prompt + given.tokens / 2
    bytes_ = {"int8": 1, "int4": 0.5 + 2 / 64}.get(side, 2)  # a scale for each 64
    head = (1 if side in FORMS else 2) * width * 32000
    read = bytes_ * weights + head + 2 * 2 * given.layers * width * middle * given.rows
    scores = 2 * 2 * given.layers * width * given.prompt**2 / 2
    return read, given.rows * (2 * weights * given.prompt + scores)


def measured(side: str, answer: Answer, given: argparse.Namespace, limits: dict) -> dict:
    """Medians and spreads of one side, and its shares of the limits."""
    began = time.perf_counter()
    answer(given.tokens)
    warm = time.perf_counter() - began
    first, whole = seconds(answer, 1, given), seconds(answer, given.tokens, given)
    prefill = statistics.median(first)
    step = (statistics.median(whole) - prefill) / (given.tokens - 1)
    read, operations = work(given, side)
    return {
        "side": side, "prefill_s": prefill, "prefill_spread_s": max(first) - min(first),
        "first_answer_s": warm, "decode_s": step, "whole_spread_s": max(whole) - min(whole),
        "tokens_per_s": given.rows / step if step > 0 else None,
        "share_of_read_rate": read / step / limits["read_bytes_per_s"] if step > 0 else None,
        "share_of_matrix_rate": operations / prefill / limits["bfloat16_flop_per_s"],
    }  # fmt: skip


def why_not(side: str, given: argparse.Namespace) -> str | None:
    """Why a side can not run here."""
    if side in ("graph", "compiled", *FORMS) and given.device.type != "cuda":
        return "CUDA graphs need a CUDA device"
    if side == "flash":
        try:
            check_backend("flash_attention_2")
        except WatchwordError as error:
            return str(error)
    if side == "transformers" and importlib.util.find_spec("transformers") is None:
        return "transformers is not installed"
    return None


def arguments(words: list[str] | None) -> argparse.Namespace:
    """What to measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--width", type=int, default=4096, help="a multiple of 128")
    parser.add_argument("--prompt", type=int, default=2087, help="positions; 8 frames and a question")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rows", type=int, default=1, help="requests together")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warm-ups", type=int, default=2)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    return parser.parse_args(words)


@torch.no_grad()
def main(words: list[str] | None = None) -> None:
    """Print the lines."""
    given = arguments(words)
    try:
        given.device = chosen_device(given.device)
    except WatchwordError as error:
        sys.exit(str(error))
    rows = 8192 if given.device.type == "cuda" else 256
    limits = {
        "read_bytes_per_s": read_rate(given.device),
        "bfloat16_flop_per_s": matrix_rate("bfloat16", given.device, rows=rows),
    }
    card = torch.cuda.get_device_name(given.device) if given.device.type == "cuda" else "cpu"
    told = {name: str(value) for name, value in vars(given).items() if name != "sides"}
    print(json.dumps({"device": card, "torch": torch.__version__, **told, **limits}), flush=True)
    model = None
    for side in given.sides:
        if reason := why_not(side, given):
            print(json.dumps({"side": side, "left_out": reason}), flush=True)
            continue
        if side == "transformers":
            model = None  # room for the other
            print(json.dumps(measured(side, reference(given), given, limits)), flush=True)
            continue
        if model is None or side in FORMS or side == "flash":
            model = None
            backend = "flash_attention_2" if side == "flash" else BACKEND
            model = wide_llama(given.layers, given.width, backend)[0].to(given.device)
        if side in FORMS:
            quantize(model, side)
        print(json.dumps(measured(side, engine_of(side, model, given), given, limits)), flush=True)
        if side in FORMS or side == "flash":
            model = None


if __name__ == "__main__":
    main()
