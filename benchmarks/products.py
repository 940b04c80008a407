"""Products with quantized weights, and layers of a 7B LLaMA made of them, against bfloat16 and the machine.

    python benchmarks/products.py                          # everything: two minutes on two cores
    python benchmarks/products.py --forms int8 --layers-only

Each line is a JSON object. `of_memory` is what must be read once (packed weights, scales, keys and
values) over the time, as a share of the timed read of 1 GiB in the same run; `of_matrix` the operations over
the time, as a share of the rate of a large matrix product of the format's type.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from watchword.bench.machine import matrix_rate, read_rate
from watchword.config import LlamaConfig
from watchword.generation.cache import KVCache
from watchword.models.llama import Llama
from watchword.weights.quantize import Recipe

INNER, OUTER = 4096, 11008
ROWS = (1, 5, 16, 46, 256, 2087)
FORMS = ("bfloat16", "int8", "int4", "nf4")
PROMPT = 2087
DEEP = 2


def seconds(work: Callable[[], object], times: int = 5) -> float:
    """Median, after one that warms up."""
    taken = []
    for _ in range(times + 1):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def say(**values) -> None:
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}), flush=True)


def linear(form: str, inner: int, outer: int) -> nn.Module:
    dense = nn.Linear(inner, outer, bias=False, dtype=torch.bfloat16)
    if form == "bfloat16":
        return dense
    made = Recipe(form).linear(form, dense.weight.detach(), "x")
    made.settle()
    return made


def bytes_of(module: nn.Module) -> int:
    return sum(getattr(one, "nbytes", 0) or (one.weight.nbytes if isinstance(one, nn.Linear) else 0)
               for one in module.modules())  # fmt: skip


def products(form: str, read: float, rates: dict[str, float]) -> None:
    one = linear(form, INNER, OUTER)
    for rows in ROWS:
        x = torch.randn(rows, INNER, dtype=torch.bfloat16)
        taken = seconds(lambda x=x: one(x))
        say(
            case="product", form=form, rows=rows, milliseconds=taken * 1e3,
            of_memory=bytes_of(one) / taken / read, of_matrix=2 * rows * INNER * OUTER / taken / rates[form],
        )  # fmt: skip


def text_model(form: str) -> Llama:
    """Two layers of the real shape; the vocabulary is left out."""
    config = LlamaConfig(
        vocab_size=64, hidden_size=INNER, intermediate_size=OUTER, num_hidden_layers=DEEP,
        num_attention_heads=32,
    )  # fmt: skip
    with torch.device("meta"):
        model = Llama(config, backend="blocked")
    for path, one in list(model.named_modules()):
        if isinstance(one, nn.Linear) and path != "lm_head":
            model.set_submodule(path, linear(form, one.in_features, one.out_features))
    model.lm_head = nn.Linear(INNER, 64, bias=False, dtype=torch.bfloat16)
    model.model.embed_tokens = nn.Embedding(64, INNER, dtype=torch.bfloat16)
    for path, one in model.named_modules():
        if path.endswith("norm"):
            one.weight = nn.Parameter(torch.ones(INNER, dtype=torch.bfloat16))
    return model.eval()


def layers(form: str, read: float, rates: dict[str, float]) -> None:
    model = text_model(form)
    embeds = torch.randn(1, PROMPT, INNER, dtype=torch.bfloat16)
    held: list[KVCache] = []

    def prefill() -> None:
        held[:] = [KVCache(model.cache_spec, 1, capacity=PROMPT + 64, dtype=torch.bfloat16)]
        model.prefill(embeds, torch.tensor([PROMPT]), held[0])

    taken = seconds(prefill, 3) / DEEP
    matrices = 2 * PROMPT * (4 * INNER * INNER + 3 * INNER * OUTER)
    attention = 4 * PROMPT * PROMPT * INNER / 2
    say(
        case="layer prefill", form=form, rows=PROMPT, milliseconds=taken * 1e3,
        of_matrix=(matrices + attention) / taken / rates[form],
    )  # fmt: skip
    weights = bytes_of(model.model.layers)
    for rows in (1, 5):
        cache = held[0]
        if rows > 1:
            cache.fork(rows)
        ids = torch.zeros(rows, dtype=torch.long)
        taken = seconds(lambda ids=ids, cache=cache: model.decode(ids, cache), 9) / DEEP
        keys = 2 * rows * PROMPT * INNER * 2
        say(
            case="layer decode", form=form, rows=rows, milliseconds=taken * 1e3,
            of_memory=(weights / DEEP + keys) / taken / read,
        )  # fmt: skip


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=FORMS)
    parser.add_argument("--layers-only", action="store_true")
    parser.add_argument("--products-only", action="store_true")
    options = parser.parse_args()
    read, half, whole = read_rate(), matrix_rate("bfloat16"), matrix_rate("int8")
    rates = {form: whole if form == "int8" else half for form in FORMS}
    say(
        case="limits", torch=torch.__version__, machine=platform.machine(), threads=torch.get_num_threads(),
        capability=torch.backends.cpu.get_cpu_capability(), read_gb=read / 1e9, bfloat16_gflops=half / 1e9,
        int8_gflops=whole / 1e9,
    )  # fmt: skip
    for form in options.forms:
        if not options.layers_only:
            products(form, read, rates)
        if not options.products_only:
            layers(form, read, rates)


if __name__ == "__main__":
    main()
