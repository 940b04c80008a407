"""How requests get in: what is known of a prompt is taken over, the rest is run piece by piece."""

from collections.abc import Sequence
from contextlib import suppress

import torch

from watchword.errors import RequestError
from watchword.generation.cache import KVCache, headroom
from watchword.generation.engine import Decoder
from watchword.generation.graphs import StaticCache
from watchword.generation.kept import Kept, Name
from watchword.generation.prefix import BLOCK, Chain, longest
from watchword.generation.requests import Job, Ticket
from watchword.nn.lora import using
from watchword.shapes import Float, Tensor

FAR = 4096
"""A piece with so many positions before it has half as many of its own: attention to those takes time too,
and so does letting a long row join. Measured on a CPU, benchmarks/batch.md."""

ALONE = 4
"""While nobody waits for a next token, so many pieces go at once: each reads all weights again, and unpacks
those of 4 bits (benchmarks/products.md)."""

ALIKE = 1.25
"""Prompts are run together if padding them to one length makes them so much larger at most."""


def kept_chain(job: Job, kept: Kept | None, decoder: Decoder) -> Chain | None:
    """The hashes of a prompt's blocks, where anything can be shared.

    An encoder looks in both directions: then the whole prompt is one block, and nothing less is of use.
    """
    if kept is None or not kept.budget or job.keys is None:
        return None
    scope = job.scope if job.adapter is None else repr((job.adapter, job.scope))  # other keys and values
    if decoder.piecewise:
        return Chain(scope, job.keys)
    return Chain(repr(("whole", job.start_ids, scope)), job.keys, block=job.length)


def names_of(job: Job, chain: Chain | None, decoder: Decoder) -> list[Name]:
    """Under which names the parts of a prompt are kept that a later request can take over, in order."""
    if chain is None:
        return []
    if not decoder.piecewise:
        return [("prompt", chain.hashes[0])]
    return [("block", one) for one in chain.before(job.length)]


def known(job: Job, kept: Kept | None, decoder: Decoder) -> int:
    """Leading positions of a prompt that need not be run now."""
    chain = kept_chain(job, kept, decoder)
    if chain is None or kept is None:
        return 0
    return chain.block * longest(names_of(job, chain, decoder), kept.__contains__)


def keep(
    kept: Kept,
    hashes: list[bytes],
    block: int,
    cache: KVCache | StaticCache,
    row: int,
    *,
    last: bool = False,
) -> None:
    """Keep the blocks of a row. The first ones last, so that they go last: the others need them.

    Where there is no memory for a copy, nothing is kept: the answer does not need it.

    Args:
        last: the row is the only one, and nobody needs the cache any more; it is given up.
    """
    spans = {("block", one): (at * block, (at + 1) * block) for at, one in enumerate(hashes)}
    with suppress(torch.OutOfMemoryError):
        copies: dict[Name, Tensor] = {}
        if last and isinstance(cache, KVCache):
            new = [name for name in spans if name not in kept]
            copies = dict(zip(new, cache.give_up([spans[name] for name in new])))
        for name in reversed(spans):
            if kept.renew(name):
                continue
            if name in copies:
                kept.put(name, copies[name])
            elif not last:
                kept.put(name, cache.read(row, *spans[name]))


