"""What beams cost before the first token: InstructBLIP of 7B width, 5 beams against greedy choice.

    python -m benchmarks.beams --layers 4 --vision-layers 39

Random weights in bfloat16, one picture, 32 visual tokens and a question. Measured from the request to the end
of the step in which the first token was chosen and every beam has its row, once with the picture's way
through tower and Q-Former and once behind it. With --reference the same sizes in transformers, in a process
of their own. The last line of the output is a JSON object.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import torch

from benchmarks.models import wide_instructblip
from watchword.generation.options import GenerationOptions
from watchword.generation.requests import Job
from watchword.generation.serving import Engine
from watchword.shapes import Tensor

WORDS = 24
"""Tokens of the question."""


def first_token(engine: Engine, job: Job) -> float:
    """Seconds until the first token was chosen and the beams stand."""
    start = time.perf_counter()
    ticket = engine.submit(job)
    while "prompt" not in ticket.seconds:
        engine.step()
    seconds = time.perf_counter() - start
    engine.cancel(ticket)
    return seconds


def each_token(engine: Engine, job: Job) -> float:
    """Seconds per token after the first."""
    ticket = engine.submit(job)
    while "prompt" not in ticket.seconds:
        engine.step()
    start, steps = time.perf_counter(), 0
    while engine.step():
        steps += 1
    return (time.perf_counter() - start) / max(steps, 1)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--vision-layers", type=int, default=39)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--beams", type=int, default=5)
    parser.add_argument("--reference", action="store_true", help="beside it the same in transformers")
    given = parser.parse_args()
    reference = against(given) if given.reference else {}
    torch.set_num_threads(given.threads)
    model = wide_instructblip(given.layers, given.width, given.vision_layers)
    size = model.config.vision_config.image_size
    visual = torch.full((1, model.config.num_query_tokens), model.config.image_token_index)
    ids = torch.cat([visual, torch.randint(3, 30000, (1, WORDS))], dim=1)
    instruction = torch.randint(1000, 30000, (1, WORDS))
    pixels = torch.randn(1, 1, 3, size, size).to(torch.bfloat16)
    ready = model.embed(ids, pixels, instruction)

    def job(embeds: Tensor | None, beams: int) -> Job:
        options = GenerationOptions(num_beams=beams, max_new_tokens=12, min_new_tokens=12, eos_token_ids=(2,))

        def embed(start: int, end: int) -> Tensor:
            return (model.embed(ids, pixels, instruction) if embeds is None else embeds)[:, start:end]

        return Job(embed, ids.shape[1], options, history=tuple(ids[0].tolist()))

    engine = Engine(model.language_model, dtype=torch.bfloat16)
    result = {
        "layers": given.layers,
        "vision_layers": given.vision_layers,
        "beams": given.beams,
        "prompt": ids.shape[1],
        "threads": given.threads,
    }
    for name, embeds in (("language_model", ready), ("with_picture", None)):
        times: dict[int, list[float]] = {1: [], given.beams: []}
        for beams in times:
            first_token(engine, job(embeds, beams))
        for _ in range(given.rounds):
            for beams, seconds in times.items():
                seconds.append(first_token(engine, job(embeds, beams)))
        greedy, beamed = (min(seconds) for seconds in times.values())
        result[name] = {
            "greedy_ms": round(1000 * greedy, 1),
            "beams_ms": round(1000 * beamed, 1),
            "ratio": round(beamed / greedy, 3),
        }
    steps = [statistics.median(each_token(engine, job(ready, beams)) for _ in range(3)) for beams in times]
    result["each_further_token_ms"] = {
        "greedy": round(1000 * steps[0], 1),
        "beams": round(1000 * steps[1], 1),
    }
    print(json.dumps(result | reference))


def against(given: argparse.Namespace) -> dict:
    """The same sizes in transformers; before ours, so that memory holds one model at a time."""
    sizes = [f"--{name}={getattr(given, name.replace('-', '_'))}"
             for name in ("layers", "width", "vision-layers", "threads", "rounds", "beams")]  # fmt: skip
    command = [sys.executable, "-m", "benchmarks.reference_beams", *sizes]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {"reference": json.loads(out.splitlines()[-1])}


if __name__ == "__main__":
    main()
