"""The reference's seconds to the first token, greedy and with beams; run by `benchmarks.beams --reference`.

Prompt and picture run in `generate` with one new token, which is until the first token is chosen. The sizes
are those of `benchmarks.models.wide_instructblip`.
"""

import argparse
import json
import sys
import time

import torch

from benchmarks.models import text

sys.modules["torchvision"] = None  # type: ignore[assignment]  # not needed, and often built for another torch
import transformers  # noqa: E402
from transformers import InstructBlipConfig, InstructBlipForConditionalGeneration  # noqa: E402

WORDS = 24


def model_of(layers: int, width: int, vision_layers: int) -> InstructBlipForConditionalGeneration:
    """InstructBLIP in bfloat16 with random weights."""
    config = InstructBlipConfig(
        vision_config={"num_hidden_layers": vision_layers}, text_config=text(layers, width),
        image_token_index=31999,
    )  # fmt: skip
    with torch.device("meta"):
        model = InstructBlipForConditionalGeneration(config).to(torch.bfloat16)
    model = model.to_empty(device="cpu").eval().requires_grad_(False)
    noise = (torch.randn(2**20) * 0.02).to(torch.bfloat16)
    for tensor in (*model.parameters(), *model.buffers()):
        flat = tensor.view(-1)
        for start in range(0, len(flat) if tensor.is_floating_point() else 0, len(noise)):
            part = flat[start : start + len(noise)]
            part.copy_(noise[: len(part)])
    for name, tensor in model.named_buffers():
        if name.endswith("position_ids"):
            tensor.copy_(torch.arange(tensor.shape[-1]).expand_as(tensor))
    return model


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("layers", 4), ("width", 4096), ("vision-layers", 39), ("threads", 2),
                          ("rounds", 7), ("beams", 5)):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = model_of(given.layers, given.width, given.vision_layers)
    size, queries = model.config.vision_config.image_size, model.config.num_query_tokens
    words = torch.randint(3, 30000, (1, WORDS))
    inputs = {
        "pixel_values": torch.randn(1, 3, size, size).to(torch.bfloat16),
        "qformer_input_ids": torch.randint(1000, 30000, (1, WORDS)),
        "input_ids": torch.cat([torch.full((1, queries), 31999), words], dim=1),
    }

    def seconds(beams: int) -> float:
        start = time.perf_counter()
        model.generate(**inputs, max_new_tokens=1, num_beams=beams, do_sample=False)
        return time.perf_counter() - start

    times: dict[int, list[float]] = {1: [], given.beams: []}
    for beams in times:
        seconds(beams)
    for _ in range(given.rounds):
        for beams, found in times.items():
            found.append(seconds(beams))
    greedy, beamed = (min(found) for found in times.values())
    print(json.dumps({
        "transformers": transformers.__version__, "greedy_ms": round(1000 * greedy, 1),
        "beams_ms": round(1000 * beamed, 1), "ratio": round(beamed / greedy, 3),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
