"""What each rank of a tensor-parallel run does, and a single process alone: ask, and print the answers.

Run as a program: `ranks.py FOLDER...`, in the environment of torchrun.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

WAYS = (
    {"temperature": 1.0, "n": 2},  # seeds come from torch's global generator, which rank 0 shares
    {"num_beams": 3},
)


def answers(folders, parallel=None):
    """The ids of every answer."""
    import watchword

    picture = torch.arange(30 * 30 * 3).reshape(30, 30, 3).to(torch.uint8)
    torch.manual_seed(0 if parallel is None or os.environ["RANK"] == "0" else 99)
    models = [watchword.load(folder, parallel=parallel, device="cpu") for folder in folders]
    return [[*(ids(model, picture, **way) for way in WAYS), *in_step(model)] for model in models]


def ids(model, picture, **way):
    """Every token of the answers, those without letters too."""
    stream = model._called(picture, "What is it?", max_tokens=3, **way)
    stream.collect()
    return stream.ticket.sequences


def in_step(model):
    """Two prompts of unequal length through `generate`."""
    from watchword.generation.engine import Prompt, generate
    from watchword.generation.options import GenerationOptions

    text = model.model.language_model
    width = text.get_input_embeddings().embedding_dim
    embeds = torch.randn(2, 6, width, generator=torch.Generator().manual_seed(1))
    start_ids = torch.zeros(2, 1, dtype=torch.long) if text.cache_spec.cross else None
    prompt = Prompt(embeds, torch.tensor([6, 4]), start_ids=start_ids)
    return [generate(text, prompt, GenerationOptions(max_new_tokens=3)).sequences.tolist()]


def start(arguments, ranks=2, **settings):
    """Programs in the environment that torchrun would give them; their results, rank by rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    running = [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        )
        for rank in range(ranks)
    ]  # fmt: skip
    return [(*one.communicate(timeout=100), one.returncode) for one in running]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(answers(sys.argv[1:], parallel="tensor")))
