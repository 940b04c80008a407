"""How likely given answers are: the prompt is run once, and every answer behind it."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from watchword.errors import CapacityError, RequestError
from watchword.generation.options import GenerationOptions
from watchword.generation.requests import Job
from watchword.pipeline.answer import TokenScore
from watchword.pipeline.families import Encoded, Exchange, encoded
from watchword.pipeline.options import distinct
from watchword.pipeline.preparing import end_token, ids_of, job_of, look, out_of_memory, room
from watchword.pipeline.reuse import digest

Rule = Literal["sum", "mean", "instructblip", "unconditional"]
RULES = ("sum", "mean", "instructblip", "unconditional")


@dataclass(frozen=True)
class Scored:
    """An answer and how likely it is.

    Attributes:
        text: the answer.
        tokens: its tokens with their log-probabilities; last the end token, where the model has one.
        sum: the log-probability of the whole answer.
        mean: the same for each token.
    """

    text: str
    tokens: tuple[TokenScore, ...]
    sum: float
    mean: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Candidate(Scored):
    """One of several answers.

    Attributes:
        score: what the rule makes of it; the highest is best.
        probability: its share among the candidates, by the scores; they sum to 1.
    """

    score: float
    probability: float


@dataclass(frozen=True)
class Ranking:
    """Candidates, the best first.

    Attributes:
        candidates: in order; equals stay as they were given.
        rule: how they were compared.
        model: which checkpoint was asked.
    """

    candidates: tuple[Candidate, ...]
    rule: str
    model: str

    @property
    def best(self) -> Candidate:
        """The first."""
        return self.candidates[0]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `--json` prints them."""
        return {
            "rule": self.rule,
            "model": self.model,
            "candidates": [one.to_dict() for one in self.candidates],
        }


def rank(
    pipeline: Any,
    exchange: Exchange,
    candidates: Sequence[str],
    rule: str = "sum",
    scope: str = "",
    adapter: str | None = None,
) -> Ranking:
    """Rank given answers to a question.

    The rules, where a candidate's tokens are c1 … cn, and the end token e follows:

    - "sum": log p(c1 … cn e | medium, question), the log-probability of exactly this answer.
    - "mean": the same divided by n + 1, so that long answers are not at a disadvantage.
    - "instructblip": what the original InstructBLIP ranks by: the loss summed over the candidate's tokens as
      its tokenizer gives them. That is with the end token for T5 and without it for the decoder-only models.
      (Its Vicuna code divides the sum by the padded length, which is one number for all candidates.)
    - "unconditional": "sum" minus log p(c1 … cn e | an empty prompt): how much medium and question speak for
      the candidate, beyond what is likely anyway.

    Args:
        pipeline: the `Pipeline`.
        exchange: the question with its medium.
        candidates: different answers.
        rule: how they are compared.
        scope, adapter: see `Pipeline.ask`.

    Raises:
        RequestError: no candidates, an empty or a repeated one, one that the tokenizer cannot spell, or an
            unknown rule.
        CapacityError: more than the model has positions for, or than memory holds.

    Source: predict_class of blip2_vicuna_instruct and blip2_t5_instruct in LAVIS; for "unconditional" Brown
    and others, Language Models are Few-Shot Learners (2020), section 2.4.
    """
    if rule not in RULES:
        raise RequestError(f"rank: rule={rule!r}; expected one of {', '.join(map(repr, RULES))}")
    texts = distinct("candidates", candidates)
    ids = ids_of(pipeline, [exchange], "candidates", texts)
    scored = scores(pipeline, exchange, texts, ids, scope, adapter)
    values = [one.mean if rule == "mean" else one.sum for one in scored]
    ends = end_token(pipeline, GenerationOptions.from_dict(pipeline.settings)) is not None
    if rule == "instructblip" and ends and not pipeline.model.config.text_config.is_encoder_decoder:
        values = [math.fsum(token.logprob for token in one.tokens[:-1]) for one in scored]
    if rule == "unconditional":
        plain = scores(pipeline, None, texts, ids, scope, adapter)
        values = [one.sum - other.sum for one, other in zip(scored, plain)]
    top = max(values)
    weights = [math.exp(value - top) for value in values]
    found = [
        Candidate(one.text, one.tokens, one.sum, one.mean, value, weight / math.fsum(weights))
        for one, value, weight in zip(scored, values, weights)
    ]
    found.sort(key=lambda one: -one.score)
    return Ranking(tuple(found), rule, pipeline.name)


def score(
    pipeline: Any, exchange: Exchange, answer: str, scope: str = "", adapter: str | None = None
) -> Scored:
    """How likely one answer is, token by token, its end included.

    Raises:
        RequestError: an answer without words, or one that the tokenizer cannot spell.
        CapacityError: more than the model has positions for, or than memory holds.
    """
    texts = distinct("answer", [answer])
    ids = ids_of(pipeline, [exchange], "answer", texts)
    return scores(pipeline, exchange, texts, ids, scope, adapter)[0]


def scores(
    pipeline: Any,
    exchange: Exchange | None,
    texts: Sequence[str],
    ids: Sequence[tuple[int, ...]],
    scope: str,
    adapter: str | None = None,
) -> list[Scored]:
    """Answers behind a question, or behind an empty prompt."""
    settings = GenerationOptions.from_dict(pipeline.settings)
    end = end_token(pipeline, settings)
    answers = tuple(one if end is None else (*one, end) for one in ids)
    config, words = pipeline.model.config, pipeline.words
    if exchange is None:
        exchanges = [Exchange("")]
        prompt = encoded(pipeline.family.bare(words), [], [])
    else:
        exchanges = [exchange]
        prompt = pipeline.family.encode(config, words, exchanges)
    longest = max(len(answer) for answer in answers)
    check_room(pipeline, prompt, longest)
    own = GenerationOptions(max_new_tokens=longest)
    job: Job = job_of(pipeline, exchanges, prompt, scope, digest, adapter, options=own, answers=answers)
    look(pipeline, job, prompt)
    try:
        ticket = pipeline.engine.run(job)
    except CapacityError as error:
        if error.__cause__ is None:
            raise
        raise out_of_memory(pipeline, prompt, own) from error
    return [told(words.text, *one) for one in zip(texts, answers, ticket.scores)]


def check_room(pipeline: Any, prompt: Encoded, longest: int) -> None:
    """Refuse answers that have no room behind the prompt."""
    limit = room(pipeline)
    if limit is not None and prompt.length + longest > limit:
        raise CapacityError(
            f"rank: the prompt has {prompt.length} tokens and the longest answer {longest}; {pipeline.name} "
            f"has {limit} positions; ask for fewer frames or with fewer words"
        )


def told(tokenizer: Any, text: str, ids: Sequence[int], logprobs: Sequence[float]) -> Scored:
    """An answer with its numbers."""
    spelled = tokenizer.convert_ids_to_tokens(list(ids))
    tokens = tuple(TokenScore(*one) for one in zip(spelled, ids, logprobs))
    total = math.fsum(logprobs)
    return Scored(text, tokens, total, total / len(tokens))
