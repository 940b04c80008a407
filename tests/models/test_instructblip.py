"""InstructBLIP as a whole: frames and their order, placeholders, models without placeholders, refusals."""

import pytest
import torch

from watchword.config import InstructBlipConfig, InstructBlipVideoConfig
from watchword.errors import ConfigError, RequestError
from watchword.models import eva, instructblip, language, qformer
from watchword.models.instructblip import InstructBlip

MARK, QUERIES = 45, 3
LLAMA = {
    "model_type": "llama",
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
OPT = {
    "model_type": "opt",
    "vocab_size": 50,
    "hidden_size": 16,
    "ffn_dim": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "word_embed_proj_dim": 8,
}


def tiny(video=False, mark=MARK, text=LLAMA, head=True):
    kind, token = (InstructBlipConfig, "image_token_index")
    if video:
        kind, token = (InstructBlipVideoConfig, "video_token_index")
    config = kind(
        vision_config={
            "hidden_size": 12,
            "intermediate_size": 20,
            "num_hidden_layers": 1,
            "num_attention_heads": 3,
            "image_size": 8,
            "patch_size": 4,
            "initializer_range": 0.2,
        },
        qformer_config={
            "vocab_size": 40,
            "hidden_size": 10,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 20,
            "max_position_embeddings": 16,
            "initializer_range": 0.2,
        },
        text_config=text,
        num_query_tokens=QUERIES,
        initializer_range=0.2,
        **{token: mark},
    )
    model = InstructBlip(config, head=head).eval()
    eva.initialise(model.vision_model)
    qformer.initialise(model.qformer)
    instructblip.initialise(model)
    language.initialise(model.language_model)
    torch.nn.init.normal_(model.query_tokens)  # fresh queries are all alike
    return model


def words(rows, length=5):
    return torch.randint(0, 40, (rows, length))


def prompt(counts, length):
    """Rows of `length` ids that begin with so many placeholders."""
    ids = torch.randint(1, 40, (len(counts), length))
    for row, count in zip(ids, counts):
        row[:count] = MARK
    return ids


@torch.no_grad()
def test_each_frame_is_seen_alone_and_in_order():
    model, clips, asked = tiny(video=True), torch.randn(2, 3, 3, 8, 8), words(2)
    together = model.media_tokens(clips, asked)
    assert together.shape == (2, 3 * QUERIES, 16)
    for row in range(2):
        alone = [model.media_tokens(clips[row : row + 1, t : t + 1], asked[row : row + 1]) for t in range(3)]
        torch.testing.assert_close(together[row : row + 1], torch.cat(alone, dim=1))


@torch.no_grad()
def test_clips_of_different_lengths_are_each_as_they_are_alone():
    model, asked = tiny(video=True), words(3)
    clips = [torch.randn(2, 3, 8, 8), torch.randn(1, 5, 3, 8, 8), torch.randn(1, 3, 8, 8)]
    seen = model.look(clips, asked)
    assert seen.frames == (2, 5, 1)
    parts = seen.tokens.split(seen.frames)
    for row, clip in enumerate(clips):
        alone = model.media_tokens(clip.reshape(1, -1, 3, 8, 8), asked[row : row + 1])
        torch.testing.assert_close(parts[row].flatten(0, 1), alone[0])
    ids = prompt([frames * QUERIES for frames in seen.frames], 18)
    embeds = model.embed(ids, clips, asked)
    torch.testing.assert_close(embeds[2, :QUERIES], parts[2][0])
    with pytest.raises(RequestError, match=r"clips of \[2, 5, 1\] frames; expected clips of one length"):
        seen.rows()


@torch.no_grad()
def test_padding_of_instructions_changes_nothing():
    model, clips, asked = tiny(), torch.randn(2, 1, 3, 8, 8), words(2)
    padded = torch.cat((asked, words(2, 3)), dim=1)
    mask = torch.tensor([[1] * 5 + [0] * 3] * 2)
    torch.testing.assert_close(model.media_tokens(clips, padded, mask), model.media_tokens(clips, asked))


@torch.no_grad()
def test_visual_tokens_stand_where_the_placeholders_stood():
    model, clips, asked = tiny(), torch.randn(2, 1, 3, 8, 8), words(2)
    ids = prompt([QUERIES, QUERIES], 8).roll(2, dims=1)
    embeds, tokens = model.embed(ids, clips, asked), model.media_tokens(clips, asked)
    torch.testing.assert_close(embeds[:, 2 : 2 + QUERIES], tokens)
    keep = [0, 1, 5, 6, 7]
    assert torch.equal(embeds[:, keep], model.language_model.embed(ids)[:, keep])


@torch.no_grad()
def test_placeholders_are_found_among_embeddings():
    model, ids = tiny(), prompt([QUERIES, 1], 6)
    assert torch.equal(model.marks(None, model.language_model.embed(ids)), ids == MARK)


@torch.no_grad()
def test_several_pictures_of_one_row_fill_its_placeholders_in_order():
    model, pictures, asked = tiny(), torch.randn(2, 1, 3, 8, 8), words(2)
    embeds = model.embed(prompt([2 * QUERIES], 8), pictures, asked)
    torch.testing.assert_close(embeds[0, : 2 * QUERIES], model.media_tokens(pictures, asked).flatten(0, 1))


@torch.no_grad()
@pytest.mark.parametrize("video", [False, True])
def test_models_without_placeholder_put_the_tokens_in_front(video):
    model = tiny(video=video, mark=None)
    clips, asked, ids = torch.randn(2, 2 if video else 1, 3, 8, 8), words(2), words(2, 4)
    embeds, tokens = model.embed(ids, clips, asked), model.media_tokens(clips, asked)
    torch.testing.assert_close(embeds[:, : tokens.shape[1]], tokens)
    assert torch.equal(embeds[:, tokens.shape[1] :], model.language_model.embed(ids))
    assert not model.marks(ids, model.language_model.embed(ids)).any()
    with pytest.raises(RequestError, match="2 pictures or clips for 3 rows of text"):
        model.embed(words(3, 4), clips, asked)


@pytest.mark.parametrize("counts", [(QUERIES, 0), (QUERIES + 1, QUERIES - 1), (0, 0), (4, 4)])
def test_placeholders_that_do_not_match_are_refused(counts):
    ids = prompt(counts, 8)
    expected = (
        rf"image features and image tokens do not match: tokens per row \[{counts[0]}, {counts[1]}\], "
        rf"features per row \[3, 3\]; each frame needs 3 placeholders \(id {MARK}\)"
    )
    with pytest.raises(RequestError, match=expected):
        tiny().embed(ids, torch.randn(2, 1, 3, 8, 8), words(2))


def test_placeholders_of_all_rows_that_do_not_match_are_refused():
    with pytest.raises(
        RequestError, match=r"video tokens do not match: tokens: 5 \(per row \[5\]\), features 6"
    ):
        tiny(video=True).embed(prompt([5], 8), torch.randn(2, 1, 3, 8, 8), words(2))


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 0, 3, 8, 8), (3, 8, 8)])
def test_pixels_without_frames_are_refused(shape):
    shown = ", ".join(map(str, shape))
    with pytest.raises(
        RequestError, match=rf"pixel_values: got shape \({shown}\); expected \(clips, frames, 3"
    ):
        instructblip.all_frames(torch.zeros(shape))


