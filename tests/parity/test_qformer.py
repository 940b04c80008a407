"""The Q-Former against the reference: words, masks, head masks, relative positions, training."""

import pytest
import torch
import transformers as ref

from tests.parity.tiny import agree, shaken
from watchword.config import InstructBlipQFormerConfig
from watchword.models import qformer
from watchword.nn.trace import Trace

# hidden, heads, layers, intermediate, memory width, cross-attention frequency
SHAPES = [(16, 2, 4, 24, 12, 2), (15, 5, 3, 11, 20, 1), (12, 3, 5, 30, 7, 3), (8, 1, 1, 9, 8, 2)]


def pair(shape=SHAPES[0], **others):
    """The reference's Q-Former and ours, with the same shaken weights."""
    hidden, heads, layers, inner, memory, frequency = shape
    known = {
        "vocab_size": 60,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "intermediate_size": inner,
        "encoder_hidden_size": memory,
        "cross_attention_frequency": frequency,
        "max_position_embeddings": 30,
        **others,
    }
    theirs = shaken(ref.InstructBlipQFormerModel(ref.InstructBlipQFormerConfig(**known)))
    ours = qformer.QFormer(InstructBlipQFormerConfig(**known))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours.eval(), theirs


def inputs(shape, rows=3, queries=4, words=6, patches=9):
    """Queries, memory, ids and a mask with padding behind the words."""
    mask = torch.ones(rows, queries + words, dtype=torch.long)
    mask[0, -2:] = 0
    mask[-1, queries + 1 :] = 0
    memory = torch.randn(rows, patches, shape[4])
    return torch.randn(rows, queries, shape[0]), memory, torch.randint(0, 60, (rows, words)), mask


def compare(ours, theirs, queries, memory, ids, mask, *, head_mask=None, memory_mask=None, places=None):
    """Every field of the documented output."""
    trace = Trace.asked(True, True)
    with torch.no_grad():
        expected = theirs(
            input_ids=ids,
            attention_mask=mask,
            position_ids=places,
            query_embeds=queries,
            head_mask=head_mask,
            encoder_hidden_states=memory,
            encoder_attention_mask=memory_mask,
            output_attentions=True,
            output_hidden_states=True,
        )
        states = ours.states(
            queries,
            memory,
            ids=ids,
            mask=mask,
            memory_mask=memory_mask,
            places=places,
            keep=head_mask,
            trace=trace,
        )
    agree(states, expected.last_hidden_state)
    agree(states[:, 0], expected.pooler_output)
    for name in ("hidden_states", "attentions", "cross_attentions"):
        for a, b in zip(getattr(trace, name), getattr(expected, name), strict=True):
            agree(a, b)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("words", [1, 6, 30])
def test_queries_and_words_agree(shape, words):
    compare(*pair(shape), *inputs(shape, words=words))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_queries_alone_agree(shape):
    queries, memory, _, _ = inputs(shape)
    compare(*pair(shape), queries, memory, None, None)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_words_alone_agree(shape):
    _, _, ids, _ = inputs(shape, queries=0)
    compare(*pair(shape), None, None, ids, None)
    compare(*pair(shape, hidden_act="relu"), None, torch.randn(3, 2, shape[4]), ids, torch.ones(3, 6))


def test_no_mask_agrees_with_a_mask_of_ones():
    queries, memory, ids, _ = inputs(SHAPES[0])
    compare(*pair(), queries, memory, ids, None)


def test_masks_for_each_row_and_for_the_picture_agree():
    ours, theirs = pair()
    queries, memory, ids, mask = inputs(SHAPES[0])
    each = torch.randint(0, 2, (3, 10, 10))
    each[:, :, 0] = 1
    seen = torch.ones(3, 9, dtype=torch.long)
    seen[1, 4:] = 0
    compare(ours, theirs, queries, memory, ids, each)
    compare(ours, theirs, queries, memory, ids, mask, memory_mask=seen)
    compare(ours, theirs, queries, memory, ids, mask, memory_mask=seen[:, None].expand(3, 4, 9))


