"""Beam search of some prompts without a model: scores in, the next ids and the rows they continue out."""

from collections.abc import Sequence

import torch

from watchword.generation.beams import Beams
from watchword.generation.ends import Ends
from watchword.generation.logits import Processor, Seen, process
from watchword.generation.options import GenerationOptions
from watchword.shapes import Bool, Float, Int, Tensor


def candidates(options: GenerationOptions) -> int:
    """Continuations looked at per beam: enough that one of them does not end."""
    return max(2, 1 + len(options.eos_token_ids))


class Search:
    """Beams, what their rows have seen, and when hypotheses are complete.

    Args:
        seen: the ids so far, each prompt `num_beams` times.
        many: the same, each prompt `num_beams` · `candidates` times.
        options: with limits in new tokens.
        ends: says which candidates are complete.
        processors: the caller's own.
        generator: what is drawn from when sampling; torch's global one when None.
    """

    def __init__(
        self,
        seen: Seen,
        many: Seen,
        options: GenerationOptions,
        ends: Ends,
        processors: Sequence[Processor] = (),
        generator: torch.Generator | None = None,
    ) -> None:
        self.beams = Beams(len(seen.new) // options.num_beams, options, seen.new.device, generator)
        self._seen, self._many = seen, many
        self._options, self._ends, self._processors = options, ends, processors

    @property
    def done(self) -> bool:
        """Whether no better hypothesis can come."""
        return self.beams.done

    def scores(self, logits: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
        """Processed log-probabilities of the next token of every beam."""
        return process(logits.log_softmax(dim=-1), self._seen, self._options, self._processors)

    def step(self, scores: Float[Tensor, "N V"]) -> tuple[Int[Tensor, "N"], Int[Tensor, "N"]]:
        """One more token for every beam: its id, and the row it continues."""

        def ended(new: Int[Tensor, "C t"]) -> Bool[Tensor, "C"]:
            return self._ends(self._many.grown(new), scores) | (new.shape[1] == self._options.most)

        ids, rows = self.beams.step(scores, ended)
        self._seen = self._seen.grown(self.beams.running.ids[:, :, : self.beams.length].flatten(0, 1))
        return ids, rows
