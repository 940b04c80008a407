"""An answer as it comes, in pieces of whole characters, and the `Answer` at its end."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

import torch

from watchword.errors import CapacityError, RequestError
from watchword.generation.requests import Ticket, Token
from watchword.pipeline.answer import Answer, Sample, TokenScore
from watchword.pipeline.preparing import Asked, out_of_memory, told
from watchword.prompt.detokenize import Detokenizer


class Line:
    """The text of one answer while it grows; the joined pieces are the whole of it.

    Nothing is shown that could become the beginning of a stop string, nor white space that could be the end.

    Args:
        tokenizer: the text model's.
        stop: the answer ends before the first of these.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        self.stopped = False
        self._words = Detokenizer(tokenizer)
        self._stop = stop
        self._raw, self._shown = "", 0

    def push(self, index: int) -> str:
        """A token; returns the text that can be shown now."""
        return self._grown(self._words.push(index))

    def finish(self) -> str:
        """The rest."""
        return self._grown(self._words.finish(), last=True)

    @property
    def text(self) -> str:
        """All of it, up to now."""
        return self._raw.strip()

    def _grown(self, new: str, last: bool = False) -> str:
        if self.stopped:
            return ""
        self._raw += new
        found = [place for place in (self._raw.find(one) for one in self._stop) if place >= 0]
        if found:
            self._raw, self.stopped = self._raw[: min(found)], True
        sure = len(self._raw) if last or self.stopped else len(self._raw) - self._open()
        visible = self._raw[:sure].strip()
        piece, self._shown = visible[self._shown :], max(self._shown, len(visible))
        return piece

    def _open(self) -> int:
        """Characters at the end that may be the beginning of a stop string."""
        longest = 0
        for one in self._stop:
            for count in range(min(len(one) - 1, len(self._raw)), longest, -1):
                if self._raw.endswith(one[:count]):
                    longest = count
                    break
        return longest


class Stream:
    """Gives an answer piece by piece; `answer` holds all of it afterwards.

    Leaving the loop does not end the request: `close` does, or a `with` block.

    Example:
        >>> with model.stream("clip.mp4", "What happens?") as stream:  # doctest: +SKIP
        ...     for piece in stream:
        ...         print(piece, end="")

    Args:
        pipeline: the `Pipeline`.
        asked: the request.
        done: called with the answer when it is complete.
    """

    def __init__(self, pipeline: Any, asked: Asked, done: Callable[[Answer], None] | None = None) -> None:
        self._pipeline, self._asked, self._done = pipeline, asked, done
        options = asked.wish.options
        self._answer: Answer | None = None
        self._before = asked.watch.now()
        self.ticket: Ticket = pipeline.engine.submit(asked.job)  # first, for it refuses what is too large
        self._lines = [Line(pipeline.words.text, options.stop) for _ in range(options.n)]
        self._scores: list[list[TokenScore]] = [[] for _ in range(options.n)]
        weakref.finalize(self, setattr, self.ticket, "cancelled", True)  # nobody reads it any more
        self._pieces = self._run()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def answer(self) -> Answer:
        """The answer, once all of it has come, or as far as it had come when it was closed.

        Raises:
            RequestError: it is not over.
        """
        if self._answer is None:
            raise RequestError("stream: the answer is not complete; take all its pieces first, or close it")
        return self._answer

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self._answer is not None or self.ticket.error is not None

    def close(self) -> None:
        """End the request, if it is not over. Once the last piece was taken, the answer is complete."""
        if not self.is_over:
            complete = self.ticket.reason == "done" and not self.ticket.fresh
            self._pipeline.engine.cancel(self.ticket)
            self._pieces.close()
            left = [line.finish() for line in self._lines]
            if complete and not left[0]:
                self._complete()
            else:
                self._answer = self._whole(broken=True)

    def collect(self) -> Answer:
        """All of it at once."""
        for _ in self:
            pass
        return self.answer

    def _run(self) -> Iterator[str]:
        """Pieces of the first answer; the others are collected beside it."""
        try:
            for token in self._pipeline.engine.steps(self.ticket):
                piece = self._take(token)
                if piece:
                    yield piece
        except CapacityError as error:
            if isinstance(error.__cause__, torch.OutOfMemoryError):
                raise out_of_memory(self._pipeline, self._asked.encoded, self._asked.settings) from error
            raise
        first, *_ = [line.finish() for line in self._lines]
        if first:
            yield first
        self._complete()

    def _complete(self) -> None:
        self._asked.watch.lap("generation")
        self._asked.watch.mark("total")
        self._answer = self._whole()
        if self._done is not None:
            self._done(self._answer)

    def _take(self, token: Token) -> str:
        if token.logprob is not None:
            spelled = self._pipeline.words.spelled
            top = tuple((spelled(index), score) for index, score in token.top)
            self._scores[token.sample].append(TokenScore(spelled(token.id), token.id, token.logprob, top))
        piece = self._lines[token.sample].push(token.id)
        return piece if token.sample == 0 else ""

    def _whole(self, broken: bool = False) -> Answer:
        asked, ticket = self._asked, self.ticket
        samples = []
        for line, end, ids, scores in zip(self._lines, ticket.ends, ticket.sequences, self._scores):
            end = "cancelled" if broken else "stop" if line.stopped else end or "cancelled"
            given = None if asked.wish.options.logprobs is None else tuple(scores)
            samples.append(Sample(line.text, end, len(ids), given))
        clip = asked.clips[-1] if asked.clips else None
        seconds = dict(asked.watch.seconds)
        for mark in ("prompt", "first_token"):
            if mark in ticket.seconds:
                seconds[mark] = self._before + ticket.seconds[mark]
        return Answer(
            text=samples[0].text,
            model=self._pipeline.name,
            medium="text" if clip is None else clip.kind,
            frames=() if clip is None else clip.indices,
            times=None if clip is None else clip.times,
            total_frames=0 if clip is None else clip.total,
            notes=asked.notes,
            ended=samples[0].end in ("eos", "stop"),
            tokens={
                "prompt": asked.encoded.length,
                "visual": asked.encoded.visual,
                "reused": ticket.reused,
                "answer": samples[0].tokens,
            },
            seconds=seconds,
            options=told(asked.settings, asked.wish.options, asked.job.adapter),
            samples=tuple(samples),
        )
