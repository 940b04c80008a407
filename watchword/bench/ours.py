"""One checkpoint measured here: loading, the first word, further words, frames, memory."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from watchword.bench.machine import peak_bytes
from watchword.errors import CapacityError
from watchword.media.frames import Clip
from watchword.pipeline.asking import Pipeline
from watchword.pipeline.families import Exchange, Family, Words

QUESTION = "What happens?"


@dataclass(frozen=True)
class Work:
    """What is asked of a model.

    Attributes:
        frames: of the clip; None for a picture.
        tokens: of the answer, at least 2. End tokens do not end it.
        beams: searched with.
        repeats: of the question after a first one that does not count; medians are told.
        question: the words.
    """

    frames: int | None
    tokens: int = 16
    beams: int = 1
    repeats: int = 3
    question: str = QUESTION


@dataclass(frozen=True)
class Measured:
    """What one side took.

    Attributes:
        name: of the side.
        positions: of the prompt.
        load: seconds until it could be asked.
        first_token: seconds from frames to the first token, nothing remembered.
        step: seconds of one further token, or of one step of all beams.
        vision: seconds from frames to visual tokens; None where it was not measured.
        peak: bytes, of the whole process, or of what it held of a card.
        runs: every measured time of a first token.
    """

    name: str
    positions: int
    load: float
    first_token: float
    step: float
    vision: float | None
    peak: int | None
    runs: Sequence[float] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def random_media(frames: int | None, side: int) -> np.ndarray:
    """Noise of a picture's or a clip's size: UInt8 H W 3, or T H W 3."""
    shape = (side, side, 3) if frames is None else (frames, side, side, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def measure(pipeline: Pipeline, work: Work, load: float, name: str) -> Measured:
    """Ask a loaded checkpoint the same question again and again, each time with nothing remembered.

    Args:
        load: seconds that loading took.
        name: of the side.

    Raises:
        CapacityError: the model has no room for such a prompt and answer.
    """
    side = pipeline.model.config.vision_config.image_size
    media = random_media(work.frames, side)
    firsts, steps, visions = [], [], []
    for number in range(work.repeats + 1):
        first, step, vision, positions = once(pipeline, media, work)
        if number:  # the first one maps the weights and warms the machine up
            firsts.append(first)
            steps.append(step)
            visions.append(vision)
    return Measured(
        name=name,
        positions=positions,
        load=load,
        first_token=statistics.median(firsts),
        step=statistics.median(steps),
        vision=statistics.median(visions),
        peak=peak_bytes(pipeline.device),
        runs=tuple(round(one, 4) for one in firsts),
    )


def once(pipeline: Pipeline, media: np.ndarray, work: Work) -> tuple[float, float, float, int]:
    """Seconds to the first token, per further step, of looking; and the positions of the prompt."""
    answer = asked(pipeline, media, work)
    # beams tell their tokens at the end; the scores of the first one are there when the prompt has been run
    first = answer.seconds["first_token" if work.beams == 1 else "prompt"]
    step = (answer.seconds["total"] - first) / (answer.tokens["answer"] - 1)
    return first, step, answer.seconds["vision"], answer.tokens["prompt"]


def asked(pipeline: Pipeline, media: np.ndarray, work: Work) -> Any:
    """An answer of exactly so many tokens, to a question never heard before."""
    tokens = work.tokens
    pipeline.cache.clear()
    answer = pipeline.ask(
        media, work.question, frames=work.frames, max_new_tokens=tokens, min_new_tokens=tokens,
        beams=work.beams,
    )  # fmt: skip
    if answer.tokens["answer"] != tokens:
        raise CapacityError(
            f"bench: {pipeline.name} gave {answer.tokens['answer']} tokens, expected {tokens} behind a "
            f"prompt of {answer.tokens['prompt']}; ask for fewer frames or tokens"
        )
    return answer


def clip_of(work: Work, side: int) -> Clip:
    """The work's noise as a clip or picture that was read."""
    media = random_media(work.frames, side)
    if work.frames is None:
        return Clip(media[None], (0,), None, 1, kind="picture")
    return Clip(media, tuple(range(len(media))), None, len(media), kind="video")


def peer_task(
    config: Any,
    family: Family,
    words: Words,
    work: Work,
    folder: str,
    *,
    dtype: torch.dtype,
    device: Any = "cpu",
) -> dict[str, Any]:
    """The same work for a peer in another process: the prompt as ids, pixels by their size."""
    side = config.vision_config.image_size
    exchange = Exchange(work.question, (clip_of(work, side),))
    return {
        "folder": folder,
        "model_type": config.model_type,
        "ids": family.encode(config, words, [exchange]).ids,
        "qformer_ids": list(family.instruction(words, work.question)),
        "side": side,
        "frames": work.frames,
        "tokens": work.tokens,
        "beams": work.beams,
        "repeats": work.repeats,
        "threads": torch.get_num_threads(),
        "device": str(device),
        "dtype": str(dtype).removeprefix("torch."),
    }


def timed_load(folder: Any, **how: Any) -> tuple[Pipeline, float]:
    """A loaded checkpoint and the seconds it took."""
    from watchword.pipeline import load

    start = time.perf_counter()
    pipeline = load(folder, **how)
    return pipeline, time.perf_counter() - start
