import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import watchword
from benchmarks import explain_accuracy
from tests.prompt.vocabularies import write_tokenizer
from watchword import media
from watchword.errors import MediaError, RequestError
from watchword.media.spec import PixelSpec, Size
from watchword.nn.attention import Uncached
from watchword.nn.trace import Trace
from watchword.pipeline import explaining, opening
from watchword.pipeline.families import Exchange
from watchword.pipeline.wording import grouped
from watchword.prompt.tokenizer import Tokenizer

KINDS = ("llava", "blip", "blip-video", "blip-bare", "blip-opt", "blip-t5")
PICTURE = np.arange(36 * 48 * 3, dtype=np.uint8).reshape(36, 48, 3)
QUESTION = "What is happening in this video?"


@pytest.fixture
def answers(monkeypatch):
    """Makes a pipeline answer with given words: models of random weights say none."""

    def give(model, text="A cat chases the red ball, sitting."):
        monkeypatch.setattr(type(model), "ask", lambda *_, **__: SimpleNamespace(text=text))
        return model

    return give


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("medium", ["picture", "video"])
def test_explain_gives_every_word_a_share_of_every_patch(pipeline, answers, clip, kind, medium):
    model, source = answers(pipeline(kind)), clip if medium == "video" else PICTURE
    found = model.explain(source, QUESTION)
    frames = 1 if medium == "picture" else model.family.frames
    assert (found.question, found.text, found.model) == (
        QUESTION,
        "A cat chases the red ball, sitting.",
        model.name,
    )
    assert found.words == ("A", "cat", "chases", "the", "red", "ball", "sitting")
    assert len(found.clip.frames) == frames
    assert found.attention.shape == (7, frames, 2, 2)
    assert found.attention.dtype == np.float32
    assert (found.attention > 0).all()
    assert (found.attention.sum(axis=(1, 2, 3)) < 1).all()
    if kind == "llava":
        assert found.looks is None
    else:
        assert found.looks.shape == (frames, 3, 2, 2)
        assert (found.looks.sum(axis=(2, 3)) < 1).all()  # the rest is the class token's


@pytest.mark.parametrize("kind", ["llava", "blip"])
@pytest.mark.parametrize("medium", ["picture", "video"])
def test_explain_answers_as_ask_does(pipeline, clip, kind, medium):
    model, source = pipeline(kind), clip if medium == "video" else PICTURE
    found, answer = model.explain(source, QUESTION), model.ask(source, QUESTION)
    assert found.text == answer.text
    assert (found.clip.indices, found.clip.times) == (answer.frames, answer.times)
    assert found.clip.kind == medium


def prompt_of(model, source, count):
    """The prompt's embeddings, the places of visual tokens, and the Q-Former's looks."""
    read = watchword.media.read_media(source, media.uniform(count))
    encoded = model.family.encode(model.model.config, model.words, [Exchange(QUESTION, (read,))])
    pixels = explaining.pixels_of(read, model.specs)
    with torch.no_grad():
        embeds, looks = explaining.prompt_embeds(model.model, model.words, encoded, QUESTION, read, pixels)
    assert embeds.shape[1] == encoded.length
    columns = [place for place, one in enumerate(encoded.positions) if isinstance(one, tuple)]
    assert len(columns) == encoded.visual
    return embeds, columns, looks


@pytest.mark.parametrize("kind", ["llava", "blip", "blip-bare", "blip-opt"])
def test_shares_are_attention_followed_through_all_layers(pipeline, clip, kind):
    model, ids = pipeline(kind), [40, 77, 12]
    prompt, columns, _ = prompt_of(model, clip, 3)
    text = model.model.language_model
    with torch.no_grad():
        found = explaining.look_back(model.model, prompt, ids, columns)
        embeds = torch.cat((prompt, text.embed(torch.tensor([ids]))), dim=1)
        trace = Trace.asked(False, True)
        positions = text.forward_positions(None, 0, embeds.shape[1], embeds.device)
        text.hidden(embeds, positions=positions, cache=Uncached(), trace=trace)
    assert len(trace.attentions) == 2
    whole = torch.eye(embeds.shape[1])
    for weights in trace.attentions:
        step = 0.7 * torch.eye(len(whole)) + 0.3 * weights[0].mean(dim=0)
        whole = step @ whole
    torch.testing.assert_close(whole.sum(dim=1), torch.ones(len(whole)))
    last = prompt.shape[1] - 1  # where the first token was chosen
    torch.testing.assert_close(found, whole[last : last + 3, columns])


