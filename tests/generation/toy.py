"""The smallest decoder that still attends: one layer, one table, real caches."""

import torch

from watchword.generation.cache import KVCache
from watchword.generation.engine import Prompt
from watchword.nn.attention import CacheSpec
from watchword.shapes import Tensor

HEADS, WIDTH = 2, 4


class Toy:
    """Scores that depend on every id so far and its place."""

    cache_spec = CacheSpec(layers=1, heads=HEADS, head_dim=WIDTH)
    piecewise = True
    max_positions = None

    def __init__(self, vocabulary: int = 11, seed: int = 0) -> None:
        random = torch.Generator().manual_seed(seed)
        self.table = torch.randn(vocabulary, HEADS * WIDTH, generator=random)
        self.mix = torch.randn(HEADS * WIDTH, vocabulary, generator=random)
        self.prefilled = 0

    def run(self, embeds: Tensor, cache: KVCache) -> Tensor:
        places, _ = cache.span(embeds.shape[1], embeds.device)
        waves = (places[..., None] * torch.arange(1, HEADS * WIDTH + 1)).sin()
        x = (embeds + waves).unflatten(-1, (HEADS, WIDTH))
        out, _ = cache.layer(0).attend(*[x.transpose(1, 2)] * 3)
        return (x + 2 * out.transpose(1, 2)).flatten(2) @ self.mix

    def prefill(self, embeds: Tensor, lengths: Tensor, cache: KVCache, start_ids: None) -> Tensor:
        self.prefilled += len(embeds)
        scores = self.run(embeds, cache)
        cache.advance(lengths)
        return scores[torch.arange(len(embeds)), lengths - 1]

    def extend(self, ids: Tensor, lengths: Tensor, cache: KVCache) -> Tensor:
        scores = self.run(self.table[ids], cache)
        cache.advance(lengths)
        return scores

    def decode(self, ids: Tensor, cache: KVCache) -> Tensor:
        scores = self.run(self.table[ids][:, None], cache)[:, -1]
        cache.advance(1)
        return scores

    def prompt(self, *rows: list[int]) -> Prompt:
        """Rows of ids as left-padded history and compact embeddings."""
        longest = max(map(len, rows))
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[False] * (longest - len(row)) + [True] * len(row) for row in rows])
        compact = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        return Prompt(self.table[compact], mask.sum(dim=1), ids, mask, encoder_ids=ids, encoder_mask=mask)
