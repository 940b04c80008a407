"""How well a model does on what was held out: its loss, and what it answers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from watchword.generation.engine import Prompt, generate
from watchword.generation.options import GenerationOptions
from watchword.train.batching import Batch, collate
from watchword.train.features import tower_dtype
from watchword.train.feed import Maker
from watchword.train.learner import Learner
from watchword.train.opening import Opened
from watchword.train.parallel import Team
from watchword.train.recipes import set_modes

DRAW = 2**31
"""Stands for the step where wordings are drawn, so that each measurement asks the same."""
LONGEST = 64
"""Tokens of a sample."""


@contextmanager
def resting(learner: Learner) -> Iterator[None]:
    """Nothing learns and nothing is dropped."""
    learner.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        set_modes(learner.model)


def loss_on(
    numbers: Sequence[int],
    maker: Maker,
    learner: Learner,
    opened: Opened,
    team: Team,
    micro: int,
    sharded: bool,
) -> float:
    """The mean loss over all learned tokens of some examples.

    Args:
        sharded: the weights are spread, so that all processes have to compute the same.
    """
    own = np.array(numbers if sharded else numbers[team.rank :: team.world], dtype=int)
    total, learned = 0.0, 0
    with resting(learner):
        for first in range(0, len(own), micro):
            batch = maker.batch(own[first : first + micro], DRAW)
            learned += batch.learned
            total += float(learner(batch.to(opened.device, tower_dtype(opened.model))).sum())
    return total / learned if sharded else team.total(total) / team.total(learned)


def answers(numbers: Sequence[int], maker: Maker, learner: Learner, opened: Opened) -> list[dict[str, Any]]:
    """What the model answers to the first question of each example, beside what it should."""
    return [answer(number, maker, learner, opened) for number in numbers]


def answer(number: int, maker: Maker, learner: Learner, opened: Opened) -> dict[str, Any]:
    """One answer: the likeliest token each time."""
    example, seen = maker.data.examples[number], maker.data.frames[number]
    question, row = maker.encoder.prompt(example, seen, (maker.seed, 3, DRAW, number))
    media = [maker.see(one) for one in example.media]
    blip = not opened.family.knows_turns
    batch = collate([(number, row)], media, [range(len(media))], blip=blip)
    text = opened.config.text_config
    with resting(learner):
        batch = batch.to(opened.device, tower_dtype(opened.model))
        embeds = learner.embeds(batch)
        found = generate(
            opened.model.language_model,
            Prompt(embeds, torch.tensor([embeds.shape[1]]), start_ids=start_ids(text, batch)),
            GenerationOptions(max_new_tokens=room(text, embeds.shape[1]), eos_token_ids=(maker.encoder.end,)),
        )
    said = opened.words.text.decode(found.sequences[0].tolist(), skip_special_tokens=True).strip()
    return {"where": example.where, "question": question, "answer": said, "expected": example.turns[0].answer}


def room(text: Any, length: int) -> int:
    """Tokens that an answer may have."""
    most = None if text.is_encoder_decoder else getattr(text, "max_position_embeddings", None)
    return LONGEST if most is None else max(1, min(LONGEST, most - length))


def start_ids(text: Any, batch: Batch) -> torch.Tensor | None:
    """What T5's decoder begins with."""
    if not text.is_encoder_decoder:
        return None
    return torch.tensor([[text.decoder_start_token_id or 0]], device=batch.ids.device)