def test_shares_of_t5_go_through_both_stacks(pipeline, clip):
    model = pipeline("blip-t5")
    prompt, _, _ = prompt_of(model, clip, 2)
    with torch.no_grad():
        found = explaining.look_back(model.model, prompt, [9, 30], range(prompt.shape[1]), start=0)
    assert found.shape == (2, prompt.shape[1])
    # Nothing comes from the start token itself, only what cross-attention fills, layer by layer.
    filled = 0.0
    for _ in range(2):
        filled = 0.7 * (0.7 * filled + 0.3 * filled) + 0.3
    assert found[0].sum().item() == pytest.approx(filled, abs=1e-5)


def test_queries_pass_on_what_they_look_at(pipeline, clip):
    model = pipeline("blip")
    _, _, looks = prompt_of(model, clip, 2)
    assert looks.shape == (2, 3, 5)  # 2 frames, 3 queries, 4 patches behind the class token
    torch.testing.assert_close(looks.sum(dim=-1), torch.ones(2, 3))
    shares = torch.zeros(1, 6)
    shares[0, 4] = 0.5  # the second query of the second frame
    maps = explaining.to_patches(shares, 2, (2, 2), looks)
    assert maps[0, 0].eq(0).all()
    torch.testing.assert_close(maps[0, 1].flatten(), 0.5 * looks[1, 1, 1:])


def test_class_tokens_are_left_out():
    shares = torch.arange(2 * 15.0).view(2, 15)
    maps = explaining.to_patches(shares, 3, (2, 2), None)
    assert maps.shape == (2, 3, 2, 2)
    assert maps[0].flatten(1).tolist() == [[1, 2, 3, 4], [6, 7, 8, 9], [11, 12, 13, 14]]
    picture = explaining.to_patches(shares[:, :4], 1, (2, 2), None)
    assert picture[1].flatten().tolist() == [15, 16, 17, 18]  # a picture's class token is not there at all


def test_explain_looks_at_the_frames_chosen(pipeline, clip):
    found = pipeline("llava").explain(clip, QUESTION, frames=media.at_indices([3, 19]))
    assert found.clip.indices == (3, 19)
    assert found.attention.shape[1] == 2
    assert pipeline("llava").explain(clip, QUESTION, frames=5).attention.shape[1] == 5


def test_explain_leaves_the_model_and_randomness_alone(pipeline, clip):
    model = pipeline("llava")
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    torch.manual_seed(3)
    model.explain(clip, QUESTION)
    assert torch.rand(1).item() == torch.rand(1, generator=torch.Generator().manual_seed(3)).item()
    assert all(value.equal(before[name]) for name, value in model.model.state_dict().items())
    assert not model.model.training


def test_explain_works_in_half_precision(checkpoint, answers, clip):
    model = answers(watchword.load(checkpoint("llava"), dtype="bfloat16", device="cpu"))
    found = model.explain(clip, QUESTION)
    assert found.attention.dtype == np.float32
    assert np.isfinite(found.attention).all()


def test_answer_without_words_has_no_rows(pipeline, answers, clip):
    found = answers(pipeline("llava"), "").explain(clip, QUESTION)
    assert (found.text, found.words, found.attention.shape) == ("", (), (0, 8, 2, 2))
    assert found.sheet().width > 100


