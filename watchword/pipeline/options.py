"""What may be asked of an answer, in one frozen value: the same for Python, the shell and the wire."""

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from watchword.errors import RequestError, refuse_unknown
from watchword.generation.options import GenerationOptions

Real = int | float  # the shell and JSON do not tell 1 from 1.0

MAX_NEW_TOKENS = 128
"""New tokens unless told otherwise: some sentences."""

COUNTS = {
    "max_new_tokens": 1, "min_new_tokens": 0, "top_k": 0, "no_repeat_ngram_size": 0, "num_beams": 1, "n": 1,
    "logprobs": 0,
}  # fmt: skip
"""Options that are whole numbers, and the least they may be."""

SHARES = ("top_p", "min_p")
"""Options from 0 to 1."""

NARROWING = ("top_k", "top_p", "min_p")
"""Options that narrow down what is drawn from; each of them asks for drawing."""


@dataclass(frozen=True)
class Options:
    """How an answer is made. Without any: the best token each time, up to 128 of them.

    None leaves a setting to the checkpoint, and where that says nothing, to the model's documented default.
    What contradicts itself or would have no effect is refused.

    Args:
        max_new_tokens: the longest answer, in tokens; 128 when None.
        min_new_tokens: the shortest.
        temperature: above 0 draws at random, the higher the wilder; 0 takes the best token, as None does.
        top_k: draw only from so many of the likeliest tokens; 0 from all.
        top_p: draw only from the likeliest that together make up this share.
        min_p: draw only from tokens at least this likely, as a share of the likeliest.
        repetition_penalty: above 1 makes tokens that were there before less likely.
        no_repeat_ngram_size: so many tokens never come again in the same order.
        num_beams: more than 1 searches for the likeliest answer as a whole.
        length_penalty: for beams: above 0 favours longer answers, below 0 shorter ones.
        early_stopping: for beams: True, False or "never".
        n: so many answers, drawn or from the best beams.
        stop: the answer ends before the first of these strings.
        seed: makes drawing repeatable, whatever runs beside it.
        choices: the answer is one of these.
        logprobs: with every token its log-probability, and so many of the likeliest instead of it.
        visual_tokens: merge those most alike (ToMe, see `nn.merging`): up to 1 the share that is left,
            from 2 on how many of each picture or clip. For Video-LLaVA only.

    Raises:
        RequestError: a value out of its range, or options that contradict each other.
    """

    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    temperature: Real | None = None
    top_k: int | None = None
    top_p: Real | None = None
    min_p: Real | None = None
    repetition_penalty: Real | None = None
    no_repeat_ngram_size: int | None = None
    num_beams: int = 1
    length_penalty: Real | None = None
    early_stopping: bool | str | None = None
    n: int = 1
    stop: str | Sequence[str] = ()
    seed: int | None = None
    choices: Sequence[str] | None = None
    logprobs: int | None = None
    visual_tokens: Real | None = None

    def __post_init__(self) -> None:
        for name in COUNTS:
            self._check_count(name)
        for name in ("temperature", *SHARES, "repetition_penalty", "length_penalty"):
            self._check_number(name)
        self._check_visual_tokens()
        if self.early_stopping not in (None, True, False, "never"):
            raise RequestError(f"options: early_stopping={self.early_stopping!r}, not a bool or 'never'")
        whole = isinstance(self.seed, numbers.Integral) and not isinstance(self.seed, bool)
        if self.seed is not None and not (whole and -(2**63) <= self.seed < 2**64):
            raise RequestError(f"options: seed={self.seed!r}, expected a whole number of at most 64 bits")
        object.__setattr__(self, "stop", _strings("stop", self.stop))
        if self.choices is not None:
            object.__setattr__(self, "choices", distinct("choices", self.choices))
        self._check_together()

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "Options":
        """From plain values by name, as JSON has them.

        Raises:
            UnknownArgument: a name that is no option.
            RequestError: values that do not fit.
        """
        refuse_unknown("options", raw, NAMES)
        return cls(**raw)

    def to_dict(self) -> dict[str, Any]:
        """Plain values of what was set."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        set_ones = {name: found[name] for name in found if found[name] != DEFAULTS[name]}
        return {name: list(one) if isinstance(one, tuple) else one for name, one in set_ones.items()}

    @property
    def is_drawing(self) -> bool:
        """Whether tokens are drawn at random."""
        if self.temperature is None:
            return any(getattr(self, name) is not None for name in NARROWING)
        return self.temperature > 0

    def settings(self) -> dict[str, Any]:
        """The same by the names of generation_config.json; what is left to the checkpoint is left out."""
        same = (*NARROWING, "min_new_tokens", "repetition_penalty", "no_repeat_ngram_size", "length_penalty",
                "early_stopping")  # fmt: skip
        found = {name: getattr(self, name) for name in same if getattr(self, name) is not None}
        if self.temperature:
            found["temperature"] = self.temperature
        return found | {
            "do_sample": self.is_drawing,
            "num_beams": self.num_beams,
            "num_return_sequences": self.n,
            "max_new_tokens": self.max_new_tokens or MAX_NEW_TOKENS,
            "max_length": None,
        }

    def _check_count(self, name: str) -> None:
        value = getattr(self, name)
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if value is not None and not (whole and value >= COUNTS[name]):
            raise RequestError(f"options: {name}={value!r}, expected a whole number, at least {COUNTS[name]}")

    def _check_number(self, name: str) -> None:
        value = getattr(self, name)
        if value is None:
            return
        real = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
        ranges = {
            "temperature": (real and value >= 0, "a number, 0 or above"),
            "repetition_penalty": (real and value > 0, "a number above 0"),
            "length_penalty": (real, "a number"),
        }
        fits, wanted = ranges.get(name, (real and 0 <= value <= 1, "a number from 0 to 1"))
        if not fits:
            raise RequestError(f"options: {name}={value!r}, expected {wanted}")
        object.__setattr__(self, name, float(value))

    def _check_visual_tokens(self) -> None:
        value = self.visual_tokens
        if value is None:
            return
        real = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
        if not real or not (0 < value <= 1 or (value >= 2 and value == int(value))):
            raise RequestError(
                f"options: visual_tokens={value!r}, expected a share above 0 and up to 1, or a whole number "
                "from 2 on"
            )
        object.__setattr__(self, "visual_tokens", float(value) if value <= 1 else int(value))

    def _check_together(self) -> None:
        """Refuse what contradicts itself, and what nothing would come of."""
        if self.temperature == 0:
            for name in NARROWING:
                if getattr(self, name) is not None:
                    value = getattr(self, name)
                    raise _clash(f"{name}={value!r} has no effect at temperature=0; leave one of them out")
        most = self.max_new_tokens or MAX_NEW_TOKENS
        if self.min_new_tokens is not None and self.min_new_tokens > most:
            raise _clash(f"min_new_tokens={self.min_new_tokens} is more than max_new_tokens={most}")
        if self.num_beams == 1:
            for name in ("length_penalty", "early_stopping"):
                if getattr(self, name) is not None:
                    raise _clash(f"{name}={getattr(self, name)!r} is for beams; set num_beams above 1")
        elif self.n > self.num_beams:
            raise _clash(f"n={self.n} of num_beams={self.num_beams}; ask for at most as many as beams")
        elif self.logprobs is not None:
            raise _clash(f"logprobs={self.logprobs} with num_beams={self.num_beams}; set num_beams=1")
        if self.n > 1 and self.num_beams == 1 and not self.is_drawing:
            raise _clash(
                f"n={self.n} of the best token each time would be one answer repeated; set temperature or "
                "num_beams"
            )
        if self.choices is not None:
            self._check_choices(self.choices)

    def _check_choices(self, choices: Sequence[str]) -> None:
        for name in ("stop", "min_new_tokens", "no_repeat_ngram_size"):
            if getattr(self, name):
                raise _clash(f"{name}={getattr(self, name)!r} with choices, whose length and words are fixed")
        if self.num_beams > 1 and self.is_drawing:
            raise _clash(f"num_beams={self.num_beams} draw among choices; leave out the beams or the drawing")
        if self.num_beams > 1 and self.n > len(choices):
            raise _clash(f"n={self.n} of {len(choices)} choices; ask for at most as many")


DEFAULTS = {field.name: field.default for field in fields(Options)}
NAMES = tuple(DEFAULTS)
"""The options, in order."""


def _clash(what: str) -> RequestError:
    return RequestError(f"options: {what}")


def _strings(name: str, value: Any) -> tuple[str, ...]:
    """One string or several, none of them empty."""
    found = (value,) if isinstance(value, str) else value
    fits = isinstance(found, Sequence) and all(isinstance(one, str) and one for one in found)
    if not fits:
        raise RequestError(f"options: {name}={value!r}, expected a string or several, none of them empty")
    return tuple(found)


def distinct(name: str, texts: Any) -> tuple[str, ...]:
    """Answers to choose from: at least one, each with words, no two alike.

    Raises:
        RequestError: they are not.
    """
    if isinstance(texts, str) or not isinstance(texts, Sequence) or not texts:
        raise RequestError(f"{name}: got {texts!r}, expected a list of answers, at least one")
    seen: set[str] = set()
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise RequestError(f"{name}: one is {text!r}, expected words in each")
        if text.strip() in seen:
            raise RequestError(f"{name}: {text.strip()!r} is there twice; leave one of them out")
        seen.add(text.strip())
    return tuple(text.strip() for text in texts)


def generation_options(
    options: Options, others: Mapping[str, Any], checkpoint: Mapping[str, Any]
) -> GenerationOptions:
    """The checkpoint's settings under those of the caller. Drawn is only when the caller asks for it.

    Args:
        others: further fields of generation_config.json, which win over the checkpoint's.
        checkpoint: what the checkpoint wants of generation.
    """
    return GenerationOptions.from_dict({**checkpoint, **options.settings(), **others})


def idle_merging(wanted: float | None, counts: Mapping[int, int]) -> tuple[str, ...]:
    """A note where one of some pictures and clips has fewer visual tokens than asked for."""
    least = min(counts.values(), default=0)
    if wanted is None or wanted <= max(1, least) or not least:
        return ()
    return (f"visual_tokens={wanted}, but a picture or clip has {least}; it keeps all",)
