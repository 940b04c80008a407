import pytest
import torch

from watchword.errors import RequestError
from watchword.nn.merging import merge_tokens
from watchword.pipeline import Options


def test_visual_tokens_are_merged_and_counted(pipeline, clip):
    model = pipeline("llava")
    answer = model.ask(clip, "What?", frames=4, visual_tokens=0.5, max_tokens=3)
    full = model.ask(clip, "What?", frames=4, max_tokens=3)
    assert (answer.tokens["visual"], full.tokens["visual"]) == (10, 20)
    assert full.tokens["prompt"] - answer.tokens["prompt"] == 10
    assert answer.options["visual_tokens"] == 0.5
    assert model.ask(clip, "What?", frames=4, visual_tokens=7, max_tokens=3).tokens["visual"] == 7


def test_visual_tokens_of_one_share_never_answer_for_another(pipeline, clip):
    model = pipeline("llava")
    shares = (None, 0.5, 0.25, 9)
    alone = []
    for share in shares:
        model.cache.clear()
        alone.append(model.ask(clip, "What is it?", frames=4, visual_tokens=share, logprobs=0, max_tokens=4))
    model.cache.clear()
    for share, expected in zip(shares * 2, alone * 2):
        found = model.ask(clip, "What is it?", frames=4, visual_tokens=share, logprobs=0, max_tokens=4)
        assert found.text == expected.text
        scores = [[one.logprob for one in each.samples[0].logprobs] for each in (found, expected)]
        torch.testing.assert_close(torch.tensor(scores[0]), torch.tensor(scores[1]), rtol=1e-4, atol=1e-4)
    model.ask(clip, "And that?", frames=4, visual_tokens=0.5, max_tokens=1)
    assert model.cache.stats().misses["merged"] >= 3


def test_visual_tokens_are_those_that_merging_gives(pipeline, clip):
    model = pipeline("llava")
    seen = []
    original = model.model.language_model.prefill

    def prefill(embeds, *rest):
        seen.append(embeds[0])
        return original(embeds, *rest)

    model.cache.clear()
    model.model.language_model.prefill = prefill
    try:
        for share in (None, 0.5):
            model.ask(clip, "What?", frames=4, visual_tokens=share, max_tokens=1)
    finally:
        del model.model.language_model.prefill
    full, half = seen
    start = next(at for at, (a, b) in enumerate(zip(full, half)) if not a.equal(b))
    merged = merge_tokens(full[start : start + 20], 10)
    torch.testing.assert_close(half[start : start + 10], merged)
    torch.testing.assert_close(half[start + 10 :], full[start + 20 :])


def test_visual_tokens_work_together_with_batches_beams_and_chats(pipeline, clip):
    model = pipeline("llava")
    alone = model.ask(clip, "What?", frames=4, visual_tokens=0.5, max_tokens=4)
    requests = [{"media": clip, "question": "What?", "visual_tokens": share} for share in (None, 0.5, 6)]
    together = model.ask_many(requests, frames=4, max_tokens=4)
    assert [one.tokens["visual"] for one in together] == [20, 10, 6]
    assert together[1].text == alone.text
    beams = model.ask(clip, "What?", frames=4, visual_tokens=0.5, beams=2, max_tokens=4)
    assert beams.tokens["visual"] == 10
    talk = model.chat(clip, frames=4)
    assert talk.ask("What?", visual_tokens=0.5, max_tokens=4).text == alone.text
    second = talk.ask("And then?", visual_tokens=0.5, max_tokens=4)
    assert second.tokens["visual"] == 10
    assert second.tokens["reused"] > 0


def test_visual_tokens_beyond_what_there_is_are_noted(pipeline, clip):
    answer = pipeline("llava").ask(clip, "What?", frames=4, visual_tokens=500, max_tokens=1)
    assert answer.notes == ("visual_tokens=500, but a picture or clip has 20; it keeps all",)
    assert answer.tokens["visual"] == 20


@pytest.mark.parametrize("value", [0, -1, 1.5, 2.5, True, float("nan")])
def test_visual_tokens_out_of_range_are_refused(value):
    with pytest.raises(RequestError, match=f"options: visual_tokens={value!r}, expected a share above 0"):
        Options(visual_tokens=value)


def test_visual_tokens_of_a_q_former_are_refused(pipeline, clip):
    message = r"visual_tokens=0\.5: instructblip has \d+ tokens, which its Q-Former has chosen"
    with pytest.raises(RequestError, match=message):
        pipeline("blip").ask(clip, "What?", visual_tokens=0.5)


def test_visual_tokens_are_refused_where_places_are_told(pipeline, clip):
    for given in ({"visual_tokens": 0.5}, {"options": Options(visual_tokens=0.5)}):
        with pytest.raises(
            RequestError, match=r"explain: visual_tokens=0\.5, but merged tokens have no place"
        ):
            pipeline("llava").explain(clip, "What?", **given)
