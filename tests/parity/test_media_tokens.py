"""From pixels and instruction to visual tokens and spliced embeddings, against the reference."""

import pytest
import torch

from tests.parity import tiny
from tests.parity.tiny import agree
from watchword.config import InstructBlipConfig, InstructBlipVideoConfig
from watchword.models.instructblip import InstructBlip
from watchword.nn.trace import Trace

TEXTS = ["llama", "opt-pre", "t5-gated"]


def pair(text, video=False):
    """The reference's family and ours, with the same shaken weights."""
    theirs = tiny.instructblip(text, video)
    kind = InstructBlipVideoConfig if video else InstructBlipConfig
    ours = InstructBlip(kind.from_dict(theirs.config.to_dict()))
    wanted, tied = set(ours.state_dict()), set(theirs.state_dict()) - set(ours.state_dict())
    assert not {name for name in tied if "embed_tokens" not in name}
    ours.load_state_dict(
        {name: value for name, value in theirs.state_dict().items() if name in wanted}, strict=True
    )
    return ours.eval(), theirs


def instruction(rows, words=7):
    mask = torch.ones(rows, words, dtype=torch.long)
    mask[-1, words - 3 :] = 0
    return torch.randint(0, 60, (rows, words)), mask


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("size", [(28, 28), (42, 30)])
def test_image_tokens_and_everything_on_the_way_agree(text, size):
    ours, theirs = pair(text)
    pixels, (ids, mask) = torch.randn(3, 3, *size), instruction(3)
    stretch = size != (28, 28)
    with torch.no_grad():
        tokens, vision, states = theirs.get_image_features(
            pixels, ids, mask, interpolate_pos_encoding=stretch, return_dict=True
        )
        seen = ours.look(pixels[:, None], ids, mask, interpolate=stretch)
    agree(seen.rows(), tokens)
    agree(seen.features, vision.last_hidden_state)
    agree(seen.pooled, vision.pooler_output)
    agree(seen.states, states.last_hidden_state)


@pytest.mark.parametrize("frames", [1, 2, 4, 5])
def test_video_tokens_agree_for_any_number_of_frames(frames):
    ours, theirs = pair("llama", video=True)
    pixels, (ids, mask) = torch.randn(2, frames, 3, 28, 28), instruction(2)
    with torch.no_grad():
        expected = theirs.get_video_features(pixels, ids, mask)
        agree(ours.media_tokens(pixels, ids, mask), expected)
        agree(ours.look(list(pixels), ids, mask).rows(), expected)


def test_traces_agree():
    ours, theirs = pair("llama")
    theirs.set_attn_implementation("eager")
    pixels, (ids, mask) = torch.randn(2, 3, 28, 28), instruction(2)
    vision, bridge = Trace.asked(True, True), Trace.asked(True, True)
    with torch.no_grad():
        tower = theirs.vision_model(pixels, output_hidden_states=True, output_attentions=True)
        queries = theirs.query_tokens.expand(2, -1, -1)
        words = theirs.qformer(
            ids,
            torch.cat((torch.ones(2, tiny.QUERIES), mask), dim=1),
            query_embeds=queries,
            encoder_hidden_states=tower.last_hidden_state,
            output_hidden_states=True,
            output_attentions=True,
        )
        ours.look(pixels[:, None], ids, mask, vision_trace=vision, qformer_trace=bridge)
    for trace, expected, names in (
        (vision, tower, ("hidden_states", "attentions")),
        (bridge, words, ("hidden_states", "attentions", "cross_attentions")),
    ):
        for name in names:
            for a, b in zip(getattr(trace, name), getattr(expected, name), strict=True):
                agree(a, b)


@pytest.mark.parametrize("text", TEXTS)
def test_spliced_embeddings_agree(text):
    ours, theirs = pair(text)
    pixels, (qformer_ids, mask) = torch.randn(2, 3, 28, 28), instruction(2)
    ids = torch.randint(3, 90, (2, tiny.QUERIES + 6))
    ids[0, : tiny.QUERIES] = tiny.IMAGE
    ids[1, 4 : 4 + tiny.QUERIES] = tiny.IMAGE
    with torch.no_grad():
        words = theirs.get_input_embeddings()(ids)
        expected = words.masked_scatter(
            theirs.get_placeholder_mask(ids, words), theirs.get_image_features(pixels, qformer_ids, mask)
        )
        agree(ours.embed(ids, pixels[:, None], qformer_ids, mask), expected)
        assert torch.equal(ours.marks(None, words), theirs.get_placeholder_mask(None, words)[..., 0])


def test_models_without_placeholder_put_the_tokens_in_front():
    """What the reference computes when the placeholders are written out in front of the text."""
    ours, theirs = pair("llama", video=True)
    pixels, (qformer_ids, mask) = torch.randn(2, 3, 3, 28, 28), instruction(2)
    text = torch.randint(3, 90, (2, 6))
    with torch.no_grad():
        written = torch.cat((torch.full((2, 3 * tiny.QUERIES), tiny.VIDEO), text), dim=1)
        words = theirs.get_input_embeddings()(written)
        expected = words.masked_scatter(
            theirs.get_placeholder_mask(written, words), theirs.get_video_features(pixels, qformer_ids, mask)
        )
        ours.config.video_token_index = None
        agree(ours.embed(text, pixels, qformer_ids, mask), expected)
