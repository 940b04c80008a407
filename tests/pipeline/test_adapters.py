"""Adapters at the front door: who answers with which, together and one by one, and what is kept for whom."""

import json
import re
from contextlib import contextmanager

import numpy as np
import pytest
import torch

import watchword
from watchword.errors import CheckpointError, RequestError
from watchword.models import layouts
from watchword.nn import lora
from watchword.weights.adapters import Family, save_adapter
from watchword.weights.peft import FILE

KINDS = ("llava", "blip", "blip-video", "blip-opt", "blip-t5")
PICTURE = np.arange(36 * 48 * 3, dtype=np.uint8).reshape(36, 48, 3)
QUESTION = "What is happening in this video?"
TEXT = {"llava": "language_model.*(q_proj|down_proj)", "blip": "language_model.*(v_proj|up_proj)",
        "blip-video": "language_model.*(k_proj|gate_proj)", "blip-opt": "language_model.*(q_proj|fc1)",
        "blip-t5": "language_model.*(SelfAttention.q|EncDecAttention.v|wo)"}  # fmt: skip
EYES = {"llava": "multi_modal_projector.linear_.", "blip": r"qformer.*\.(query|key)",
        "blip-opt": r"qformer.*\.value", "blip-video": r"qformer.*\.(query|dense)",
        "blip-t5": "language_projection"}  # fmt: skip
TOWER = {"llava": ".*_tower.*q_proj"}
SETTINGS = {"max_tokens": 8, "logprobs": 0}


@pytest.fixture(scope="module")
def adapters(checkpoint, tmp_path_factory):
    """The folders of two adapters of a kind of model: of its text model, and of what looks."""
    made = {}

    def make(kind):
        if kind not in made:
            made[kind] = {}
            for at, (name, targets) in enumerate(
                {
                    "text": TEXT[kind],
                    "eyes": EYES[kind],
                    "tower": TOWER.get(kind, "vision_model.*fc1"),
                }.items()
            ):
                folder = tmp_path_factory.mktemp(f"{kind}-{name}")
                save(watchword.load(checkpoint(kind)).model, targets, folder, seed=at)
                made[kind][name] = folder
        return made[kind]

    return make


def save(model, targets, folder, seed):
    lora.add_adapter(model, targets, 3, alpha=9)
    source = torch.Generator().manual_seed(seed)
    for linear in lora.adapted(model).values():
        linear.adapters["default"].B.data.normal_(generator=source)
    save_adapter(model, folder, Family(**layouts.for_adapters(model)))


def numbers(answer):
    return [(token.id, round(token.logprob, 4)) for token in answer.logprobs]


def close(answer, other):
    assert [one.id for one in answer.logprobs] == [one.id for one in other.logprobs]
    assert [one.logprob for one in answer.logprobs] == pytest.approx(
        [one.logprob for one in other.logprobs], abs=1e-4
    )


@contextmanager
def looks(model):
    """Counts how often frames go through a tower."""
    found = []
    hooks = [
        module.register_forward_hook(lambda *given: found.append(1))
        for module in model.model.modules()
        if isinstance(module, torch.nn.Conv2d)
    ]
    yield found
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("kind", KINDS)
def test_requests_of_different_adapters_run_together_and_answer_as_alone(checkpoint, adapters, clip, kind):
    model = watchword.load(checkpoint(kind), adapter=adapters(kind), cache_bytes=0)
    assert model.adapters == ["text", "eyes", "tower"]
    names = ["text", "base", "eyes", "tower", None, "text", "base"]
    asked = [
        {"media": media, "question": f"{QUESTION} {at}", "adapter": name, **more}
        for at, name in enumerate(names)
        for media, more in ((PICTURE, {}), (clip, {"temperature": 2.0, "seed": at}))
    ]
    together = model.ask_many(asked, **SETTINGS)
    for one, answer in zip(asked, together):
        close(answer, model.ask(**one, **SETTINGS))
        assert answer.options.get("adapter", "base") == (one["adapter"] or "base")
    same = [
        model.ask(PICTURE, QUESTION, adapter=name, **SETTINGS) for name in ("text", "eyes", "tower", "base")
    ]
    assert len({str(numbers(one)) for one in same}) == 4
    plain = watchword.load(checkpoint(kind), cache_bytes=0).ask(PICTURE, QUESTION, **SETTINGS)
    assert numbers(plain) == numbers(same[-1])


