"""Rows, batches and their loss: what is learned is what a question asked alone would need."""

import pytest
import torch

from tests import folders
from watchword.errors import ConfigError, RequestError
from watchword.hf.language import IGNORED
from watchword.pipeline.families import Exchange
from watchword.train.batching import Seen, apart_positions, collate
from watchword.train.encoding import Encoder, blank_all
from watchword.train.examples import Example, Medium, Turn
from watchword.train.learner import Learner, learned_tail
from watchword.train.opening import open_model

CLIP, PICTURE = ("video", 2), ("picture", 1)
TURNS = (
    Turn("What is happening?", "A cat chases."),
    Turn("Why?", "It is funny."),
    Turn("Where is it?", "On the bed."),
)


def example(*turns, media=1, task=None):
    return Example("line 1", "", tuple(Medium("video", f"{n}.mp4") for n in range(media)), turns, task)


def opened(folder, make, **settings):
    return open_model(make(folder, **settings), device="cpu", dtype="auto")


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    return opened(tmp_path_factory.mktemp("llava"), folders.video_llava)


@pytest.fixture(scope="module", params=["llama", "opt", "t5", "llama-bare", "t5-bare"])
def blip(request, tmp_path_factory):
    text, _, bare = request.param.partition("-")
    return opened(
        tmp_path_factory.mktemp("blip"), folders.instructblip, text=text, video=True, placeholders=not bare
    )


def encoder(model, apart=False):
    return Encoder(model.family, model.config, model.words, apart)


def learned(model, row):
    return model.words.text.decode([label for label in row.labels if label != IGNORED])


def seen(frames=2):
    return Seen("video", torch.randn(frames, 3, folders.SIZE, folders.SIZE))


def losses(model, rows, media, owners):
    batch = collate(list(enumerate(rows)), media, owners, blip=not model.family.knows_turns)
    with torch.no_grad():
        return Learner(model.model).eval()(batch)


MOVES = (Turn("What happens?", "The red circle moves up."), Turn("How many?", "One."))


@pytest.fixture(scope="module")
def embedded():
    return open_model(None, device="cpu", dtype="auto")


def test_a_conversation_is_one_row_whose_answers_are_learned_with_their_ends(embedded):
    (row,) = encoder(embedded).rows(example(*MOVES), [CLIP])
    words = [embedded.words.text.convert_ids_to_tokens(index) for index in row.ids]
    count = embedded.config.visual_tokens(2)
    asked = ["USER", ":", "How", "many", "?", "ASSISTANT", ":"]
    first = ["<s>", "USER", ":", *["<video>"] * count, "What", "happens", "?", "ASSISTANT", ":"]
    told = ["The", "red", "circle", "moves", "up", ".", "</s>"]
    assert words == [*first, *told, *asked, "One", ".", "</s>"]
    learned_places = [place for place, label in enumerate(row.labels) if label != IGNORED]
    assert [words[place] for place in learned_places] == [*told, "One", ".", "</s>"]
    assert all(row.labels[place] == row.ids[place] for place in learned_places)
    exchange = Exchange(
        "What happens?", blank_all([CLIP])
    )  # as the question is asked when nothing is learned
    asked_now = embedded.family.encode(embedded.config, embedded.words, [exchange]).ids
    assert asked_now == row.ids[: len(first)]


def test_turns_that_a_tokenizer_cuts_otherwise_in_company_stand_behind_each_other(llava):
    rows = encoder(llava).rows(example(*TURNS), [CLIP])
    assert len(rows) == 3  # this vocabulary has a piece that begins before an answer and ends in it
    assert [learned(llava, row).replace(" ", "") for row in rows] == [
        "Acatchases.</s>", "Itisfunny.</s>", "Onthebed.</s>",
    ]  # fmt: skip
    assert "Acatchases." in llava.words.text.decode(rows[2].ids).replace(" ", "")