def test_lists_of_clips_that_do_not_fit_are_refused():
    with pytest.raises(RequestError, match=r"got shape \[\(2, 3, 8, 8\), \(3, 8, 8\)\]; expected"):
        instructblip.all_frames([torch.zeros(2, 3, 8, 8), torch.zeros(3, 8, 8)])
    with pytest.raises(RequestError, match=r"frames of different sizes \[\(3, 4, 8\), \(3, 8, 8\)\]"):
        instructblip.all_frames([torch.zeros(2, 3, 8, 8), torch.zeros(1, 3, 4, 8)])
    with pytest.raises(RequestError, match=r"got shape \[\]"):
        instructblip.all_frames([])


def test_instructions_and_pictures_of_different_number_are_refused():
    with pytest.raises(RequestError, match="qformer_input_ids: 3 rows for 2 pictures or clips"):
        instructblip.per_frame(words(3), (1, 4), "qformer_input_ids")
    with pytest.raises(RequestError, match="qformer_attention_mask: 1 rows for 2 pictures or clips"):
        tiny().media_tokens(torch.randn(2, 1, 3, 8, 8), words(2), torch.ones(1, 5))


def test_pixels_that_are_no_numbers_are_refused():
    pixels = torch.randn(2, 1, 3, 8, 8)
    pixels[1, 0, 2, 3, 4] = float("nan")
    with pytest.raises(RequestError, match="pixel_values: 1 of 384 values are NaN or infinite"):
        tiny().media_tokens(pixels, words(2))


def test_an_opt_with_narrow_embeddings_is_refused():
    with pytest.raises(ConfigError, match="word_embed_proj_dim 8 differs from hidden_size 16"):
        tiny(text=OPT)
    assert tiny(text=OPT | {"word_embed_proj_dim": 16}).language_projection.out_features == 16


def test_names_are_those_of_the_published_files():
    parts = {name.split(".")[0] for name in tiny().state_dict()}
    assert parts == {"query_tokens", "vision_model", "qformer", "language_projection", "language_model"}
    assert "language_model.lm_head.weight" in tiny().state_dict()
    assert "language_model.lm_head.weight" not in tiny(head=False).state_dict()


def test_fresh_queries_are_zero_and_the_projection_is_not():
    model = tiny()
    instructblip.initialise(model)
    assert not model.query_tokens.any()
    assert not model.language_projection.bias.any()
    assert model.language_projection.weight.std().item() == pytest.approx(0.2, rel=0.2)