@pytest.mark.parametrize("kind", ["llava", "blip-t5"])
def test_one_adapter_answers_unless_told_otherwise(checkpoint, adapters, clip, kind):
    one = watchword.load(checkpoint(kind), adapter=adapters(kind)["text"])
    several = watchword.load(checkpoint(kind), adapter=adapters(kind))
    assert one.adapters == ["default"]
    close(one.ask(clip, QUESTION, **SETTINGS), several.ask(clip, QUESTION, adapter="text", **SETTINGS))
    plain = one.ask(clip, QUESTION, adapter="base", **SETTINGS)
    close(plain, several.ask(clip, QUESTION, **SETTINGS))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_never_answers_for_another_adapter(checkpoint, adapters, clip, kind):
    warm = watchword.load(checkpoint(kind), adapter=adapters(kind))
    cold = {
        name: watchword.load(checkpoint(kind), adapter=adapters(kind), cache_bytes=0).ask(
            clip, QUESTION, adapter=name, **SETTINGS
        )
        for name in ("base", "text", "eyes", "tower")
    }
    for name in ("text", "base", "eyes", "tower", "text", "tower", "eyes", "base"):
        close(warm.ask(clip, QUESTION, adapter=name, **SETTINGS), cold[name])


@pytest.mark.parametrize("kind", ["llava", "blip"])
def test_features_are_shared_by_adapters_that_leave_the_eyes_alone(checkpoint, adapters, clip, kind):
    model = watchword.load(checkpoint(kind), adapter=adapters(kind))
    with looks(model) as found:
        for name in ("base", "text", "base", "text"):
            model.ask(clip, QUESTION, adapter=name, **SETTINGS)
        assert len(found) == 1
        model.ask(clip, QUESTION, adapter="tower", **SETTINGS)
        assert len(found) == 2
        model.ask(clip, QUESTION, adapter="eyes", **SETTINGS)
        assert len(found) == (3 if kind == "llava" else 2)  # the projector's output is what is kept there


def test_prompts_are_kept_for_each_adapter(checkpoint, adapters, clip):
    model = watchword.load(checkpoint("llava"), adapter=adapters("llava"))
    reused = [
        model.ask(clip, QUESTION, adapter=name, **SETTINGS).tokens["reused"]
        for name in ("base", "text", "base", "text")
    ]
    assert reused[:2] == [0, 0]
    assert reused[2] == reused[3] > 0


def test_an_adapter_that_takes_the_name_of_another_finds_nothing_of_it(checkpoint, adapters, clip):
    model = watchword.load(checkpoint("llava"), adapter={"mine": adapters("llava")["text"]})
    model.ask(clip, QUESTION, adapter="mine", **SETTINGS)
    lora.remove_adapter(model.model, "mine")
    lora.add_adapter(
        model.model, TEXT["llava"], 3, name="mine", learns=False
    )  # adds zeros: the base's answer
    model.model.eval()
    found = model.ask(clip, QUESTION, adapter="mine", **SETTINGS)
    assert found.tokens["reused"] == 0
    close(found, watchword.load(checkpoint("llava")).ask(clip, QUESTION, **SETTINGS))


def test_an_adapter_that_learns_on_finds_nothing_of_before(checkpoint, adapters, clip):
    model = watchword.load(checkpoint("llava"), adapter=adapters("llava")["text"])
    before = model.ask(clip, QUESTION, **SETTINGS)
    with torch.no_grad():
        for linear in lora.adapted(model.model).values():
            linear.adapters["default"].B.mul_(-2)
    after = model.ask(clip, QUESTION, **SETTINGS)
    assert after.tokens["reused"] == 0
    assert numbers(before) != numbers(after)


