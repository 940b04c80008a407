"""What one question leaves for the next, and that it never answers for another medium or model."""

import numpy as np
import pytest
import torch

import watchword
from tests.media.clips import decoded
from watchword import media
from watchword.pipeline.families import Exchange
from watchword.pipeline.preparing import prepare, wished
from watchword.pipeline.stopwatch import Stopwatch

KINDS = ("llava", "blip", "blip-bare", "blip-opt", "blip-t5")
PICTURE = np.arange(36 * 48 * 3, dtype=np.uint8).reshape(36, 48, 3)
OTHER = PICTURE[::-1].copy()
QUESTION = "What is happening in this video?"


@pytest.fixture
def fresh(checkpoint):
    """A model that has seen nothing."""
    return lambda kind, **given: watchword.load(checkpoint(kind), **given)


def towers(model):
    """Counts how often frames go through a tower."""
    looks = []
    for module in model.model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda *given: looks.append(1))
    return looks


def told(model, *given, **settings):
    return model.ask(*given, max_tokens=12, logprobs=0, **settings)


def same(answer, other):
    """The same tokens, equally likely up to the last bits."""
    assert [one for one, _ in numbers(answer)] == [one for one, _ in numbers(other)]
    assert [one for _, one in numbers(answer)] == pytest.approx([one for _, one in numbers(other)], abs=1e-4)


def numbers(answer):
    return [(token.id, token.logprob) for token in answer.logprobs]


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_question_looks_at_nothing(fresh, clip, kind):
    model = fresh(kind)
    looks = towers(model)
    told(model, clip, QUESTION)
    seen = len(looks)
    assert seen
    second = told(model, clip, "Why is this video funny?")
    assert len(looks) == seen
    same(second, told(fresh(kind), clip, "Why is this video funny?"))
    assert (second.tokens["reused"] > 0) == (kind == "llava")


def test_t5_s_whole_prompt_is_known_again_and_nothing_less(fresh, clip):
    model = fresh("blip-t5")
    first = told(model, clip, QUESTION)
    looks, runs = towers(model), []
    model.model.language_model.encoder.register_forward_hook(lambda *given: runs.append(1))
    for settings in ({}, {"beams": 3, "logprobs": None}, {"temperature": 2.0, "seed": 1}):
        again = model.ask(clip, QUESTION, **{"max_tokens": 12, "logprobs": 0, **settings})
        assert again.tokens["reused"] == again.tokens["prompt"]
        cold = fresh("blip-t5").ask(clip, QUESTION, **{"max_tokens": 12, "logprobs": 0, **settings})
        assert again.text == cold.text
    model.rank(clip, QUESTION, ["people", "the cat"])
    assert (looks, runs) == ([], [])
    assert numbers(told(model, clip, QUESTION)) == numbers(first)
    for changed in (("Why?", {}), (QUESTION, {"frames": 2}), (QUESTION, {"scope": "other"})):
        assert told(model, clip, changed[0], **changed[1]).tokens["reused"] == 0
    assert len(runs) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_warm_runs_equal_warm_runs_exactly(fresh, clip, kind):
    model = fresh(kind)
    told(model, clip, QUESTION)
    assert len({tuple(numbers(told(model, clip, QUESTION))) for _ in range(3)}) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_equal_content_hits_under_any_name_and_another_picture_never(fresh, clip, tmp_path, kind):
    model = fresh(kind)
    looks = towers(model)
    first = told(model, clip, QUESTION)
    seen = len(looks)
    (tmp_path / "copy.mp4").write_bytes(clip.read_bytes())
    frames = np.stack(decoded(clip))
    for source in (tmp_path / "copy.mp4", clip.read_bytes(), frames, list(frames)):
        assert told(model, source, QUESTION).text == first.text
    assert len(looks) == seen
    swapped = frames[::-1].copy()
    same(told(model, swapped, QUESTION), told(fresh(kind), swapped, QUESTION))
    assert len(looks) > seen


@pytest.mark.parametrize("kind", KINDS)
def test_equal_words_and_sizes_about_swapped_media_are_apart(fresh, kind):
    model = fresh(kind)
    one, two = told(model, PICTURE, QUESTION), told(model, OTHER, QUESTION)
    same(one, told(fresh(kind), PICTURE, QUESTION))
    same(two, told(fresh(kind), OTHER, QUESTION))
    assert numbers(one) != numbers(two)


