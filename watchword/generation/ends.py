"""When a row ends: an end token, the clock, or a criterion of the caller's own."""

import time
from collections.abc import Callable, Sequence

import torch

from watchword.generation.logits import Seen
from watchword.generation.options import GenerationOptions
from watchword.shapes import Bool, Tensor

Stop = Callable[[Tensor, tuple[Tensor, ...] | None], Tensor | bool]
"""A caller's own: stop(ids N S, scores of all steps or None) -> which rows end, or whether all do."""


class Ends:
    """Says which rows end; its clock starts when it is made."""

    def __init__(self, options: GenerationOptions, stop: Sequence[Stop]) -> None:
        self.options = options
        self.stop = stop
        self.deadline = None if options.max_time is None else time.monotonic() + options.max_time
        self.scores: list[Tensor] = []

    def __call__(self, seen: Seen, scores: Tensor) -> Bool[Tensor, "N"]:
        """Rows of `seen` that are complete; `scores` are those of this step."""
        ids = seen.new
        over = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        if self.options.eos_token_ids:
            over = torch.isin(ids[:, -1], torch.tensor(self.options.eos_token_ids, device=ids.device))
        if self.deadline is not None and time.monotonic() > self.deadline:
            over = torch.ones_like(over)
        if self.stop:
            if self.options.output_scores:
                self.scores.append(scores)
            for criterion in self.stop:
                said = criterion(seen.whole, tuple(self.scores) if self.options.output_scores else None)
                over = over | torch.as_tensor(said, dtype=torch.bool, device=ids.device)
        return over
