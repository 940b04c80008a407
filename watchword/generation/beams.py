"""Beam bookkeeping: which hypotheses run on, which are finished, and when no better one can come.

Nothing here knows a model: `Beams.step` takes log-probabilities and returns, for every beam, the next token
and the row it continues. Scores are sums of log-probabilities while a hypothesis runs, and are divided by
length ^ length_penalty, the prompt not counted, when it finishes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from watchword.generation.options import GenerationOptions
from watchword.shapes import Bool, Float, Int, Tensor

WORST = -1.0e9
"""Score of a place that holds no hypothesis. Finite, so that sums with it stay ordered."""


@dataclass(frozen=True)
class Hypotheses:
    """`n` per item: generated ids, the beam each id came from (-1: none yet), and a score."""

    ids: Int[Tensor, "B n L"]
    origin: Int[Tensor, "B n L"]
    scores: Float[Tensor, "B n"]

    @classmethod
    def empty(cls, items: int, n: int, length: int, fill: int, device: torch.device) -> "Hypotheses":
        """Filled with `fill`, all of them worst."""
        return cls(
            torch.full((items, n, length), fill, device=device),
            torch.full((items, n, length), -1, dtype=torch.int32, device=device),
            torch.full((items, n), WORST, device=device),
        )

    def pick(self, index: Int[Tensor, "B m"]) -> "Hypotheses":
        """These, per item, in this order."""
        deep = index[:, :, None].expand(-1, -1, self.ids.shape[2])
        return Hypotheses(self.ids.gather(1, deep), self.origin.gather(1, deep), self.scores.gather(1, index))

    def best(self, n: int) -> "Hypotheses":
        """The `n` of the highest score, best first."""
        return self.pick(self.scores.topk(n).indices)

    def scored(self, scores: Float[Tensor, "B n"]) -> "Hypotheses":
        """The same with other scores."""
        return Hypotheses(self.ids, self.origin, scores)


def fill_after_end(options: GenerationOptions) -> int:
    """What follows the end of a short hypothesis: the pad id, or an end id if that is 0, as the reference."""
    if options.eos_token_ids:
        return options.fill or options.eos_token_ids[0]
    return -1 if options.fill is None else options.fill


class Beams:
    """All beams of all items of a batch.

    Args:
        items: rows of the batch before they were forked into beams.
        options: with `max_new_tokens` set.
        device: where the ids live.
        generator: what is drawn from when sampling; torch's global one when None.
    """

    def __init__(
        self,
        items: int,
        options: GenerationOptions,
        device: torch.device,
        generator: torch.Generator | None = None,
    ) -> None:
        self.options = options
        self.generator = generator
        self.width = options.num_beams
        fill = fill_after_end(options)
        self.finished = Hypotheses.empty(items, self.width, options.most, fill, device)
        start = self.finished.scores.clone()
        start[:, 0] = 0  # the beams of an item start equal: only the first counts
        self.running = self.finished.scored(start)
        self.is_finished = torch.zeros(items, self.width, dtype=torch.bool, device=device)
        self.hopeful = torch.ones(items, 1, dtype=torch.bool, device=device)
        self.length = 0
        self.done = False

    def step(
        self, log_probs: Float[Tensor, "N V"], ended: Callable[[Int[Tensor, "C t"]], Bool[Tensor, "C"]]
    ) -> tuple[Int[Tensor, "N"], Int[Tensor, "N"]]:
        """One more token for every beam.

        Args:
            log_probs: processed log-probabilities of the next token, per beam.
            ended: given the generated ids of all candidates, those that are complete.

        Returns:
            The id each beam continues with, and the row it continues.
        """
        found = self._candidates(log_probs)
        over = ended(found.ids[:, :, : self.length + 1].flatten(0, 1)).view(found.scores.shape)
        self.running = found.scored(found.scores + over * WORST).best(self.width)
        self._finish(found, over)
        ids, rows = (side[:, :, self.length].flatten() for side in (self.running.ids, self.running.origin))
        self.length += 1
        self._judge(over)
        return ids, rows.long()

    def result(self) -> Hypotheses:
        """The best finished hypotheses, as many as asked for, cut to the longest of them."""
        best = self.finished.pick(
            torch.arange(self.options.num_return_sequences, device=self.hopeful.device).expand(
                len(self.hopeful), -1
            )
        )
        length = int((best.origin >= 0).sum(dim=-1).max())
        return Hypotheses(best.ids[:, :, :length], best.origin[:, :, :length], best.scores)

    def settled(self) -> list[int]:
        """The ids, from the first on, that every hypothesis of the only item shares which may still win."""
        real = torch.cat([self.finished.origin, self.running.origin], dim=1)[0] >= 0
        ids = torch.cat([self.finished.ids, self.running.ids], dim=1)[0].where(real, -1)
        running = self.running.scores[0] > WORST / 2
        ids = ids[torch.cat([self.is_finished[0], running])]
        if not len(ids):
            return []
        same = ((ids == ids[:1]) & (ids >= 0)).all(dim=0)
        return ids[0, : int(same.long().cumprod(dim=0).sum())].tolist()

    def _candidates(self, log_probs: Float[Tensor, "N V"]) -> Hypotheses:
        """The best continuations of each item, or as many drawn; enough that `width` of them do not end."""
        items, vocabulary = len(self.hopeful), log_probs.shape[1]
        sums = (log_probs.view(items, self.width, vocabulary) + self.running.scores[:, :, None]).flatten(1)
        count = max(2, 1 + len(self.options.eos_token_ids)) * self.width
        if self.options.do_sample:
            where = sums.softmax(dim=-1).multinomial(count, generator=self.generator)
        else:
            where = sums.topk(count).indices
        beam = where // vocabulary
        found = self.running.pick(beam).scored(sums.gather(1, where))
        found.ids[:, :, self.length] = where % vocabulary
        first = torch.arange(items, device=beam.device)[:, None] * self.width
        found.origin[:, :, self.length] = (beam + first).to(torch.int32)
        return found

    def _finish(self, found: Hypotheses, over: Bool[Tensor, "B C"]) -> None:
        """Let complete candidates among the best `width` take the place of worse finished ones."""
        complete = over.clone()
        complete[:, self.width :] = False
        scores = found.scores / (self.length + 1) ** self.options.length_penalty
        if self.options.early_stopping is True:
            scores = scores + self.is_finished.all(dim=1, keepdim=True) * WORST
        scores = scores + ~self.hopeful * WORST
        scores = scores + ~complete * WORST
        pool = Hypotheses(
            torch.cat([self.finished.ids, found.ids], dim=1),
            torch.cat([self.finished.origin, found.origin], dim=1),
            torch.cat([self.finished.scores, scores], dim=1),
        )
        kept = pool.scores.topk(self.width).indices
        self.finished = pool.pick(kept)
        self.is_finished = torch.cat([self.is_finished, complete], dim=1).gather(1, kept)

    def _judge(self, over: Bool[Tensor, "B C"]) -> None:
        """Decide which items may still improve, and whether any does."""
        options = self.options
        patient = options.early_stopping == "never" and options.length_penalty > 0
        length = options.most if patient else self.length
        possible = self.running.scores[:, :1] / length**options.length_penalty
        worst = self.finished.scores.amin(dim=1, keepdim=True).where(self.is_finished, WORST)
        self.hopeful = self.hopeful & (possible > worst).any(dim=1, keepdim=True)
        full = options.early_stopping is True and bool(self.is_finished.all())
        self.done = full or not bool(self.hopeful.any()) or bool(over.all())
