"""What comes back from a question."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class TokenScore:
    """One token of an answer and how likely the model found it.

    Attributes:
        text: the token, as the vocabulary spells it.
        id: its number.
        logprob: its natural log-probability by the model alone, before penalties and temperature.
        top: the likeliest tokens at this place, spelled, with theirs, as many as were asked for.
    """

    text: str
    id: int
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Sample:
    """One of the answers to one question.

    Attributes:
        text: the answer alone, without stop strings.
        end: why it ended: "eos" (by itself), "stop" (a stop string), "length" (the limit), or "cancelled".
        tokens: how many the model wrote.
        logprobs: every token with its log-probability, where they were asked for.
    """

    text: str
    end: str
    tokens: int
    logprobs: tuple[TokenScore, ...] | None = None


@dataclass(frozen=True)
class Answer:
    """An answer and how it came about.

    Attributes:
        text: the answer alone, without the question; the first of `samples`.
        model: which checkpoint answered.
        medium: "picture" or "video": what the question was about; "text" if it was about neither.
        frames: numbers of the frames that were looked at, counted from 0.
        times: their times in seconds after the first frame; None where the medium has no clock.
        total_frames: how many frames the whole clip has.
        notes: what a user should know, such as a clip shorter than the frames asked for.
        ended: True when the model ended by itself or at a stop string, False when it was cut off.
        tokens: "prompt" (with the visual ones), "visual", "reused" (of the prompt, those that an earlier
            question had left) and "answer".
        seconds: "decode" (file to frames), "vision" (frames to visual tokens), "generation", "total"; and
            from the start, "prompt" (until it was run) and "first_token", which beams tell only at the end.
        options: the settings of generation that were in effect, where they differ from the defaults.
        samples: all answers, where several were asked for; with beams the best first.
    """

    text: str
    model: str
    medium: str
    frames: tuple[int, ...]
    times: tuple[float, ...] | None
    total_frames: int
    notes: tuple[str, ...]
    ended: bool
    tokens: Mapping[str, int]
    seconds: Mapping[str, float]
    options: Mapping[str, Any]
    samples: tuple[Sample, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """The text of every answer."""
        return tuple(sample.text for sample in self.samples)

    @property
    def logprobs(self) -> tuple[TokenScore, ...] | None:
        """The tokens of the first answer with their log-probabilities, where they were asked for."""
        return self.samples[0].logprobs

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `--json` prints them."""
        found = asdict(self) | {"frames": list(self.frames), "notes": list(self.notes)}
        found["times"] = None if self.times is None else list(self.times)
        found["samples"] = [asdict(sample) for sample in self.samples]
        return found

    def __str__(self) -> str:
        return self.text