def test_sheet_and_data_of_an_explanation(pipeline, answers, clip, tmp_path):
    found = answers(pipeline("llava")).explain(clip, QUESTION)
    rows = found.heats(2)
    shares = found.attention.sum(axis=(1, 2, 3))
    most = sorted(np.argsort(-shares)[:2])
    assert [row.name for row in rows] == ["all words", *(found.words[i] for i in most)]
    assert rows[1].note == f"{shares[most[0]]:.0%}"
    found.save(tmp_path / "why.png", most=2)
    with Image.open(tmp_path / "why.png") as picture:
        assert picture.size == found.sheet(2).size
    assert found.sheet(3).height > found.sheet(2).height
    data = json.loads(json.dumps(found.to_dict()))
    assert np.allclose(data["attention"], found.attention, atol=1e-6)
    assert (data["words"], data["text"]) == (list(found.words), found.text)
    assert data["frames"] == list(found.clip.indices)
    assert answers(pipeline("blip")).explain(PICTURE, QUESTION).to_dict()["times"] is None


def test_explain_needs_a_medium_and_a_question(pipeline):
    with pytest.raises(RequestError, match="explain: got no picture or clip; give one"):
        pipeline("llava").explain(None, QUESTION)
    with pytest.raises(RequestError, match="question"):
        pipeline("llava").explain(PICTURE, "  ")


def test_explain_refuses_what_cannot_be_read(pipeline, tmp_path):
    with pytest.raises(MediaError, match="no such file"):
        pipeline("llava").explain(tmp_path / "gone.mp4", QUESTION)


@pytest.mark.parametrize(
    ("spec", "size", "box"),
    [
        (PixelSpec(size=Size.of({"height": 28, "width": 28})), (50, 90), (0, 0, 1, 1)),
        (PixelSpec(size=Size.of({"shortest_edge": 30}), do_center_crop=True, crop_size=Size.of(30)),
         (60, 120), (0.25, 0, 0.75, 1)),
        (PixelSpec(do_resize=False, do_center_crop=True, crop_size=Size.of(20)),
         (40, 10), (-0.5, 0.25, 1.5, 0.75)),
    ],
)  # fmt: skip
def test_part_that_was_seen(spec, size, box):
    assert explaining.seen_part(spec, *size) == pytest.approx(box)


@pytest.mark.parametrize("kind", ["llama", "llama_new", "t5", "opt", "words"])
def test_words_are_made_of_the_tokens_with_their_letters(tmp_path, kind):
    write_tokenizer(tmp_path, kind)
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    ids = tokenizer("the cat is in this video. A baby, people", add_special_tokens=False).input_ids
    found = grouped(tokenizer, ids)
    said = tokenizer.decode(ids, skip_special_tokens=True).replace(",", "").replace(".", "").split()
    assert [word for word, _ in found] == said
    for word, places in found:
        assert word in tokenizer.decode([ids[place] for place in places])
        assert list(places) == list(range(places[0], places[-1] + 1))
    unused = set(range(len(ids))) - {place for _, places in found for place in places}
    assert {tokenizer.decode([ids[place]]).strip() for place in unused} <= {",", ".", ""}


def test_inner_marks_belong_to_words_and_characters_without_spaces_are_words(tmp_path):
    write_tokenizer(tmp_path, "llama")
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    ids = tokenizer('It doesn\'t say "日本": 🙂 !', add_special_tokens=False).input_ids
    found = grouped(tokenizer, ids)
    assert [word for word, _ in found] == ["It", "doesn't", "say", "日", "本"]
    assert grouped(tokenizer, []) == []


def test_heat_of_the_embedded_model_lies_on_the_object_asked_about():
    model = watchword.load(opening.EMBEDDED)
    rng = np.random.default_rng(4)
    found, chance = [], []
    for _, question, frames, inside in explain_accuracy.draw(rng, 18):
        explained = model.explain(frames, question)
        heat, seen = explained.attention.mean(axis=0), inside[list(explained.clip.indices)]
        found.append(explain_accuracy.hits(heat, seen)[0])
        chance.append((explain_accuracy.patches(seen, heat.shape[1:]) > 0).mean())
    assert np.mean(found) > 0.65 > 2 * np.mean(chance)
