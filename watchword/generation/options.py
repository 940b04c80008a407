"""What a request may ask of generation, in one frozen value; and what follows from it by arithmetic."""

import logging
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from watchword.errors import RequestError

logger = logging.getLogger(__name__)

Real = int | float  # JSON does not tell 1 from 1.0

DEFAULT_LENGTH = 20
"""The reference's default `max_length`; standing alone it means 20 new tokens."""

REFUSED: dict[str, tuple[Any, ...]] = {
    "assistant_early_exit": (None,),
    "assistant_model": (None,),
    "cache_config": (None,),
    "cache_implementation": (None, "dynamic"),
    "compile_config": (None,),
    "constraints": (None,),
    "custom_generate": (None,),
    "diversity_penalty": (None, 0),
    "dola_layers": (None,),
    "force_words_ids": (None,),
    "guidance_scale": (None, 1),
    "low_memory": (None, False),
    "negative_prompt_attention_mask": (None,),
    "negative_prompt_ids": (None,),
    "num_beam_groups": (None, 1),
    "penalty_alpha": (None, 0),
    "prefill_chunk_size": (None,),
    "prompt_lookup_num_tokens": (None,),
    "synced_gpus": (None, False),
    "token_healing": (None, False),
    "watermarking_config": (None,),
}
"""Settings that are not implemented, with the values that ask for nothing."""

COUNTS = {
    "max_new_tokens": 1,
    "max_length": 1,
    "min_new_tokens": 0,
    "min_length": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
}
"""Settings that are whole numbers, and the least they may be."""


def refuse(settings: Mapping[str, Any]) -> None:
    """Raise `RequestError` when a setting asks for something that is not implemented."""
    for name, neutral in REFUSED.items():
        value = settings.get(name)
        plain = isinstance(value, int | float | str | None)
        if not plain or value not in neutral:
            raise RequestError(f"generate: {name}={value!r} is not implemented; leave it out")


NUMBERS = (
    "max_time", "length_penalty", "temperature", "top_p", "min_p", "typical_p", "epsilon_cutoff",
    "eta_cutoff",
)  # fmt: skip


