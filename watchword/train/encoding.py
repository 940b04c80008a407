"""An example as ids: what the model reads, and which of it are answers that it learns.

The ids are those that a question gives when it is asked (`pipeline.families`), and behind them the answer's
and the end token: what is learned is what will be needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from watchword.errors import ConfigError, RequestError
from watchword.hf.language import IGNORED
from watchword.media.frames import Clip
from watchword.pipeline.families import Exchange, Family, Words
from watchword.train.examples import Example, Kind
from watchword.train.templates import asked


@dataclass(frozen=True)
class Row:
    """What the text model gets in one row.

    Attributes:
        ids: prompt and answers, placeholders included; for T5 the prompt alone.
        labels: for each id the id itself where it is to be learned, else -100; for T5 the answer's ids.
        told: the instruction in the Q-Former's vocabulary.
        media: which of the example's media are in it.
        front: visual tokens in front of the ids, in models without placeholders.
        parts: for questions that do not see each other: 0 in the opening, then the number of each; or None.
    """

    ids: list[int]
    labels: list[int]
    told: tuple[int, ...]
    media: tuple[int, ...]
    front: int = 0
    parts: list[int] | None = None

    @property
    def positions(self) -> int:
        """Positions that it takes in the text model; of questions side by side those of the longest."""
        if self.parts is None:
            return self.front + len(self.ids)
        opening = self.parts.count(0)
        return opening + max(self.parts.count(number) for number in range(1, max(self.parts) + 1))

    @property
    def learned(self) -> int:
        """Ids that are learned."""
        return sum(label != IGNORED for label in self.labels)


@dataclass(frozen=True)
class Encoder:
    """How examples become rows.

    Args:
        family: how the model sees.
        config: the model's.
        words: its tokenizers.
        apart: the turns of an example are questions of their own, none of which sees another.
    """

    family: Family
    config: Any
    words: Words
    apart: bool = False

    @property
    def end(self) -> int:
        """The token behind every answer.

        Raises:
            ConfigError: the tokenizer has none.
        """
        end = self.words.text.eos_token_id
        if end is None:
            raise ConfigError(
                "tokenizer: no eos_token, and a model cannot learn to end its answers without; "
                "name it in tokenizer_config.json"
            )
        return end

    def rows(
        self, example: Example, seen: Sequence[tuple[Kind, int]], draw: tuple[int, ...] = (0,)
    ) -> list[Row]:
        """The rows of an example.

        Args:
            seen: of each medium its kind, and how many frames of it are looked at.
            draw: decides the wording, where the example leaves it open.

        Raises:
            RequestError: a family that answers about one medium gets another number.
        """
        clips, said = blank_all(seen), said_in(example, seen, draw)
        if not self.family.knows_turns and len(clips) != 1:
            raise RequestError(
                f"{len(clips)} pictures or clips; {self.config.model_type} answers about one, so give one "
                "a line"
            )
        if not self.family.knows_turns:
            return [self._single(said if not self.apart else said[k:], k if not self.apart else 0, clips)
                    for k in range(len(said))]  # fmt: skip
        if self.apart and len(said) > 1:
            return [side_by_side([self._single([one], 0, clips) for one in said], self._marks())]
        whole = self._conversation(said, clips)
        return [whole] if whole else [self._single(said, k, clips) for k in range(len(said))]

    def prompt(
        self, example: Example, seen: Sequence[tuple[Kind, int]], draw: tuple[int, ...]
    ) -> tuple[str, Row]:
        """The first question of an example, and its prompt alone."""
        clips, said = blank_all(seen), said_in(example, seen, draw)
        exchanges = self._exchanges(said, 0, clips)
        encoded = self.family.encode(self.config, self.words, exchanges)
        told = self.family.instruction(self.words, said[0][0]) if clips else ()
        front = encoded.length - len(encoded.ids)
        return said[0][0], Row(encoded.ids, [], told, tuple(range(len(clips))), front)

    def _exchanges(
        self, said: Sequence[tuple[str, str]], last: int, clips: tuple[Clip, ...]
    ) -> list[Exchange]:
        """What was said before question `last`, and that question waiting for its answer."""
        before = [
            Exchange(question, clips if number == 0 else (), answer, closed=True)
            for number, (question, answer) in enumerate(said[:last])
        ]
        return [*before, Exchange(said[last][0], () if last else clips)]

    def _single(self, said: Sequence[tuple[str, str]], last: int, clips: tuple[Clip, ...]) -> Row:
        """Question `last` behind what was said before it; only its answer is learned."""
        exchanges = self._exchanges(said, last, clips)
        encoded = self.family.encode(self.config, self.words, exchanges)
        answer = self._answer(exchanges, said[last][1])
        shown = tuple(range(len(clips)))
        told = self.family.instruction(self.words, said[last][0]) if clips else ()
        front = encoded.length - len(encoded.ids)
        if self.config.text_config.is_encoder_decoder:
            return Row(encoded.ids, answer, told, shown, front)
        labels = [IGNORED] * len(encoded.ids) + answer
        return Row(encoded.ids + answer, labels, told, shown, front)

    def _conversation(self, said: Sequence[tuple[str, str]], clips: tuple[Clip, ...]) -> Row | None:
        """All turns in one row, every answer learned; None where what is said later changes earlier ids."""
        ids: list[int] = []
        labels: list[int] = []
        for number, (_, answer) in enumerate(said):
            exchanges = self._exchanges(said, number, clips)
            prompt = self.family.encode(self.config, self.words, exchanges).ids
            if prompt[: len(ids)] != ids:
                return None
            learned = self._answer(exchanges, answer)
            labels += [IGNORED] * (len(prompt) - len(ids)) + learned
            ids = prompt + learned
        return Row(ids, labels, (), tuple(range(len(clips))))

    def _answer(self, exchanges: Sequence[Exchange], answer: str) -> list[int]:
        return [*self.family.follow(self.config, self.words, exchanges, answer), self.end]

    def _marks(self) -> set[int]:
        return {self.config.image_token_index, self.config.video_token_index}


def side_by_side(rows: Sequence[Row], marks: set[int]) -> Row:
    """Questions about one clip in one row, none of which sees another: the clip is there once.

    They share the opening up to the last placeholder; what follows counts its places on from there.
    """
    first = rows[0].ids
    opening = max((at + 1 for at, index in enumerate(first) if index in marks), default=0)
    ids, labels, parts = first[:opening], [IGNORED] * opening, [0] * opening
    for number, row in enumerate(rows, start=1):
        ids, labels = ids + row.ids[opening:], labels + row.labels[opening:]
        parts += [number] * (len(row.ids) - opening)
    return Row(ids, labels, (), rows[0].media, 0, parts)


def said_in(
    example: Example, seen: Sequence[tuple[Kind, int]], draw: tuple[int, ...]
) -> list[tuple[str, str]]:
    """Questions, as they are put this time, and answers."""
    kind = seen[0][0] if seen else "text"
    return [
        (asked(example.task, turn.question, kind, (*draw, number)), turn.answer)
        for number, turn in enumerate(example.turns)
    ]


def blank_all(seen: Sequence[tuple[Kind, int]]) -> tuple[Clip, ...]:
    """The media of an example without their content."""
    return tuple(blank(kind, frames) for kind, frames in seen)


def blank(kind: Kind, frames: int) -> Clip:
    """A clip without content, for counting."""
    return Clip(np.zeros((frames, 1, 1, 3), np.uint8), tuple(range(frames)), None, frames, kind=kind)
