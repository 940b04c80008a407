"""Conversations: what was said goes into the next prompt, and pictures and clips stay in sight."""

import os
import weakref
from dataclasses import replace
from typing import Any

from watchword.errors import CapacityError, RequestError
from watchword.media.decode import read_media
from watchword.media.frames import Clip
from watchword.media.pick import Pick
from watchword.pipeline.answer import Answer
from watchword.pipeline.families import Exchange, merging
from watchword.pipeline.options import MAX_NEW_TOKENS, Options
from watchword.pipeline.preparing import Asked, Wish, chosen_adapter, prepare, room, wished
from watchword.pipeline.reuse import digest
from watchword.pipeline.saving import read_chat, write_chat
from watchword.pipeline.stopwatch import Stopwatch
from watchword.pipeline.streaming import Stream


class Chat:
    """A conversation about pictures and clips, or, with Video-LLaVA, about nothing to see.

    Video-LLaVA gets all turns in its own form, `USER: ... ASSISTANT: ...`, each with its media. InstructBLIP
    was not made for conversations: it sees the medium that came last, its language model reads what was said
    before the question, and its Q-Former reads the question alone. An answer that was broken off, by `close`
    or an error, does not count as said.

    Args:
        pipeline: the `Pipeline`.
        frames: frames of a clip, as for `Pipeline.ask`.
        overflow: when the conversation is longer than the model has positions: "error" raises, "drop_oldest"
            leaves out the oldest turns, but not their pictures and clips.
        turns: how Video-LLaVA's turns end: "documented" puts a space behind an answer, "original" the end
            token, as in its training.
        scope, adapter: see `Pipeline.ask`; a turn may name another adapter.

    Raises:
        RequestError: an unknown way to handle overflow or turns, or one that the family does not have; or an
            unknown adapter.
    """

    def __init__(
        self,
        pipeline: Any,
        *,
        frames: int | Pick | None = None,
        overflow: str = "error",
        turns: str = "documented",
        scope: str = "",
        adapter: str | None = None,
    ) -> None:
        if overflow not in ("error", "drop_oldest"):
            raise RequestError(f"chat: overflow={overflow!r}; expected 'error' or 'drop_oldest'")
        if turns not in ("documented", "original"):
            raise RequestError(f"chat: turns={turns!r}; expected 'documented' or 'original'")
        if turns == "original" and not pipeline.family.knows_turns:
            raise RequestError(f"chat: turns='original', but {pipeline.name} knows no turns; leave it out")
        self.adapter = adapter if adapter is None else chosen_adapter(pipeline.model, adapter)
        self.pipeline = pipeline
        self.frames, self.overflow, self.turns, self.scope = frames, overflow, turns, scope
        self._history: list[Exchange] = []
        self._waiting: list[Clip] = []
        self._paths: dict[int, str] = {}
        self._contents: dict[int, bytes] = {}
        self._coming: weakref.ref[Stream] | None = None

    @property
    def history(self) -> tuple[Exchange, ...]:
        """What was said: questions with their media and answers."""
        return tuple(self._history)

    def show(self, media: object) -> Clip:
        """Show a picture or clip, which the next question is about."""
        clip = self._read(media)
        self._waiting.append(clip)
        return clip

    def ask(
        self, question: str, media: object = None, *, options: Options | None = None, **settings: Any
    ) -> Answer:
        """Ask the next question, about a new picture or clip if one is given. Settings as for `Pipeline.ask`.

        Raises:
            RequestError: no question, or settings that do not fit, or an answer that is still coming.
            CapacityError: the conversation is longer than the model has positions for.
        """
        return self.stream(question, media, options=options, **settings).collect()

    def stream(
        self, question: str, media: object = None, *, options: Options | None = None, **settings: Any
    ) -> Stream:
        """The same, piece by piece. The turn is part of the history when all its pieces were taken."""
        coming = None if self._coming is None else self._coming()
        if coming is not None and not coming.is_over:
            raise RequestError("chat: the last answer is still coming; take all its pieces, or close it")
        if not isinstance(question, str) or not question.strip():
            raise RequestError(f"chat: the question is {question!r}, expected some words")
        wish = wished(options, self.scope, {"adapter": self.adapter} | settings)
        if wish.options.n > 1:
            raise RequestError(f"chat: n={wish.options.n}, but a conversation goes on from one answer")
        watch = Stopwatch(self.pipeline.device)
        fresh = [] if media is None else [self._read(media)]
        watch.lap("decode")
        exchange = Exchange(question, (*self._waiting, *fresh))
        asked = self._prepared(exchange, wish, watch)

        def said(answer: Answer) -> None:
            closed = self.turns == "original"
            self._history.append(replace(exchange, answer=answer.text, closed=closed))
            self._waiting.clear()

        stream = Stream(self.pipeline, asked, said)
        self._coming = weakref.ref(stream)
        return stream

    def clear(self) -> None:
        """Forget what was said; the medium that came last stays, and the next question is about it."""
        clips = [clip for one in self._history for clip in one.clips] + self._waiting
        self._history.clear()
        self._waiting = clips[-1:]

    def save(self, path: Any) -> None:
        """Write the conversation as JSON. Files are named by path; other pictures are written out in full."""
        write_chat(self, path)

    @classmethod
    def load(cls, pipeline: Any, path: Any, *, scope: str = "") -> "Chat":
        """Go on with a saved conversation; see `Pipeline.load_chat`."""
        saved = read_chat(path, pipeline.policy)
        chat = cls(
            pipeline, overflow=saved.overflow, turns=saved.turns, frames=saved.frames, scope=scope,
            adapter=saved.adapter,
        )  # fmt: skip
        chat._history, chat._waiting, chat._paths = saved.history, saved.waiting, saved.paths
        return chat

    def path_of(self, clip: Clip) -> str | None:
        """The file that a picture or clip came from, if it was one."""
        return self._paths.get(id(clip))

    @property
    def waiting(self) -> tuple[Clip, ...]:
        """Pictures and clips that were shown, but not asked about yet."""
        return tuple(self._waiting)

    def _read(self, media: object) -> Clip:
        clip = read_media(media, self.pipeline.pick(self.frames), policy=self.pipeline.policy)
        if isinstance(media, str | os.PathLike) and os.path.exists(media):
            self._paths[id(clip)] = os.path.abspath(os.fspath(media))
        return clip

    def _content(self, clip: Clip) -> bytes:
        if id(clip) not in self._contents:
            self._contents[id(clip)] = digest(clip)
        return self._contents[id(clip)]

    def _prepared(self, exchange: Exchange, wish: Wish, watch: Stopwatch) -> Asked:
        exchanges = merging([*self._history, exchange], wish.options.visual_tokens)
        notes = [clip.note for clip in exchange.clips if clip.note]
        family, config, words = self.pipeline.family, self.pipeline.model.config, self.pipeline.words
        limit, dropped = room(self.pipeline), 0
        most = wish.options.max_new_tokens or MAX_NEW_TOKENS
        while limit is not None and len(exchanges) > 1:
            length = family.encode(config, words, exchanges).length
            if length + (most if self.overflow == "drop_oldest" else 1) <= limit:
                break
            if self.overflow == "error":
                raise CapacityError(
                    f"chat: the conversation has {length} tokens; {self.pipeline.name} has {limit} "
                    "positions; begin a new one, or set overflow='drop_oldest'"
                )
            oldest, following, *rest = exchanges
            exchanges = [replace(following, clips=(*oldest.clips, *following.clips)), *rest]
            dropped += 1
        if dropped:
            notes.append(f"left out the oldest {dropped} of {len(self._history)} turns: {limit} positions")
        return prepare(self.pipeline, exchanges, wish, watch, notes=tuple(notes), content=self._content)
