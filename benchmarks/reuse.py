"""The second question about a clip: how long until its first token, against the first question's.

    python -m benchmarks.reuse --layers 4

Video-LLaVA of 7B width with random weights in bfloat16, a clip of 8 frames (2,056 visual tokens), CLIP towers
of the real size. Asked: a first question, another one, and two more turns of the first one's chat. Then the
second question to InstructBLIP, whose tower must not be asked again. The last line of the output is a JSON
object; `share` is against the first question.
"""

import argparse
import json
import time
from collections.abc import Callable

import torch

from benchmarks.models import wide_instructblip, wide_video_llava
from watchword.generation.kept import Kept
from watchword.generation.options import GenerationOptions
from watchword.generation.prefix import Key
from watchword.generation.requests import Job
from watchword.generation.serving import Engine
from watchword.shapes import Tensor

FRAMES = 8
OPTIONS = GenerationOptions(max_new_tokens=24)


def first_token(engine: Engine, job: Job) -> tuple[float, list[int], int]:
    """Seconds until the first token, the whole answer, and how many positions were known."""
    start = time.perf_counter()
    ticket = engine.submit(job)
    stream = engine.steps(ticket)
    next(stream)
    seconds = time.perf_counter() - start
    list(stream)
    return seconds, ticket.sequences[0], ticket.reused


def words(count: int, seed: int) -> list[int]:
    return torch.randint(3, 30000, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def video_llava(layers: int, width: int, rounds: int) -> dict:
    """Seconds to the first token of each question, the store emptied before the first."""
    model = wide_video_llava(layers, width)
    config = model.config
    clip_token, side = config.video_token_index, config.vision_config.image_size
    kept = Kept(4 * 2**30)
    engine = Engine(model.language_model, kept=kept, dtype=torch.bfloat16)
    times: dict[str, list[float]] = {"first": [], "second": [], "turn_2": [], "turn_3": []}
    known = {}

    for turn in range(rounds):
        kept.clear()
        pixels = torch.randn(1, FRAMES, 3, side, side).to(torch.bfloat16)
        medium = f"clip {turn}".encode()

        def features(pixels: Tensor = pixels, medium: bytes = medium) -> Tensor:
            found = kept.get(("features", medium))
            if found is None:
                found = model.video_tokens(pixels)
                kept.put(("features", medium), found)
            return found

        def job(ids: list[int], features: Callable = features, medium: bytes = medium) -> Job:
            row = torch.tensor([ids])
            at = ids.index(clip_token)
            visual = range(at, at + config.video_seq_length)
            keys: list[Key] = [
                (medium, place - at) if place in visual else ids[place] for place in range(len(ids))
            ]

            def embed(start: int, end: int) -> Tensor:
                embeds = model.language_model.embed(row[:, start:end])
                first, last = max(start, visual.start), min(end, visual.stop)
                if first < last:
                    tokens = features().flatten(0, 1)
                    embeds[0, first - start : last - start] = tokens[first - at : last - at]
                return embeds

            return Job(embed, len(ids), OPTIONS, keys=keys, scope="benchmark", history=tuple(ids))

        head = [*words(4, 0), *[clip_token] * config.video_seq_length, 13]
        tail = words(5, 1)
        chat, answer = [*head, *words(20, 2), *tail], []
        for name in times:
            if name == "second":
                ids = [*head, *words(22, 3), *tail]
            elif name != "first":
                chat = [*chat, *answer, *words(21, 4), *tail]
            seconds, given, reused = first_token(engine, job(ids if name == "second" else chat))
            if name != "second":
                answer = given
            times[name].append(seconds)
            known[name] = reused
    first = min(times["first"])
    return {
        name: {
            "ms": round(1000 * min(seconds), 1),
            "share": round(min(seconds) / first, 4),
            "positions_known": known[name],
        }
        for name, seconds in times.items()
    }


def instructblip(layers: int, width: int, vision_layers: int, rounds: int) -> dict:
    """The same for a picture, with the tower's features kept; how often the tower was asked."""
    model = wide_instructblip(layers, width, vision_layers)
    config, calls = model.config, []
    kept = Kept(2**30)
    engine = Engine(model.language_model, kept=kept, dtype=torch.bfloat16)
    model.vision_model.register_forward_hook(lambda *_: calls.append(1))
    times: dict[str, list[float]] = {"first": [], "second": []}
    calls_of = dict.fromkeys(times, 0)
    size = config.vision_config.image_size
    visual = [config.image_token_index] * config.num_query_tokens
    for turn in range(rounds):
        kept.clear()
        pixels = torch.randn(1, 3, size, size).to(torch.bfloat16)

        def job(seed: int, pixels: Tensor = pixels, turn: int = turn) -> Job:
            ids = torch.tensor([[*visual, *words(24, seed)]])
            instruction = torch.tensor([words(20, seed)])

            def embed(start: int, end: int) -> Tensor:
                features = kept.get(("features", turn))
                if features is None:
                    calls.append(1)
                    features, _ = model.vision_model.features(pixels)
                    kept.put(("features", turn), features)
                states = model.bridge(features, ids=instruction)
                tokens = model.language_projection(states[:, : config.num_query_tokens])
                embeds = model.language_model.embed(ids)
                embeds[0, : len(visual)] = tokens[0]
                return embeds[:, start:end]

            return Job(embed, ids.shape[1], OPTIONS, history=tuple(ids[0].tolist()))

        for seed, name in enumerate(times):
            calls.clear()
            times[name].append(first_token(engine, job(seed))[0])
            calls_of[name] = len(calls)
    first = min(times["first"])
    return {
        name: {
            "ms": round(1000 * min(seconds), 1),
            "share": round(min(seconds) / first, 4),
            "tower_calls": calls_of[name],
        }
        for name, seconds in times.items()
    }


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--vision-layers", type=int, default=39)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    result: dict = {"layers": given.layers, "width": given.width, "threads": given.threads}
    result["video_llava"] = video_llava(given.layers, given.width, given.rounds)
    result["instructblip"] = instructblip(given.layers, given.width, given.vision_layers, given.rounds)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