def test_a_picture_is_not_a_clip_of_one_frame(fresh):
    model = fresh("llava")
    told(model, PICTURE, QUESTION)
    found = told(model, PICTURE[None], QUESTION)
    same(found, told(fresh("llava"), PICTURE[None], QUESTION))
    assert found.tokens["visual"] == 5


@pytest.mark.parametrize("kind", KINDS)
def test_another_choice_of_frames_is_another_medium(fresh, clip, kind):
    model = fresh(kind)
    told(model, clip, QUESTION, frames=media.at_indices([0, 5]))
    found = told(model, clip, QUESTION, frames=media.at_indices([0, 6]))
    alone = told(fresh(kind), clip, QUESTION, frames=media.at_indices([0, 6]))
    same(found, alone)


def test_two_media_in_one_prompt_keep_their_places(fresh):
    def both(model, *pictures):
        chat = model.chat()
        for picture in pictures:
            chat.show(picture)
        return chat.ask(QUESTION, max_tokens=12, logprobs=0)

    model = fresh("llava")
    both(model, PICTURE, OTHER)
    swapped = both(model, OTHER, PICTURE)
    same(swapped, both(fresh("llava"), OTHER, PICTURE))
    assert numbers(swapped) != numbers(both(model, PICTURE, OTHER))


@pytest.mark.parametrize("kind", KINDS)
def test_changed_weights_find_nothing_of_the_old_ones(fresh, clip, kind):
    model, other = fresh(kind), fresh(kind)
    told(model, clip, QUESTION)
    before = model.cache.stats()
    for each in (model, other):
        with torch.no_grad():
            for name, parameter in each.model.named_parameters():
                if "tower" in name or "vision_model" in name or "layers.0" in name:
                    parameter.add_(0.1)
    found = told(model, clip, QUESTION)
    same(found, told(other, clip, QUESTION))
    assert (found.tokens["reused"], model.cache.stats().hits) == (0, before.hits)


def test_a_changed_config_finds_nothing_of_the_old_one(fresh, clip):
    model = fresh("llava")
    told(model, clip, QUESTION)
    model.model.config.vision_feature_layer = -1
    assert told(model, clip, QUESTION).tokens["reused"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_qformer_reads_every_instruction(fresh, kind):
    if kind == "llava":
        pytest.skip("has none")
    model = fresh(kind)
    told(model, PICTURE, QUESTION)
    told(model, PICTURE, "Why?")
    stats = model.cache.stats()
    assert (stats.misses["qformer"], stats.hits.get("qformer", 0)) == (2, 0)
    told(model, PICTURE, "Why?")
    assert model.cache.stats().misses["qformer"] == 2


def test_scopes_share_nothing(fresh, clip):
    model = fresh("llava")
    told(model, clip, QUESTION, scope="one")
    hits = model.cache.stats().hits
    assert told(model, clip, QUESTION, scope="two").tokens["reused"] == 0
    assert model.cache.stats().hits == hits
    assert told(model, clip, QUESTION, scope="one").tokens["reused"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_budget_of_nothing_keeps_nothing(fresh, clip, kind):
    off, on = fresh(kind, cache_bytes=0), fresh(kind)
    for question in (QUESTION, "Why?", QUESTION):
        assert told(off, clip, question).text == told(on, clip, question).text
    stats = off.cache.stats()
    assert (stats.bytes, stats.entries, sum(stats.hits.values())) == (0, 0, 0)


def test_the_least_recently_used_goes_first(fresh):
    model = fresh("llava", cache_bytes=20_000)
    for seed in range(8):
        picture = np.random.default_rng(seed).integers(0, 255, (30, 30, 3), np.uint8)
        told(model, picture, QUESTION)
        assert model.cache.stats().bytes <= 20_000
    assert model.cache.stats().evicted > 0
    model.cache.clear()
    assert model.cache.stats().bytes == 0


def test_a_prompt_that_is_known_is_not_looked_at_before_the_engine(fresh, clip):
    model = fresh("llava")
    told(model, clip, QUESTION)
    read = media.read_media(clip, media.uniform(8))
    asked = prepare(model, [Exchange(QUESTION, (read,))], wished(None, "", {}), Stopwatch(model.device))
    assert model.engine.known(asked.job) > 0