def test_questions_apart_lose_what_each_would_alone(llava):
    (packed,) = encoder(llava, apart=True).rows(example(*TURNS), [CLIP])
    alone = [encoder(llava).rows(example(turn), [CLIP])[0] for turn in TURNS]
    assert packed.positions == max(row.positions for row in alone)
    medium, other = seen(), seen()
    singles = losses(llava, alone, [medium], [[0]] * 3)
    (another,) = encoder(llava).rows(example(TURNS[1]), [CLIP])
    together = losses(llava, [packed, another], [medium, other], [[0], [1]])
    assert torch.allclose(together[0], singles.sum(), rtol=1e-5)
    assert torch.allclose(together[1], losses(llava, [another], [other], [[0]])[0], rtol=1e-5)


def test_rows_lose_in_company_what_they_lose_alone(blip):
    rows = [encoder(blip, apart=True).rows(example(turn), [CLIP])[0] for turn in TURNS]
    media = [seen(), seen()]
    together = losses(blip, rows, media, [[0], [1], [0]])
    for row, own, loss in zip(rows, (0, 1, 0), together):
        assert torch.allclose(losses(blip, [row], [media[own]], [[0]])[0], loss, rtol=1e-4)
    assert learned(blip, rows[0]).replace(" ", "").startswith("Acatchases")
    assert rows[0].labels[-1] == encoder(blip).end


def test_a_later_question_of_instructblip_tells_what_was_said(blip):
    first, second, _ = encoder(blip).rows(example(*TURNS), [CLIP])
    apart = encoder(blip, apart=True).rows(example(*TURNS), [CLIP])
    assert first == apart[0]
    assert "dialog history" in blip.words.text.decode(second.ids).replace("▁", " ")
    assert len(second.ids) > len(apart[1].ids)
    assert second.told == apart[1].told


def test_known_features_give_the_loss_of_pixels(llava, blip):
    for model in (llava, blip):
        rows = [encoder(model).rows(example(turn), [CLIP])[0] for turn in TURNS[:2]]
        media = [seen(), seen()]
        with torch.no_grad():
            known = [Seen("video", Learner(model.model).features(one), True) for one in media]
        expected = losses(model, rows, media, [[0], [1]])
        for some in (known, [media[0], known[1]]):
            assert torch.allclose(losses(model, rows, some, [[0], [1]]), expected, rtol=1e-5)


def test_pictures_and_clips_and_words_go_together(llava):
    rows = [
        encoder(llava).rows(example(TURNS[0]), [CLIP])[0],
        encoder(llava).rows(example(TURNS[1]), [PICTURE])[0],
        encoder(llava).rows(example(TURNS[2], media=0), [])[0],
        encoder(llava).rows(example(TURNS[0], media=2), [PICTURE, CLIP])[0],
    ]
    clip, picture = seen(), Seen("picture", torch.randn(1, 3, folders.SIZE, folders.SIZE))
    together = losses(llava, rows, [clip, picture], [[0], [1], [], [1, 0]])
    alone = [([clip], [0]), ([picture], [0]), ([], []), ([picture, clip], [0, 1])]
    for row, (media, own), loss in zip(rows, alone, together):
        assert torch.allclose(losses(llava, [row], media, [own])[0], loss, rtol=1e-5)


def test_instructblip_takes_one_medium(blip):
    for media in (0, 2):
        with pytest.raises(
            RequestError, match=f"{media} pictures or clips; instructblipvideo answers about one"
        ):
            encoder(blip).rows(example(TURNS[0], media=media), [CLIP] * media)


def test_a_tokenizer_without_an_end_cannot_teach(llava, monkeypatch):
    monkeypatch.setattr(type(llava.words.text), "eos_token_id", None, raising=False)
    with pytest.raises(ConfigError, match="tokenizer: no eos_token"):
        encoder(llava).rows(example(TURNS[0]), [CLIP])


def test_places_of_questions_apart_count_on_from_the_clip():
    parts = torch.tensor([[0, 0, 1, 1, 2, 2, 2], [0, 0, 0, 1, 2, -1, -1]])
    assert apart_positions(parts)[0].tolist() == [0, 1, 2, 3, 2, 3, 4]
    assert apart_positions(parts)[1, :5].tolist() == [0, 1, 2, 3, 3]


def test_the_last_layer_computes_from_the_first_learned_place_on():
    targets = torch.full((2, 6), IGNORED)
    assert learned_tail(targets) == 1
    targets[0, 4], targets[1, 2] = 7, 7
    assert learned_tail(targets) == 4
    targets[1, 0] = 7
    assert learned_tail(targets) == 6
