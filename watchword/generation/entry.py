"""How a request gets in: what is known of its prompt is taken over, the rest is run piece by piece."""

import torch

from watchword.errors import RequestError
from watchword.generation.cache import KVCache, headroom
from watchword.generation.engine import Decoder
from watchword.generation.graphs import StaticCache
from watchword.generation.kept import Kept
from watchword.generation.prefix import Chain, longest
from watchword.generation.requests import Job, Ticket
from watchword.nn.lora import using
from watchword.shapes import Float, Tensor


def kept_chain(job: Job, kept: Kept | None, decoder: Decoder) -> Chain | None:
    """The hashes of a prompt's blocks, where anything can be shared."""
    if kept is None or not kept.budget or job.keys is None or not decoder.piecewise:
        return None
    scope = job.scope if job.adapter is None else repr((job.adapter, job.scope))  # other keys and values
    return Chain(scope, job.keys)


def keep(kept: Kept, hashes: list[bytes], block: int, cache: KVCache | StaticCache, row: int) -> None:
    """Keep the blocks of a row. The first ones last, so that they go last: the others need them."""
    for index in reversed(range(len(hashes))):
        name = ("block", hashes[index])
        if not kept.renew(name):
            kept.put(name, cache.read(row, index * block, (index + 1) * block))


class Entry:
    """A request whose prompt is being run, in a cache of its own.

    Args:
        decoder: the model.
        ticket: the request.
        kept: where blocks of earlier prompts are; None without.
        piece: positions that are run at once, where the decoder can go piecewise.
        dtype: type of the keys and values.
        device: where the model is.
    """

    def __init__(
        self,
        decoder: Decoder,
        ticket: Ticket,
        kept: Kept | None,
        piece: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.ticket = ticket
        self.chain = kept_chain(ticket.job, kept, decoder)
        self._decoder, self._kept, self._piece, self._device = decoder, kept, piece, device
        start = ticket.job.start_ids
        length = ticket.job.length if start is None else len(start)
        room = min(ticket.options.most, headroom(length))  # it may become the running cache
        room = 0 if ticket.job.answers else room
        self.cache = KVCache(decoder.cache_spec, 1, length + room, dtype, device)
        self._done = 0
        self._begun = False

    @property
    def coming(self) -> int:
        """Positions of the next piece."""
        left = self.ticket.job.length - self._done
        return min(left, self._piece) if self._decoder.piecewise else left

    def step(self) -> Float[Tensor, "1 V"] | None:
        """Run one piece; scores of the next token after the last one."""
        if not self._begun:
            self._begun = True
            self._reuse()
        job, start = self.ticket.job, self._done
        end = start + self.coming
        embeds = job.embed(start, end)
        if embeds.ndim != 3 or embeds.shape[:2] != (1, end - start):
            raise RequestError(
                f"engine: embed({start}, {end}) gave the shape {tuple(embeds.shape)}; expected 1, "
                f"{end - start} and the model's width"
            )
        begin = None if job.start_ids is None else torch.tensor([job.start_ids], device=self._device)
        lengths = torch.tensor([end - start], device=self._device)
        with using(job.adapter):
            logits = self._decoder.prefill(embeds, lengths, self.cache, begin)
        self._done = end
        if end < job.length:
            return None
        if self.chain is not None and self._kept is not None:
            keep(self._kept, self.chain.hashes, self.chain.block, self.cache, 0)
        self.ticket.mark("prompt")
        return logits.to(torch.float32, copy=True)

    def _reuse(self) -> None:
        """Begin behind the blocks that are known."""
        self.ticket.mark("waiting")
        if self.chain is None or self._kept is None:
            return
        blocks = []
        for one in self.chain.before(self.ticket.job.length):
            block = self._kept.get(("block", one))
            if block is None:
                break
            blocks.append(block)
        for one in reversed(self.chain.hashes[: len(blocks)]):
            self._kept.renew(("block", one))
        if blocks:
            self.cache.fill(blocks)
            self._done = self.ticket.reused = self.cache.longest


def known(job: Job, kept: Kept | None, decoder: Decoder) -> int:
    """Leading positions of a prompt that need not be run now."""
    chain = kept_chain(job, kept, decoder)
    if chain is None or kept is None:
        return 0
    return chain.block * longest(chain.before(job.length), lambda one: ("block", one) in kept)


class Scoring:
    """How likely given answers are, some of them at a time, behind a prompt that was run once.

    Args:
        decoder: the model.
        entry: the request, its prompt run.
        logits: scores of the first token.
        rows: answers that are run at once.
        cost: positions that a step counts for.
    """

    def __init__(
        self, decoder: Decoder, entry: Entry, logits: Float[Tensor, "1 V"], rows: int, cost: int
    ) -> None:
        self.ticket = entry.ticket
        self.coming = cost
        self._decoder, self._cache, self._rows = decoder, entry.cache, rows
        self._first = logits[0].log_softmax(dim=-1)
        self._scores: list[list[float]] = []

    def step(self) -> bool:
        """Score some more; whether that was all."""
        answers = self.ticket.job.answers or ()
        some = answers[len(self._scores) : len(self._scores) + self._rows]
        longest_one = max(len(answer) for answer in some)
        device = self._first.device
        ids = torch.zeros(len(some), longest_one, dtype=torch.long, device=device)
        for row, answer in enumerate(some):
            ids[row, : len(answer)] = torch.tensor(answer, device=device)
        logs = self._first.expand(len(some), 1, -1)
        if longest_one > 1:
            cache = self._cache.picked([0] * len(some))
            lengths = torch.tensor([max(len(answer) - 1, 1) for answer in some], device=device)
            with using(self.ticket.job.adapter):
                rest = self._decoder.extend(ids[:, :-1], lengths, cache)
            logs = torch.cat([logs, rest.float().log_softmax(dim=-1)], dim=1)
        found = logs.gather(2, ids[:, :, None])[:, :, 0].tolist()
        self._scores += [row[: len(answer)] for row, answer in zip(found, some)]
        if len(self._scores) < len(answers):
            return False
        self.ticket.scores = self._scores
        return True