class Entry:
    """A request whose prompt is being run, in a cache of its own.

    Args:
        decoder: the model.
        ticket: the request.
        kept: where what earlier prompts left is; None without.
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
        self.decoder, self.device = decoder, device
        self.blocks = kept_chain(ticket.job, kept, decoder)
        self._names = names_of(ticket.job, self.blocks, decoder)
        self._kept, self._piece = kept, piece
        start = ticket.job.start_ids
        length = ticket.job.length if start is None else len(start)
        room = min(ticket.options.most, headroom(length))  # it may become the running cache
        room = 0 if ticket.job.answers else room
        self.cache = KVCache(decoder.cache_spec, 1, length + room, dtype, device)
        self.alone = False  # nobody waits for a next token; the engine says so before each piece
        self.owed = False  # its prompt's blocks are in no store yet, for nobody else could want them
        self._done = 0
        self._begun = False
        self._scores: Tensor | None = None

    @property
    def chain(self) -> Chain | None:
        """The blocks to which an answer's are added; None where those are of no use to anybody."""
        return self.blocks if self.decoder.piecewise else None

    @property
    def coming(self) -> int:
        """Positions of the next piece."""
        left = self.ticket.job.length - self._done
        if not self.decoder.piecewise:
            return left
        piece = max(1, self._piece * FAR // (FAR + self._done))
        if self.alone:
            piece *= ALONE
            if left <= piece + piece // ALONE:  # no little rest for which all would be read again
                return left
        return min(left, piece if piece < BLOCK else piece - piece % BLOCK)

    @property
    def is_last(self) -> bool:
        """Whether the next piece is the last."""
        return self._done + self.coming == self.ticket.job.length

    def gains_from(self, other: "Entry") -> bool:
        """Whether the other, if it goes first, leaves something that this one can take over."""
        shared = sum(mine == its for mine, its in zip(self._names, other._names))
        return self._kept is not None and shared > longest(self._names, self._kept.__contains__)

    def begin(self) -> None:
        """Begin behind what is known."""
        if self._begun:
            return
        self._begun = True
        self.ticket.mark("waiting")
        if self._kept is None:
            return
        found = []
        for name in self._names:
            part = self._kept.get(name)
            if part is None:
                break
            found.append(part)
        for name in reversed(self._names[: len(found)]):
            self._kept.renew(name)
        if not found:
            return
        if self.decoder.piecewise:
            self.cache.fill(found)
            self._done = self.cache.longest
        else:
            own, memory, self._scores = found[0]
            self.cache.fill([own], memory)
            self._done = self.ticket.job.length
        self.ticket.reused = self._done

    def embeds(self) -> Float[Tensor, "1 n D"]:
        """The embedded positions of the next piece."""
        start = self._done
        end = start + self.coming
        embeds = self.ticket.job.embed(start, end)
        if embeds.ndim != 3 or embeds.shape[:2] != (1, end - start):
            raise RequestError(
                f"engine: embed({start}, {end}) gave the shape {tuple(embeds.shape)}; expected 1, "
                f"{end - start} and the model's width"
            )
        return embeds

    def step(self) -> Float[Tensor, "1 V"] | None:
        """Run one piece; scores of the next token after the last one."""
        self.begin()
        if self._scores is not None:
            self.ticket.mark("prompt")
            return self._scores
        embeds = self.embeds()
        begin = None if self.ticket.job.start_ids is None else [self.ticket.job.start_ids]
        logits = prefill(self, embeds, [embeds.shape[1]], self.cache, begin)
        return self.has_run(embeds.shape[1], logits)

    def has_run(self, count: int, logits: Float[Tensor, "1 V"]) -> Float[Tensor, "1 V"] | None:
        """So many more positions are in its cache."""
        self._done += count
        if self._done < self.ticket.job.length:
            return None
        logits = logits.to(torch.float32, copy=True)
        if self.blocks is not None and self._kept is not None:
            job = self.ticket.job
            self.owed = self.alone and self.decoder.piecewise and job.width == 1 and job.answers is None
            if not self.decoder.piecewise:
                self._keep_whole(self._kept, logits)
            elif not self.owed:
                self.keep()
        self.ticket.mark("prompt")
        return logits

    def keep(self, *, last: bool = False) -> None:
        """Keep the blocks of its prompt; `last` as for the function."""
        self.owed = False
        if self.chain is not None and self._kept is not None:
            keep(self._kept, self.chain.hashes, self.chain.block, self.cache, 0, last=last)

    def _keep_whole(self, kept: Kept, logits: Float[Tensor, "1 V"]) -> None:
        with suppress(torch.OutOfMemoryError):
            own = self.cache.read(0, 0, self.cache.longest)
            kept.put(self._names[0], (own, self.cache.read_memory(0), logits.clone()))


def prefill(
    like: Entry,
    embeds: Float[Tensor, "B L D"],
    lengths: list[int],
    cache: KVCache,
    start_ids: Sequence[tuple[int, ...]] | None,
) -> Float[Tensor, "B V"]:
    """Run one piece of the prompts of requests that are like this one."""
    device = like.device
    begin = None if start_ids is None else torch.tensor(start_ids, device=device)
    with using(like.ticket.job.adapter):
        return like.decoder.prefill(embeds, torch.tensor(lengths, device=device), cache, begin)


def may_join(entry: Entry, company: Sequence[Entry]) -> bool:
    """Whether a request may have its prompt run together with those of others, however long it is.

    Not if it would find something of theirs by going later.
    """
    job, first = entry.ticket.job, company[0].ticket.job
    if job.answers is not None or job.adapter != first.adapter or job.start_ids != first.start_ids:
        return False
    return not any(entry.gains_from(other) for other in company)


def fits_beside(entry: Entry, company: Sequence[Entry], left: int) -> bool:
    """Whether prompts of these lengths are run together: last pieces, and not more than `left` positions,
    padding included."""
    lengths = [one.coming for one in (*company, entry)]
    area = len(lengths) * max(lengths)
    return entry.coming > 0 and entry.is_last and area <= min(left, ALIKE * sum(lengths))


def step_together(company: Sequence[Entry]) -> list[Float[Tensor, "1 V"] | None]:
    """Run the last pieces of several prompts at once, which reads the weights once; scores of next tokens.

    If it fails, nothing has changed: each can still go alone.
    """
    first, *rest = company
    parts = [one.embeds() for one in company]
    lengths = [part.shape[1] for part in parts]
    embeds = parts[0].new_zeros(len(parts), max(lengths), parts[0].shape[2])
    for row, part in enumerate(parts):
        embeds[row, : lengths[row]] = part[0]
    cache = first.cache.picked([0])
    cache.capacity = max(one.cache.capacity for one in company)
    for one in rest:
        cache.append_rows(one.cache)
    first.alone = False  # what it leaves is for others too
    begins = [one.ticket.job.start_ids for one in company if one.ticket.job.start_ids is not None]
    logits = prefill(first, embeds, lengths, cache, begins or None)
    caches = [cache.picked([row]) for row in range(len(company))]
    found = []
    for row, one in enumerate(company):
        one.cache = caches[row]
        found.append(one.has_run(lengths[row], logits[row : row + 1]))
    return found


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