@dataclass(frozen=True)
class GenerationOptions:
    """How tokens are chosen and when to stop. Names and meanings are those of `generation_config.json`.

    Lengths: `max_new_tokens` counts generated tokens and wins over `max_length`, which counts the prompt's
    ids too. With neither, 20 new tokens. `min_new_tokens` and `min_length` likewise.

    Args:
        eos_token_ids: any of these ends a row.
        pad_token_id: fills rows that ended; the first end token when None.
        early_stopping: for beams: True stops at the first `num_beams` finished ones, False when better ones
            are unlikely, "never" when they are impossible.
        top_k: 0 keeps all tokens.
        exponential_decay_length_penalty: after so many new tokens, favour the end by this factor per token.
        sequence_bias: added to the score of a sequence's last id when the ids before it were just written.
        prefix_allowed_tokens_fn: given the row of the batch and its ids, the ids that may come next.
        max_time: seconds after which rows end where they are.
    """

    max_new_tokens: int | None = None
    max_length: int | None = None
    min_new_tokens: int | None = None
    min_length: int = 0
    max_time: Real | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    do_sample: bool = False
    num_beams: int = 1
    num_return_sequences: int = 1
    early_stopping: bool | str = False
    length_penalty: Real = 1.0
    temperature: Real = 1.0
    top_k: int = 50
    top_p: Real = 1.0
    min_p: Real | None = None
    typical_p: Real = 1.0
    epsilon_cutoff: Real = 0.0
    eta_cutoff: Real = 0.0
    repetition_penalty: Real = 1.0
    encoder_repetition_penalty: Real = 1.0
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    sequence_bias: tuple[tuple[tuple[int, ...], Real], ...] = ()
    prefix_allowed_tokens_fn: Callable[..., Sequence[int]] | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_ids: tuple[int, ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    exponential_decay_length_penalty: tuple[int, Real] | None = None
    remove_invalid_values: bool = False
    renormalize_logits: bool = False
    output_scores: bool = False
    output_logits: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.pad_token_id, numbers.Integral | None):
            raise RequestError(f"generate: pad_token_id={self.pad_token_id!r}, expected a token id")
        if self.pad_token_id is not None and self.pad_token_id < 0:
            object.__setattr__(self, "pad_token_id", None)  # old Vicuna configs say -1, which embeds nothing
        self._check_numbers()
        self._check_counts()
        self._check_scores()
        if self.do_sample:
            self._check_sampling()

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "GenerationOptions":
        """From the fields of `generation_config.json`, or the same fields of an old `config.json`.

        Other fields are left alone; None means unset; a `max_length` of 20 is the default: 20 new tokens.

        Raises:
            RequestError: a value out of its range, or a setting that is not implemented.
        """
        refuse(raw)
        known = {field.name for field in fields(cls)}
        given = {name: value for name, value in raw.items() if name in known and value is not None}
        if "top_k" in raw and raw["top_k"] is None:
            given["top_k"] = 0
        if given.get("max_length") == DEFAULT_LENGTH:
            del given["max_length"]
        for name in ("eos_token_id", "forced_eos_token_id"):
            given[f"{name}s"] = _ids(name, raw.get(name))
        for name in ("suppress_tokens", "begin_suppress_tokens"):
            given[name] = _ids(name, raw.get(name))
        given["bad_words_ids"] = _words(raw.get("bad_words_ids"))
        given["sequence_bias"] = _biases(raw.get("sequence_bias"))
        if decay := given.get("exponential_decay_length_penalty"):
            pair = isinstance(decay, Sequence) and not isinstance(decay, str)
            given["exponential_decay_length_penalty"] = tuple(decay) if pair else decay
        return cls(**given)

    @property
    def most(self) -> int:
        """`max_new_tokens` of resolved options."""
        assert self.max_new_tokens is not None
        return self.max_new_tokens

    @property
    def fill(self) -> int | None:
        """The id that rows are filled with after their end."""
        if self.pad_token_id is None and self.eos_token_ids:
            return self.eos_token_ids[0]
        return self.pad_token_id

    @property
    def kept_at_least(self) -> int:
        """Tokens that the sampling filters must leave: with beams one more than may end a row."""
        return 1 if self.num_beams == 1 else (len(self.eos_token_ids) or 1) + 1

    def resolved(
        self, prompt: int, *, embeds: int | None = None, max_positions: int | None = None
    ) -> "GenerationOptions":
        """The same options with both limits as numbers of new tokens.

        Args:
            prompt: ids of the prompt that count as part of the sequence.
            embeds: length of a prompt that came as embeddings without ids; it counts against `max_length`.
            max_positions: what the model has positions for; caps the default length, nothing else.

        Raises:
            RequestError: the prompt leaves no room under `max_length`.
        """
        least = max(self.min_length - prompt - (embeds or 0), 0)
        if self.min_new_tokens is not None:
            least = self.min_new_tokens
        return replace(
            self,
            max_new_tokens=self._most(prompt, embeds, max_positions),
            max_length=None,
            min_new_tokens=least,
            min_length=0,
        )

    def _most(self, prompt: int, embeds: int | None, max_positions: int | None) -> int:
        if self.max_new_tokens is not None:
            if self.max_length is not None:
                logger.warning(
                    "max_new_tokens=%s and max_length=%s are both set: max_new_tokens applies",
                    self.max_new_tokens,
                    self.max_length,
                )
            return self.max_new_tokens
        if self.max_length is None and embeds is None:
            most = min(prompt + DEFAULT_LENGTH, max_positions or prompt + DEFAULT_LENGTH)
            setting = f"the model has {max_positions} positions"
        else:
            most = self.max_length or DEFAULT_LENGTH
            setting = f"max_length={most}"
        taken = prompt + (embeds or 0)
        if taken >= most:
            raise RequestError(
                f"generate: {setting}, but the prompt already has {taken}; "
                "max_length counts the prompt too, so set max_new_tokens instead"
            )
        return most - taken

    def _check_numbers(self) -> None:
        for name in NUMBERS:
            value = getattr(self, name)
            if value is not None and not hasattr(value, "__float__"):
                raise RequestError(f"generate: {name}={value!r}, expected a number")
        decay = self.exponential_decay_length_penalty
        pair = (
            isinstance(decay, tuple) and len(decay) == 2 and all(isinstance(x, numbers.Real) for x in decay)
        )
        if decay is not None and not pair:
            raise RequestError(
                f"generate: exponential_decay_length_penalty={decay!r}, expected two numbers: tokens, factor"
            )

    def _check_counts(self) -> None:
        for name, least in COUNTS.items():
            value = getattr(self, name)
            if value is not None and (not isinstance(value, numbers.Integral) or value < least):
                raise RequestError(f"generate: {name}={value!r}, expected a whole number, at least {least}")
        if self.num_return_sequences > self.num_beams > 1:
            raise RequestError(
                f"generate: num_return_sequences={self.num_return_sequences} of num_beams="
                f"{self.num_beams}; ask for at most as many as there are beams"
            )
        if self.num_return_sequences > 1 and self.num_beams == 1 and not self.do_sample:
            raise RequestError(
                f"generate: num_return_sequences={self.num_return_sequences} of greedy choice "
                "would be one answer repeated; set do_sample=True or num_beams"
            )

    def _check_scores(self) -> None:
        for name in ("repetition_penalty", "encoder_repetition_penalty"):
            value = getattr(self, name)
            if not (value == 1 or (isinstance(value, float) and value > 0)):
                raise RequestError(f"generate: {name}={value!r}, expected a float above 0")
        if self.early_stopping not in (True, False, "never"):
            raise RequestError(f"generate: early_stopping={self.early_stopping!r}, not a bool or 'never'")
        if self.exponential_decay_length_penalty is not None and not self.eos_token_ids:
            raise RequestError(
                "generate: exponential_decay_length_penalty="
                f"{self.exponential_decay_length_penalty} without an eos_token_id; set one"
            )

    def _check_sampling(self) -> None:
        if not self.temperature > 0:
            raise RequestError(
                f"generate: temperature={self.temperature!r}, expected a number above 0; "
                "for greedy choice set do_sample=False"
            )
        if not isinstance(self.top_k, numbers.Integral) or self.top_k < 0:
            raise RequestError(f"generate: top_k={self.top_k!r}, expected a whole number, 0 to keep all")
        for name in ("top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise RequestError(f"generate: {name}={value!r}, expected a number from 0 to 1")
        if self.typical_p == 0:
            raise RequestError("generate: typical_p=0, expected a number above 0, up to 1")


def _ids(name: str, value: Any) -> tuple[int, ...]:
    """One id, several, or none, as a tuple."""
    if value is None:
        return ()
    if hasattr(value, "tolist"):  # a tensor
        value = value.tolist()
    ids = (value,) if isinstance(value, numbers.Integral) else tuple(value)
    if bad := [one for one in ids if not isinstance(one, numbers.Integral)]:
        raise RequestError(f"generate: {name} contains {bad[0]!r}, expected token ids")
    return tuple(int(one) for one in ids)


def _words(value: Any) -> tuple[tuple[int, ...], ...]:
    if value is None:
        return ()
    listed = isinstance(value, list | tuple) and len(value) > 0
    if not listed or not all(isinstance(word, list | tuple) for word in value):
        raise RequestError(f"generate: bad_words_ids={value!r}, expected a list of lists of token ids")
    words = tuple(_ids("bad_words_ids", word) for word in value)
    if bad := [word for word in words if not word or min(word) < 0]:
        raise RequestError(f"generate: bad_words_ids has {list(bad[0])!r}, expected ids from 0 up")
    return words


def _biases(value: Any) -> tuple[tuple[tuple[int, ...], float], ...]:
    """From {(ids): bias} or [[ids], bias] pairs."""
    if value is None:
        return ()
    pairs = list(value.items()) if isinstance(value, Mapping) else list(value)
    if not pairs:
        raise RequestError(f"generate: sequence_bias={value!r} is empty; leave it out")
    for ids, bias in pairs:
        if not ids or not isinstance(bias, float):
            raise RequestError(f"generate: sequence_bias has {ids!r}: {bias!r}, expected ids and a float")
    return tuple((_ids("sequence_bias", ids), bias) for ids, bias in pairs)