@pytest.mark.parametrize("kind", ["llava", "blip-t5"])
def test_ranking_scoring_and_explaining_know_adapters(checkpoint, adapters, clip, kind):
    model = watchword.load(checkpoint(kind), adapter=adapters(kind))
    alone = watchword.load(checkpoint(kind), adapter=adapters(kind)["text"])
    words = ["a dog", "a long cat"]
    found = {
        name: [one.sum for one in model.rank(clip, QUESTION, words, adapter=name).candidates]
        for name in ("text", "base")
    }
    assert found["text"] == pytest.approx([one.sum for one in alone.rank(clip, QUESTION, words).candidates])
    assert found["text"] != pytest.approx(found["base"])
    score = model.score(clip, QUESTION, "a dog", adapter="text").sum
    assert score == pytest.approx(alone.score(clip, QUESTION, "a dog").sum)
    looked = {
        name: model.explain(clip, QUESTION, adapter=name, choices=["dog"]).attention
        for name in ("text", "base")
    }
    np.testing.assert_allclose(
        looked["text"], alone.explain(clip, QUESTION, choices=["dog"]).attention, atol=1e-5
    )
    assert not np.allclose(looked["text"], looked["base"], atol=1e-5)


def test_a_conversation_keeps_its_adapter_and_a_turn_may_take_another(checkpoint, adapters, clip, tmp_path):
    model = watchword.load(checkpoint("llava"), adapter=adapters("llava"))
    chat = model.chat(clip, adapter="text")
    first = chat.ask(QUESTION, **SETTINGS)
    close(first, model.ask(clip, QUESTION, adapter="text", **SETTINGS))
    chat.save(tmp_path / "talk.json")
    again = model.load_chat(tmp_path / "talk.json")
    assert again.adapter == "text"
    assert chat.ask("And now?", adapter="base", **SETTINGS).options.get("adapter") is None
    assert again.ask("And now?", **SETTINGS).options["adapter"] == "text"
    with pytest.raises(RequestError, match="adapter 'text': unknown; this model has base"):
        watchword.load(checkpoint("llava")).load_chat(tmp_path / "talk.json")
    old = json.loads((tmp_path / "talk.json").read_text())
    del old["adapter"]
    (tmp_path / "talk.json").write_text(json.dumps(old))
    assert model.load_chat(tmp_path / "talk.json").adapter is None


def test_unknown_adapters_are_refused_before_anything_is_run(checkpoint, adapters, clip):
    model = watchword.load(checkpoint("llava"), adapter=adapters("llava"))
    message = "adapter 'other': unknown; this model has base, text, eyes, tower"
    for ask in (
        lambda: model.ask(clip, QUESTION, adapter="other"),
        lambda: model.stream(clip, QUESTION, adapter="other"),
        lambda: model.rank(clip, QUESTION, ["a", "b"], adapter="other"),
        lambda: model.score(clip, QUESTION, "a", adapter="other"),
        lambda: model.explain(clip, QUESTION, adapter="other"),
        lambda: model.chat(clip, adapter="other"),
    ):
        with pytest.raises(RequestError, match=re.escape(message)):
            ask()
    found = model.ask_many([(clip, QUESTION), {"media": clip, "question": QUESTION, "adapter": "other"}],
                           errors="return", max_tokens=2)  # fmt: skip
    assert isinstance(found[0], watchword.pipeline.Answer)
    assert isinstance(found[1], RequestError)


def test_adapters_that_do_not_fit_are_refused_by_load(checkpoint, adapters, tmp_path):
    with pytest.raises(
        CheckpointError, match=re.escape("are no linears of VideoLlavaForConditionalGeneration: ")
    ):
        watchword.load(checkpoint("llava"), adapter=adapters("blip-t5")["text"])
    with pytest.raises(
        CheckpointError, match=re.escape("it was made for VideoLlavaForConditionalGeneration")
    ):
        watchword.load(checkpoint("blip"), adapter=adapters("llava")["text"])
    with pytest.raises(CheckpointError, match=re.escape(f"{tmp_path}: no {FILE}; found an empty folder")):
        watchword.load(checkpoint("llava"), adapter=tmp_path)
    with pytest.raises(RequestError, match="adapter 'base': not a name"):
        watchword.load(checkpoint("llava"), adapter={"base": adapters("llava")["text"]})


def test_half_precision_models_take_adapters(checkpoint, adapters, clip):
    model = watchword.load(checkpoint("llava"), adapter=adapters("llava")["text"], dtype="bfloat16")
    plain = watchword.load(checkpoint("llava"), dtype="bfloat16")
    assert numbers(model.ask(clip, QUESTION, **SETTINGS)) != numbers(plain.ask(clip, QUESTION, **SETTINGS))
