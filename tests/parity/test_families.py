"""Each family as a whole against the reference: logits, loss, gradients, and ids from `generate`."""

import pytest
import torch
import transformers as ref

import watchword
from tests.parity import tiny
from tests.parity.tiny import agree

BLIP_TEXTS = list(tiny.TEXTS)
LLAVA = [
    ("llama", -2, "default"),
    ("llama", [1, -1], "full"),
    ("mistral", -2, "default"),
    ("mistral", [-3, 2, 0], "default"),
    ("llama", 0, "full"),
]


def blip_inputs(model, video, *, pads=2, text=6):
    """Two rows, the first left-padded between placeholders and text; the Q-Former's text is padded too."""
    frames = 4 if video else 1
    marks = frames * tiny.QUERIES
    token = tiny.VIDEO if video else tiny.IMAGE
    pad = model.config.text_config.pad_token_id
    words = torch.randint(3, 90, (2, pads + text))
    words[0, :pads] = pad
    mask = torch.ones(2, marks + pads + text, dtype=torch.long)
    mask[0, marks : marks + pads] = 0
    qformer_mask = torch.ones(2, 7, dtype=torch.long)
    qformer_mask[1, 5:] = 0
    pixels = torch.randn(2, frames, 3, 28, 28)
    return {
        "pixel_values": pixels if video else pixels[:, 0],
        "qformer_input_ids": torch.randint(0, 60, (2, 7)),
        "qformer_attention_mask": qformer_mask,
        "input_ids": torch.cat((torch.full((2, marks), token), words), dim=1),
        "attention_mask": mask,
    }


def rows(inputs, index):
    return {name: value[index : index + 1] for name, value in inputs.items()}


def without_pads(inputs, row):
    """One row as it would come from the processor alone."""
    one = rows(inputs, row)
    keep = one["attention_mask"][0].bool()
    return one | {"input_ids": one["input_ids"][:, keep], "attention_mask": one["attention_mask"][:, keep]}


@pytest.fixture(
    scope="module",
    params=[(text, video) for text in BLIP_TEXTS for video in (False, True)],
    ids=lambda p: f"{p[0]}-{'video' if p[1] else 'image'}",
)
def blip(request, tmp_path_factory):
    text, video = request.param
    torch.manual_seed(3)
    theirs = tiny.instructblip(text, video)
    folder = tiny.saved(theirs, tmp_path_factory.mktemp("blip"))
    kind = "InstructBlipVideo" if video else "InstructBlip"
    ours = getattr(watchword, f"{kind}ForConditionalGeneration").from_pretrained(folder)
    return ours, theirs, video, text


def test_instructblip_forward_agrees(blip):
    ours, theirs, video, text = blip
    inputs = blip_inputs(theirs, video)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels[0, : (4 if video else 1) * tiny.QUERIES + 3] = -100
    where = inputs["attention_mask"].bool()
    if text.startswith("t5"):
        labels, where = torch.randint(1, 90, (2, 5)), None
        labels[1, 3:] = -100
    with torch.no_grad():
        a, b = (
            ours(**inputs, labels=labels, output_hidden_states=True),
            theirs(**inputs, labels=labels, output_hidden_states=True),
        )
    agree(a.logits, b.logits, where)
    agree(a.loss, b.loss)
    agree(a.vision_outputs.pooler_output, b.vision_outputs.pooler_output)
    agree(a.qformer_outputs.last_hidden_state, b.qformer_outputs.last_hidden_state)
    assert list(a.keys()) == list(b.keys())
    assert list(a.language_model_outputs.keys()) == [
        k for k in b.language_model_outputs if k != "loss" or text[:2] == "t5"
    ]


def test_instructblip_gradients_agree(blip):
    ours, theirs, video, text = blip
    inputs = without_pads(blip_inputs(theirs, video), 1)
    labels = torch.randint(1, 90, (1, 5)) if text.startswith("t5") else inputs["input_ids"]
    for model in (ours, theirs):
        model.zero_grad()
        model(**inputs, labels=labels).loss.backward()
    theirs_by_name = dict(theirs.named_parameters())
    for name, p in ours.named_parameters():
        q = theirs_by_name[name]
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None and q.grad.abs().max() > 1e-4:
            agree(p.grad, q.grad, tolerance=2e-4)
    ours.zero_grad(), theirs.zero_grad()


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 9},
        {"num_beams": 5, "max_length": 60, "min_length": 1, "repetition_penalty": 1.5, "length_penalty": 1.0},
        {
            "num_beams": 3,
            "num_return_sequences": 2,
            "max_new_tokens": 7,
            "length_penalty": -1.0,
            "early_stopping": True,
        },
        {"do_sample": True, "top_p": 0.9, "temperature": 0.8, "max_new_tokens": 8, "num_return_sequences": 2},
    ],
    ids=["greedy", "beams", "two-beams-back", "sampled"],
)
def test_instructblip_generates_the_same_ids(blip, options):
    ours, theirs, video, _ = blip
    inputs = blip_inputs(theirs, video)
    for one in (without_pads(inputs, 0), without_pads(inputs, 1)):
        torch.manual_seed(11)
        a = ours.generate(**one, **options)
        torch.manual_seed(11)
        b = theirs.generate(**one, **options)
        assert a.tolist() == b.tolist()


