"""What all decoder-only text models share: the verbs by which generation drives them."""

import torch
from torch import nn

from watchword.nn.attention import Cache
from watchword.shapes import Bool, Float, Int, Tensor


class Causal(nn.Module):
    """Mixin over `embed`, `hidden` and `logits`; fits `generation.engine.Decoder`.

    `cache` is a `generation.cache.KVCache`: rows start at their first slot, whatever lies beyond a row's
    length is never seen, so a row computes the same alone and in company.
    """

    @property
    def max_positions(self) -> int | None:
        """Positions that exist; None when nothing ends them but memory."""
        return None

    @property
    def piecewise(self) -> bool:
        """Whether a prompt run piece by piece, or behind kept keys, is what it is in one piece."""
        return True

    def forward_positions(
        self, mask: Bool[Tensor, "B S"] | None, past: int, length: int, device: torch.device
    ) -> Int[Tensor, "b L"]:
        """Positions in a plain forward pass: counted by place, padding or not. Source: LlamaModel.forward."""
        return torch.arange(past, past + length, device=device)[None]

    def prefill(
        self, embeds: Float[Tensor, "B L D"], lengths: Int[Tensor, "B"], cache: Cache, start_ids: None = None
    ) -> Float[Tensor, "B V"]:
        """Run the prompt (right-padded rows) and return the scores of each row's next token.

        Called again with the next piece of a prompt, it goes on where the rows of the cache end.
        """
        tail = embeds.shape[1] + 1 - int(lengths.min())  # the last layer from the first last position on
        hidden = self._behind(embeds, lengths, cache, tail)
        rows = torch.arange(len(embeds), device=embeds.device)
        last = lengths.to(embeds.device) - 1 - embeds.shape[1] + tail
        return self.logits(hidden[rows, last])  # the head on one position only

    def extend(
        self, ids: Int[Tensor, "B L"], lengths: Int[Tensor, "B"], cache: Cache
    ) -> Float[Tensor, "B L V"]:
        """Several known tokens per row (padded on the right); scores of what follows each of them."""
        return self.logits(self._behind(self.embed(ids), lengths, cache))

    def decode(self, ids: Int[Tensor, "B"], cache: Cache) -> Float[Tensor, "B V"]:
        """One more token per row; scores of the next."""
        places, _ = cache.span(1, ids.device)
        hidden = self.hidden(self.embed(ids[:, None]), positions=places, cache=cache)
        cache.advance(1)
        return self.logits(hidden[:, -1])

    def _behind(
        self,
        embeds: Float[Tensor, "B L D"],
        lengths: Int[Tensor, "B"],
        cache: Cache,
        tail: int | None = None,
    ) -> Float[Tensor, "B l D"]:
        """States of more positions, or the last `tail` of them, behind those in the cache, which then has
        them too."""
        last = lengths.to(embeds.device) - 1
        places, _ = cache.span(embeds.shape[1], embeds.device)
        places = places.minimum(places[:, :1] + last[:, None])  # padding stretches no dynamic angles
        hidden = self.hidden(embeds, positions=places, cache=cache, tail=tail)
        cache.advance(lengths)
        return hidden
