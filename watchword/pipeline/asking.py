"""The walk from a question to its answer, in one straight line."""

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from watchword.errors import RequestError
from watchword.generation.kept import Kept
from watchword.generation.serving import Engine
from watchword.media.decode import read_media
from watchword.media.frames import Clip
from watchword.media.pick import Pick, Segments, segments, uniform
from watchword.media.policy import OPEN, Policy
from watchword.media.spec import PixelSpec
from watchword.nn.lora import adapter_names
from watchword.pipeline.answer import Answer
from watchword.pipeline.chatting import Chat
from watchword.pipeline.explaining import Explained, explain
from watchword.pipeline.families import Exchange, Family, Words
from watchword.pipeline.options import Options
from watchword.pipeline.preparing import Asked, Wish, prepare, wished
from watchword.pipeline.ranking import Ranking, Scored, rank, score
from watchword.pipeline.segments import Segment, Segmented, answered
from watchword.pipeline.stopwatch import Stopwatch
from watchword.pipeline.streaming import Stream
from watchword.pipeline.together import together


@dataclass(frozen=True)
class Pipeline:
    """A loaded checkpoint with all it needs; made by `watchword.load`. Safe to share between threads.

    Attributes:
        model: the family, in eval mode.
        family: how it sees.
        words: its tokenizers.
        specs: how pictures and clips become pixels.
        settings: what the checkpoint wants of generation, by the names of generation_config.json.
        name: the folder or hub id.
        embedded: True for the tiny model that comes with the library.
        device: where the model is.
        dtype: type of its weights.
        engine: runs the text model for all requests together.
        cache: what is kept between requests: `cache.stats()`, `cache.clear()`.
        policy: what may be opened, and whether in a child process.
    """

    model: nn.Module
    family: Family
    words: Words
    specs: Mapping[str, PixelSpec]
    settings: Mapping[str, Any]
    name: str
    embedded: bool
    device: torch.device
    dtype: torch.dtype
    engine: Engine
    cache: Kept
    policy: Policy = OPEN

    def ask(
        self,
        media: object,
        question: str,
        *,
        frames: int | Pick | None = None,
        options: Options | None = None,
        scope: str = "",
        adapter: str | None = None,
        **settings: Any,
    ) -> Answer:
        """Ask about a picture or a clip.

        Args:
            media: a path, bytes, a binary file, a Pillow image, an array (3 axes: a picture; 4: a clip) or a
                list of frames.
            question: plain words; `<video>` or `</s>` in it are words too.
            frames: how many frames of a clip, spread evenly, or a choice from `media.pick`; the family's
                number when None. A shorter clip gives all it has, and the answer says so.
            options: how the answer is made; see `Options`.
            scope: what earlier questions left is reused for questions of the same scope only. Give each user
                a scope of their own where they should not learn from the time of an answer what others asked.
            adapter: which of the adapters given to `load` answers, or "base" for the model without; when None
                the only one, or "base" where there are several.
            **settings: the fields of `Options` by name instead, with `max_tokens` and `beams` as short names
                of `max_new_tokens` and `num_beams`; and other fields of generation_config.json.

        Raises:
            MediaError: the medium cannot be read.
            RequestError: no medium, no question, or settings that are out of range, unknown, or contradict
                each other.
            CapacityError: more than the model has positions for, than the engine takes, or than memory holds.
        """
        wish = wished(options, scope, settings | {"adapter": adapter})
        return Stream(self, self._asked(media, question, frames, wish)).collect()

    def stream(
        self,
        media: object,
        question: str,
        *,
        frames: int | Pick | None = None,
        options: Options | None = None,
        scope: str = "",
        adapter: str | None = None,
        **settings: Any,
    ) -> Stream:
        """The same, piece by piece: iterate over the result, then read its `answer`.

        The joined pieces are the answer's text; no piece holds half a character or any of a stop string.
        """
        wish = wished(options, scope, settings | {"adapter": adapter})
        one_answer("stream", wish)
        return Stream(self, self._asked(media, question, frames, wish))

    def ask_many(
        self,
        requests: Sequence[Any],
        *,
        errors: str = "raise",
        **shared: Any,
    ) -> list[Any]:
        """Many questions together: sooner done than one after the other, each answered as if it were alone.

        Args:
            requests: for each a pair of medium and question, or a dict of the arguments of `ask`.
            errors: "return" puts the error of a request that fails in its answer's place; "raise" raises the
                first of them.
            **shared: arguments of `ask` for all that do not have their own.
        """
        if errors not in ("raise", "return"):
            raise RequestError(f"ask_many: errors={errors!r}; expected 'raise' or 'return'")
        calls = [dict(one) if isinstance(one, Mapping) else pair(one) for one in requests]
        asks = [lambda one=one: self._called(**{**shared, **one}) for one in calls]
        return together(self, asks, errors)

    def ask_segments(
        self, media: object, question: str, every: float | Segments = 30.0, **settings: Any
    ) -> Segmented:
        """Ask about each stretch of a long film: an answer with times for each, and all of them as a list.

        Args:
            media: a video, as for `ask`; not frames, which have no times.
            question: plain words, asked about each stretch alone.
            every: seconds of a stretch, of which each gives as many frames as the family takes; or
                `media.segments(seconds, frames, start=..., end=...)`.
            **settings: as for `ask`, but frames.

        Raises:
            MediaError: the medium cannot be read.
            RequestError: as for `ask`; or no video; or several answers asked for.
            CapacityError: as for `ask`.
        """
        return Segmented(question, tuple(self.stream_segments(media, question, every, **settings)))

    def stream_segments(
        self, media: object, question: str, every: float | Segments = 30.0, *,
        options: Options | None = None, scope: str = "", **settings: Any,
    ) -> Iterator[Segment]:  # fmt: skip
        """The same, stretch by stretch, as the answers come."""
        check_question("segments", question)
        wish = wished(options, scope, settings)
        one_answer("segments", wish)
        pick = every if isinstance(every, Segments) else segments(every, self.family.frames)
        return answered(self, media, question, pick, wish)

    def chat(
        self,
        media: object = None,
        *,
        frames: int | Pick | None = None,
        overflow: str = "error",
        turns: str = "documented",
        scope: str = "",
        adapter: str | None = None,
    ) -> Chat:
        """Begin a conversation about a picture or clip; see `Chat`."""
        chat = Chat(self, frames=frames, overflow=overflow, turns=turns, scope=scope, adapter=adapter)
        if media is not None:
            chat.show(media)
        return chat

    def load_chat(self, path: Any, *, scope: str = "") -> Chat:
        """Go on with a conversation that `Chat.save` wrote.

        Raises:
            RequestError: the file is none of these.
            MediaError: a picture or clip is not there any more, or is another one now.
        """
        return Chat.load(self, path, scope=scope)

    def rank(
        self,
        media: object,
        question: str,
        candidates: Sequence[str],
        *,
        rule: str = "sum",
        frames: int | Pick | None = None,
        scope: str = "",
        adapter: str | None = None,
    ) -> Ranking:
        """How likely each of some answers is, the likeliest first; see `pipeline.ranking.rank`."""
        exchange = self._exchange("rank", media, question, frames)
        return rank(self, exchange, candidates, rule, scope, adapter)

    def score(
        self,
        media: object,
        question: str,
        answer: str,
        *,
        frames: int | Pick | None = None,
        scope: str = "",
        adapter: str | None = None,
    ) -> Scored:
        """How likely the model finds an answer, token by token; see `pipeline.ranking.score`."""
        return score(self, self._exchange("score", media, question, frames), answer, scope, adapter)

    def explain(
        self, media: object, question: str, *, frames: int | Pick | None = None, **settings: Any
    ) -> Explained:
        """Ask, and say where the model looked for each word; see `pipeline.explaining.explain`."""
        return explain(self, media, question, frames=frames, **settings)

    @property
    def adapters(self) -> list[str]:
        """The names of its adapters, as `load` was given them."""
        return adapter_names(self.model)

    def pick(self, frames: int | Pick | None) -> Pick:
        """Which frames of a clip."""
        if isinstance(frames, Segments):
            raise RequestError("frames: segments are asked about one by one; use ask_segments")
        if frames is None:
            return uniform(self.family.frames)
        if hasattr(frames, "__index__"):  # numpy's whole numbers too, which have a `choose` of their own
            return uniform(operator.index(frames))
        if not hasattr(frames, "choose"):
            raise RequestError(
                f"frames: {frames!r}; expected a whole number, or a choice such as watchword.media.uniform(8)"
            )
        return frames

    def _exchange(self, where: str, media: object, question: str, frames: int | Pick | None) -> Exchange:
        """A question and its medium, read."""
        if media is None:
            raise RequestError(
                f"{where}: no picture or clip, and {self.name} answers about what it sees; give a path, a "
                "Pillow image or frames"
            )
        check_question(where, question)
        return Exchange(question, (read_media(media, self.pick(frames), policy=self.policy),))

    def _asked(self, media: object, question: str, frames: int | Pick | None, wish: Wish) -> Asked:
        watch = Stopwatch(self.device)
        exchange = self._exchange("ask", media, question, frames)
        watch.lap("decode")
        return prepare(self, [exchange], wish, watch, notes=frame_notes(exchange.clips[0], frames))

    def _called(
        self,
        media: object,
        question: str,
        *,
        frames: int | Pick | None = None,
        options: Options | None = None,
        scope: str = "",
        **settings: Any,
    ) -> Stream:
        """A request as `ask` takes it, handed to the engine."""
        return Stream(self, self._asked(media, question, frames, wished(options, scope, settings)))


def check_question(where: str, question: object) -> None:
    """Refuse a question without words."""
    if not isinstance(question, str) or not question.strip():
        raise RequestError(f"{where}: the question is {question!r}, expected some words")


def one_answer(where: str, wish: Wish) -> None:
    """Refuse several answers where there is one."""
    if wish.options.n > 1:
        raise RequestError(f"{where}: n={wish.options.n}, but it gives one answer; use ask for several")


def pair(request: object) -> dict[str, Any]:
    """A medium and a question as arguments."""
    if not isinstance(request, tuple | list) or len(request) != 2:
        raise RequestError(
            f"ask_many: {type(request).__name__}; expected (medium, question), or a dict of ask's arguments"
        )
    return {"media": request[0], "question": request[1]}


def frame_notes(clip: Clip, frames: int | Pick | None) -> tuple[str, ...]:
    """What a user should know about the frames."""
    found = [clip.note] if clip.note else []
    if clip.kind == "picture" and frames not in (None, 1):
        found.append("a picture has one frame; the choice of frames has no effect")
    return tuple(found)