def test_instructblip_batch_answers_as_its_rows_alone(blip):
    ours, theirs, video, text = blip
    inputs = blip_inputs(theirs, video)
    options = {"max_new_tokens": 8, "num_beams": 3, "repetition_penalty": 1.3}
    together = ours.generate(**inputs, **options)
    for row in (0, 1):
        alone = ours.generate(**without_pads(inputs, row), **options)[0].tolist()
        new = together[row].tolist()
        if not text.startswith("t5"):
            alone = alone[int(inputs["attention_mask"][row].sum()) :]
            new = new[inputs["input_ids"].shape[1] :]
        tail = new[len(alone) :]
        assert new[: len(alone)] == alone
        assert len(set(tail)) <= 1  # filled up to the longest row


def test_instructblip_saves_what_the_reference_reads(blip, tmp_path):
    ours, theirs, _, _ = blip
    ours.save_pretrained(tmp_path, max_shard_size="50KB")
    back, report = type(theirs).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    for name, p in theirs.state_dict().items():
        assert torch.equal(back.state_dict()[name], p), name


@pytest.fixture(scope="module", params=LLAVA, ids=str)
def llava(request, tmp_path_factory):
    torch.manual_seed(4)
    theirs = tiny.video_llava(*request.param)
    folder = tiny.saved(theirs, tmp_path_factory.mktemp("llava"))
    return watchword.VideoLlavaForConditionalGeneration.from_pretrained(folder), theirs


def llava_inputs(model):
    """Row 0: pads, a picture; row 1: words, a picture and a clip of three frames."""
    patches = 5 if model.config.vision_feature_select_strategy == "full" else 4
    image, clip = [tiny.IMAGE] * patches, [tiny.VIDEO] * (3 * 5)
    short = [1, 7, *image, 9, 10, 11]
    long = [1, 20, *image, 5, *clip, 33, 34]
    pads = len(long) - len(short)
    mask = torch.ones(2, len(long), dtype=torch.long)
    mask[0, :pads] = 0
    return {
        "input_ids": torch.tensor([[0] * pads + short, long]),
        "attention_mask": mask,
        "pixel_values_images": torch.randn(2, 3, 28, 28),
        "pixel_values_videos": torch.randn(1, 3, 3, 28, 28),
    }


def test_video_llava_forward_agrees(llava):
    ours, theirs = llava
    inputs = llava_inputs(theirs)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels[0, : int((inputs["attention_mask"][0] == 0).sum()) + 1] = -100
    with torch.no_grad():
        a, b = (m(**inputs, labels=labels, output_hidden_states=True) for m in (ours, theirs))
    where = inputs["attention_mask"].bool()
    agree(a.logits, b.logits, where)
    agree(a.loss, b.loss)
    agree(a.image_hidden_states, b.image_hidden_states)
    agree(a.video_hidden_states, b.video_hidden_states)
    for x, y in zip(a.hidden_states, b.hidden_states, strict=True):
        agree(x, y, where)
    assert list(a.keys()) == list(b.keys())


def test_video_llava_keeps_only_the_logits_asked_for(llava):
    ours, theirs = llava
    inputs = llava_inputs(theirs)
    with torch.no_grad():
        for keep in (1, 3, torch.tensor([2, 5])):
            agree(
                ours(**inputs, logits_to_keep=keep).logits[1], theirs(**inputs, logits_to_keep=keep).logits[1]
            )


def test_video_llava_continues_from_past_key_values(llava):
    ours, theirs = llava
    inputs = llava_inputs(theirs)
    next_ids = torch.tensor([[7], [8]])
    mask = torch.cat((inputs["attention_mask"], torch.ones(2, 1, dtype=torch.long)), dim=1)
    with torch.no_grad():
        a, b = (m(**inputs, use_cache=True) for m in (ours, theirs))
        a, b = (
            m(input_ids=next_ids, attention_mask=mask, past_key_values=out.past_key_values)
            for m, out in ((ours, a), (theirs, b))
        )
    agree(a.logits, b.logits)


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 9},
        {"num_beams": 5, "max_new_tokens": 9, "repetition_penalty": 1.5},
        {"do_sample": True, "top_k": 20, "max_new_tokens": 8},
    ],
    ids=["greedy", "beams", "sampled"],
)
def test_video_llava_generates_the_same_ids(llava, options):
    ours, theirs = llava
    inputs = llava_inputs(theirs)
    keep = inputs["attention_mask"][0].bool()
    alone = {
        "input_ids": inputs["input_ids"][:1, keep],
        "attention_mask": inputs["attention_mask"][:1, keep],
        "pixel_values_images": inputs["pixel_values_images"][:1],
    }
    cases = (
        [alone] if "repetition_penalty" in options else [alone, inputs]
    )  # the reference penalises pads too
    for case in cases:
        torch.manual_seed(5)
        a = ours.generate(**case, **options)
        torch.manual_seed(5)
        b = theirs.generate(**case, **options)
        assert a.tolist() == b.tolist()


def test_video_llava_saves_what_the_reference_reads(llava, tmp_path):
    ours, theirs = llava
    ours.save_pretrained(tmp_path, max_shard_size="50KB")
    back, report = ref.VideoLlavaForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    for name, p in theirs.state_dict().items():
        assert torch.equal(back.state_dict()[name], p), name
