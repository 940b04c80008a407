"""Gradients of every recipe against the reference: same weights, same batch, whatever learns.

In float32, but for T5: its unscaled scores leave the reference's own float32 gradients up to 6e-6 of the
largest from its float64 ones, so T5 is compared in float64 (its norms compute in float32 there too; at most
1e-6 was measured).
"""

import re

import peft
import pytest
import torch

import watchword
from tests.parity import tiny
from watchword.errors import RequestError
from watchword.hf.language import IGNORED
from watchword.nn import lora, nibbles
from watchword.train.batching import Seen, collate
from watchword.train.encoding import Row
from watchword.train.learner import Learner
from watchword.train.recipes import LINEARS, QFORMER, RECIPES, prepare, recipe
from watchword.weights.quantize import Recipe as Quantized
from watchword.weights.quantize import plan

TOLERANCE = 1e-5
"""Of the model's largest gradient."""
MODELS = [(family, text) for family in ("InstructBlip", "InstructBlipVideo") for text in tiny.TEXTS]
MODELS += [("VideoLlava", "llama"), ("VideoLlava", "mistral")]


@pytest.fixture(scope="module", params=MODELS, ids=lambda p: "-".join(p))
def both(request, tmp_path_factory):
    family, text = request.param
    torch.manual_seed(5)
    video = family.endswith("Video")
    theirs = tiny.video_llava(text) if family == "VideoLlava" else tiny.instructblip(text, video)
    folder = tiny.saved(theirs, tmp_path_factory.mktemp("model"))
    cls = getattr(watchword, f"{family}ForConditionalGeneration")
    dtype = torch.float64 if text.startswith("t5") else torch.float32
    return lambda: tuple(one.from_pretrained(folder).to(dtype).eval() for one in (cls, type(theirs)))


def words(count):
    return torch.randint(3, 90, (count,)).tolist()


def batch_for(model):
    """Three rows of unequal length, two of them about one medium; and the same as the reference takes it."""
    kind, t5 = model.config.model_type, model.config.text_config.is_encoder_decoder
    frames = 1 if kind == "instructblip" else 3 if kind == "video_llava" else 4
    mark = tiny.IMAGE if kind == "instructblip" else tiny.VIDEO
    marks = [mark] * (frames * 5)
    asked, answers, told = (
        [words(n) for n in (4, 7, 5)],
        [words(n) for n in (3, 2, 5)],
        [(3, 8, 9), (7,), (5, 2)],
    )
    if t5:
        rows = [Row(marks + q, a, t, (0,)) for q, a, t in zip(asked, answers, told)]
    else:
        rows = [
            Row(marks + q + a, [IGNORED] * len(marks + q) + a, t, (0,))
            for q, a, t in zip(asked, answers, told)
        ]
    pixels = torch.randn(2, frames, 3, 28, 28)
    media = [Seen("picture" if frames == 1 else "video", one) for one in pixels]
    owners = [[0], [1], [1]]
    batch = collate(list(enumerate(rows)), media, owners, blip=kind != "video_llava")
    each = pixels[[0, 1, 1]]
    length = batch.ids.shape[1]
    inputs = {
        "input_ids": batch.ids,
        "attention_mask": (torch.arange(length) < batch.lengths[:, None]).long(),
        "labels": batch.labels,
    }
    if kind == "video_llava":
        return batch, inputs | {"pixel_values_videos": each}
    told = {"qformer_input_ids": batch.told, "qformer_attention_mask": batch.told_mask}
    return batch, inputs | told | {"pixel_values": each[:, 0] if kind == "instructblip" else each}


def compare(learner, learning, theirs_by_name, theirs, batch, inputs):
    """Both losses and all gradients of what learns; nothing else may have one."""
    dtype = next(theirs.parameters()).dtype
    batch = batch.to(torch.device("cpu"), dtype)
    inputs = {name: one.to(dtype) if one.is_floating_point() else one for name, one in inputs.items()}
    loss = learner(batch).sum() / batch.learned
    loss.backward()
    expected = theirs(**inputs).loss
    expected.backward()
    assert abs((loss - expected).detach()) <= TOLERANCE * expected.detach()
    wanted = {name: theirs_by_name[name].grad for name in learning}
    assert any(grad is not None for grad in wanted.values())
    largest = max(float(one.grad.abs().max()) for one in theirs.parameters() if one.grad is not None)
    for name, one in learning.items():
        ours, grad = one.grad, wanted[name]
        if grad is None or ours is None:
            for given in (ours, grad):  # a part that the batch does not touch has none, or zeros
                assert given is None or not given.any(), name
            continue
        assert (ours - grad).abs().max() <= TOLERANCE * largest, name
    frozen = [name for name, one in learner.model.named_parameters() if name not in learning]
    assert all(learner.model.get_parameter(name).grad is None for name in frozen)


