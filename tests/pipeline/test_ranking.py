import math

import numpy as np
import pytest
import torch

from watchword.errors import CapacityError, RequestError
from watchword.generation.options import GenerationOptions
from watchword.pipeline.families import Exchange, encoded
from watchword.pipeline.preparing import job_of

KINDS = ("llava", "blip", "blip-bare", "blip-opt", "blip-t5")
PICTURE = np.arange(36 * 48 * 3, dtype=np.uint8).reshape(36, 48, 3)
QUESTION = "What is happening in this video?"
CANDIDATES = ("the cat", "the red ball", "people", "a book")


def forced(model, question, candidate):
    """Log-probabilities of an answer's tokens, as generation tells them that may write nothing else."""
    answer = model.ask(PICTURE, question, choices=[candidate], logprobs=0)
    return [token.logprob for token in answer.logprobs]


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_writing_the_answer(pipeline, kind):
    model = pipeline(kind)
    for candidate in CANDIDATES:
        found = model.score(PICTURE, QUESTION, candidate)
        assert [token.logprob for token in found.tokens] == pytest.approx(
            forced(model, QUESTION, candidate), abs=1e-4
        )
        assert found.sum == pytest.approx(sum(token.logprob for token in found.tokens))
        assert found.mean == pytest.approx(found.sum / len(found.tokens))
        assert found.tokens[-1].id == model.words.text.eos_token_id
        assert found.text == candidate


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", ["sum", "mean", "instructblip", "unconditional"])
def test_candidates_are_ranked_by_rule(pipeline, kind, rule):
    model = pipeline(kind)
    ranking = model.rank(PICTURE, QUESTION, CANDIDATES, rule=rule)
    assert {one.text for one in ranking.candidates} == set(CANDIDATES)
    assert math.fsum(one.probability for one in ranking.candidates) == pytest.approx(1)
    scores = [one.score for one in ranking.candidates]
    assert scores == sorted(scores, reverse=True)
    assert ranking.best is ranking.candidates[0]
    for one in ranking.candidates:
        alone = model.score(PICTURE, QUESTION, one.text)
        assert one.sum == pytest.approx(alone.sum, abs=1e-4)
        assert one.probability == pytest.approx(
            math.exp(one.score) / math.fsum(math.exp(score) for score in scores)
        )
        logs = [token.logprob for token in one.tokens]
        if rule == "sum":
            assert one.score == one.sum
        if rule == "mean":
            assert one.score == one.mean
        if rule == "instructblip":
            assert one.score == pytest.approx(sum(logs if kind == "blip-t5" else logs[:-1]))
        if rule == "unconditional":
            assert one.score == pytest.approx(one.sum - plain(model, one), abs=1e-3)


@torch.no_grad()
def plain(model, one):
    """Log-probability of an answer behind an empty prompt."""
    prompt = encoded(model.family.bare(model.words), [], [])
    job = job_of(model, [Exchange("")], prompt, "", options=GenerationOptions(max_new_tokens=20),
                 answers=(tuple(token.id for token in one.tokens),))  # fmt: skip
    return sum(model.engine.run(job).scores[0])


def test_the_prompt_is_run_once_for_all_candidates(pipeline, monkeypatch):
    model = pipeline("llava")
    model.cache.clear()
    runs = []
    prefill = type(model.model.language_model).prefill
    monkeypatch.setattr(
        model.model.language_model, "prefill",
        lambda *given: runs.append(given[0].shape[1]) or prefill(model.model.language_model, *given),
        raising=False,
    )  # fmt: skip
    model.rank(PICTURE, QUESTION, CANDIDATES)
    assert len(runs) == 1


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ([], r"candidates: got \[\], expected a list of answers, at least one"),
        (["a", "a"], "candidates: 'a' is there twice"),
        (["a", ""], "candidates: one is '', expected words in each"),
    ],
)
def test_rank_refuses_candidates_that_are_none(pipeline, candidates, message):
    with pytest.raises(RequestError, match=message):
        pipeline("llava").rank(PICTURE, QUESTION, candidates)


def test_rank_and_score_refuse_what_does_not_fit(pipeline):
    model = pipeline("llava")
    with pytest.raises(
        RequestError, match="rank: rule='best'; expected one of 'sum', 'mean', 'instructblip'"
    ):
        model.rank(PICTURE, QUESTION, ["a"], rule="best")
    with pytest.raises(RequestError, match="rank: the question is '', expected some words"):
        model.rank(PICTURE, "", ["a"])
    with pytest.raises(RequestError, match="score: no picture or clip"):
        model.score(None, QUESTION, "a")
    with pytest.raises(RequestError, match="answer: one is ' ', expected words"):
        model.score(PICTURE, QUESTION, " ")
    with pytest.raises(CapacityError, match=r"rank: the prompt has \d+ tokens and the longest answer \d+"):
        model.score(PICTURE, QUESTION, "the cat " * 150)
