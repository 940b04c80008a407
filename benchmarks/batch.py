"""Many requests at once: throughput against one after the other, and the gap while a long prompt enters.

    python -m benchmarks.batch embedded
    python -m benchmarks.batch wide --layers 4 --threads 2

`embedded` is the model that comes with the library, asked about clips of random pixels; `wide` is a LLaMA of
7B width with random weights in bfloat16. Every answer has its full length, for random weights know no end.
The last line of the output is a JSON object.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.models import embedded, wide_llama
from watchword.generation.options import GenerationOptions
from watchword.generation.requests import Job
from watchword.generation.serving import Engine

REQUESTS = 8
LONG = 2000
"""Positions of the prompt that enters while others run."""


def jobs(embed: Callable, length: int, tokens: int, count: int = REQUESTS) -> list[Job]:
    """Greedy requests, each with a prompt of its own."""
    options = GenerationOptions(max_new_tokens=tokens)
    return [Job(embed(number), length, options) for number in range(count)]


def one_by_one(engine: Engine, many: list[Job]) -> tuple[float, list[list[int]]]:
    """Seconds, and the answers."""
    start = time.perf_counter()
    answers = [engine.run(job).sequences[0] for job in many]
    return time.perf_counter() - start, answers


def together(engine: Engine, many: list[Job]) -> tuple[float, list[list[int]]]:
    """Seconds, and the answers."""
    start = time.perf_counter()
    answers = [ticket.sequences[0] for ticket in engine.run_all(many)]
    return time.perf_counter() - start, answers


def throughput(engine: Engine, make: Callable[[], list[Job]], rounds: int) -> dict:
    """Tokens per second both ways, taking turns; the best round of each."""
    together(engine, make())
    alone, company, same = [], [], True
    for _ in range(rounds):
        seconds, expected = one_by_one(engine, make())
        alone.append(seconds)
        seconds, found = together(engine, make())
        company.append(seconds)
        same &= found == expected
    tokens = sum(map(len, found))
    first, second = min(alone), min(company)
    return {
        "tokens": tokens,
        "one_by_one_tokens_per_second": round(tokens / first, 1),
        "together_tokens_per_second": round(tokens / second, 1),
        "ratio": round(first / second, 2),
        "same_ids": same,
    }


def gaps(engine: Engine, running: list[Job], entering: Job, piece: Job) -> dict:
    """How long a running answer waits for its next token, before and while a long prompt enters.

    `piece` has a prompt of exactly one piece and one token to give: its time alone is that of a piece.
    """
    engine.run(piece)
    start = time.perf_counter()
    engine.run(piece)
    one_piece = time.perf_counter() - start
    tickets = [engine.submit(job) for job in running]
    watched = tickets[0]
    while not tickets[-1].sequences[0]:
        engine.step()
    steps: list[float] = []
    long = None
    last = time.perf_counter()
    while watched.reason is None and (long is None or long.reason is None):
        count = len(watched.sequences[0])
        if len(steps) == 12:
            long = engine.submit(entering)
        engine.step()
        if len(watched.sequences[0]) > count:
            now = time.perf_counter()
            steps.append(now - last)
            last = now
    assert long is not None
    assert long.reason == "done"
    for ticket in tickets:
        engine.cancel(ticket)
    median = statistics.median(steps[:12])
    worst = max(steps[12:])
    return {
        "median_step_ms": round(1000 * median, 1),
        "piece_ms": round(1000 * one_piece, 1),
        "worst_gap_ms": round(1000 * worst, 1),
        "allowed_ms": round(1000 * (3 * median + one_piece), 1),
    }


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=["embedded", "wide"])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--length", type=int, default=64, help="positions of a prompt of the wide model")
    parser.add_argument("--piece", type=int, default=512)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    settings = dict(piece=given.piece)
    if given.model == "embedded":
        decoder, embed, length = embedded()
    else:
        decoder, embed = wide_llama(given.layers, given.width)
        length = given.length
        settings["dtype"] = torch.bfloat16
    result = {"model": given.model, "requests": REQUESTS, "prompt": length, "threads": given.threads}
    engine = Engine(decoder, **settings)
    result |= throughput(engine, lambda: jobs(embed, length, given.tokens), given.rounds)
    if given.model == "wide":
        running = jobs(embed, length, 400, REQUESTS - 1)
        options = GenerationOptions(max_new_tokens=1)
        long, piece = (Job(embed(0, size), size, options) for size in (LONG, given.piece))
        result |= gaps(engine, running, long, piece)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