@pytest.mark.parametrize("name", ["qformer", "projector", "language", "full"])
def test_gradients_of_a_recipe_agree(both, name):
    ours, theirs = both()
    kind = ours.config.model_type
    if kind == "video_llava" and name == "qformer":  # there is none
        with pytest.raises(RequestError, match=r"'qformer': .* video_llava has no such parts"):
            recipe(name, kind)
        return
    learning = prepare(ours, recipe(name, kind))
    known = reference_names(theirs)
    by_name = {n: known[alias(n, known)] for n in learning}
    learner = Learner(ours).eval()
    compare(learner, learning, by_name, theirs, *batch_for(ours))


def reference_names(theirs):
    """The reference's parameters, by name without its outermost `model.`."""
    return {re.sub(r"^(model\.)", "", n): p for n, p in theirs.named_parameters()}


def alias(name, known):
    """The reference's name of a parameter, without its outermost `model.`: it keeps Video-LLaVA nested."""
    options = (
        name,
        re.sub(r"^language_model\.(model\.)?", "language_model.", name),
        name.rpartition("language_model.")[2],
    )
    return next(one for one in options if one in known)


@pytest.mark.filterwarnings(
    "ignore:Model with `tie_word_embeddings=True`"
)  # of the family, not the text model
@pytest.mark.parametrize(
    "parts", [("language",), ("language", "lm_head"), ("language", "qformer")], ids="+".join
)
def test_gradients_of_adapters_agree_with_peft(both, parts):
    ours, theirs = both()
    if "qformer" in parts and ours.config.model_type == "video_llava":
        with pytest.raises(RequestError, match=r"'qformer' names nothing that VideoLlava"):
            prepare(ours, RECIPES["lora"], targets=("qformer",))
        return
    compare(*adapted(ours, theirs, "lora", parts), *batch_for(ours))


def test_gradients_of_adapters_over_few_bits_agree_with_peft(both, monkeypatch):
    """The reference gets the weights that ours stand for; products are the dense ones, for the packed ones
    round to bfloat16."""
    monkeypatch.setattr(nibbles, "packing", lambda: None)
    ours, theirs = both()
    known = reference_names(theirs)
    few = Quantized("nf4")
    chosen = list(plan(ours, few))
    assert any(path.startswith("language_model.") for path in chosen)
    for path in chosen:
        dense = ours.get_submodule(path)
        linear = few.linear("nf4", dense.weight.detach(), path)
        linear.bias = dense.bias
        ours.set_submodule(path, linear)
        with torch.no_grad():
            known[alias(f"{path}.weight", known)].copy_(linear.dense())
    compare(*adapted(ours, theirs, "qlora", ("language",)), *batch_for(ours))


def adapted(ours, theirs, name, parts):
    """Both with the same adapters: the learner, what learns, the reference's by our names, the reference."""
    kind = ours.config.text_config.model_type
    learning = prepare(ours, RECIPES[name], targets=parts, rank=3, alpha=7.0)
    ours.to(next(theirs.parameters()).dtype)
    targets = rf".*language_model\..*\.({'|'.join(LINEARS[kind])})"
    targets += "|(.*\\.)?lm_head" * ("lm_head" in parts)
    targets += rf"|.*qformer\..*\.({'|'.join(QFORMER)})" * ("qformer" in parts)
    wrapped = peft.get_peft_model(theirs, peft.LoraConfig(target_modules=targets, r=3, lora_alpha=7)).eval()
    named = {n: p for n, p in wrapped.named_parameters() if "lora_" in n}
    by_name = {}
    for n, one in learning.items():
        path, part = re.fullmatch(r"(.*)\.lora_default\.([AB])", n).groups()
        module = re.sub(r"^language_model\.(model\.)?", "", path)
        tail = f".{module}.lora_{part}.default.weight"
        own = [
            key for key in named if key.endswith(tail) and (".qformer." in key) == path.startswith("qformer.")
        ]
        (found,) = own
        by_name[n] = named[found]
        with torch.no_grad():
            one.copy_(torch.randn_like(one) * 0.1)
            named[found].copy_(one)
    assert len(by_name) == len(named) == len(lora.adapted(ours)) * 2
    return Learner(ours).eval(), learning, by_name, wrapped