def test_head_masks_and_given_places_agree():
    ours, theirs = pair()
    arguments = inputs(SHAPES[0])
    compare(ours, theirs, *arguments, head_mask=torch.tensor([0.0, 1.0]))
    compare(ours, theirs, *arguments, head_mask=torch.rand(4, 2))
    compare(ours, theirs, *arguments, places=torch.tensor([[3, 1, 4, 1, 5, 29]]))


def test_a_row_without_visible_words_agrees():
    ours, theirs = pair()
    queries, memory, ids, mask = inputs(SHAPES[0])
    mask[1] = 0
    compare(ours, theirs, queries, memory, ids, mask)


@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
def test_relative_positions_agree(kind):
    """The reference can look at a picture with them only where picture and queries are of one length."""
    for shape in SHAPES[:2]:
        ours, theirs = pair(shape, position_embedding_type=kind)
        compare(ours, theirs, *inputs(shape, patches=4))
        compare(ours, theirs, None, None, torch.randint(0, 60, (2, 17)), None)


def test_half_precision_agrees():
    """Softmax and the mask's -10000 stay in bfloat16; float32 queries are cast before the norm."""
    ours, theirs = pair(SHAPES[1])
    ours, theirs = ours.to(torch.bfloat16), theirs.to(torch.bfloat16)
    queries, memory, ids, mask = inputs(SHAPES[1])
    memory = memory.to(torch.bfloat16)
    with torch.no_grad():
        expected = theirs(ids, mask, query_embeds=queries, encoder_hidden_states=memory).last_hidden_state
        states = ours.states(queries, memory, ids=ids, mask=mask)
    assert states.dtype == torch.bfloat16
    assert torch.equal(states, expected)


@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_training_agrees(dropout, checkpointed):
    """The same seed drops the same values, in the same order; all gradients agree, the pad word's too."""
    ours, theirs = pair(
        SHAPES[0], hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, pad_token_id=3
    )
    ours.train(), theirs.train()
    ours.encoder.gradient_checkpointing = checkpointed
    queries, memory, ids, mask = inputs(SHAPES[0])
    ids[0, 0] = 3
    direction = torch.randn(16)
    mine, other = queries.clone().requires_grad_(), queries.clone().requires_grad_()
    torch.manual_seed(5)
    trace = Trace.asked(False, True)
    a = ours.states(mine, memory, ids=ids, mask=mask, trace=trace)
    torch.manual_seed(5)
    out = theirs(ids, mask, query_embeds=other, encoder_hidden_states=memory, output_attentions=True)
    b = out.last_hidden_state
    agree(a, b)
    for x, y in zip(
        trace.attentions + trace.cross_attentions, out.attentions + out.cross_attentions, strict=True
    ):
        agree(x, y)
    (a.square() @ direction).mean().backward()
    (b.square() @ direction).mean().backward()
    agree(mine.grad, other.grad)
    others = dict(theirs.named_parameters())
    for name, p in ours.named_parameters():
        assert (p.grad is None) == (others[name].grad is None), name
        if (
            p.grad is not None and others[name].grad.abs().max() > 1e-5
        ):  # the keys' bias has none but rounding
            agree(p.grad, others[name].grad)
    assert not ours.embeddings.word_embeddings.weight.grad[3].any()


def test_initial_values_are_spread_as_the_reference_spreads_them():
    ours, _ = pair((60, 3, 2, 70, 50, 2), initializer_range=0.05)
    config = ref.InstructBlipQFormerConfig(**ours.config.to_dict())
    qformer.initialise(ours)
    own = dict(ours.named_parameters())
    for name, p in ref.InstructBlipQFormerModel(config).named_parameters():
        if p.std() == 0:
            assert torch.equal(own[name], p), name
        else:
            assert own[name].std().item() == pytest.approx(0.05, rel=0.1), name
            assert p.std().item() == pytest.approx(0.05, rel=0.1), name
