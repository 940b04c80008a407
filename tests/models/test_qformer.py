"""The Q-Former: which rows see what, and the requests it refuses."""

import pytest
import torch

from watchword.config import InstructBlipQFormerConfig
from watchword.errors import ConfigError, RequestError
from watchword.models.qformer import QFormer, initialise
from watchword.nn.trace import Trace


def tiny(**fields):
    known = {
        "vocab_size": 40,
        "hidden_size": 12,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "intermediate_size": 20,
        "max_position_embeddings": 16,
        "encoder_hidden_size": 7,
        "initializer_range": 0.3,
    }
    model = QFormer(InstructBlipQFormerConfig(**known | fields)).eval()
    initialise(model)
    return model


QUERIES, MEMORY, IDS = (2, 4, 12), (2, 9, 7), (2, 5)


def inputs():
    return torch.randn(QUERIES), torch.randn(MEMORY), torch.randint(0, 40, IDS)


def test_states_cover_queries_and_words():
    queries, memory, ids = inputs()
    assert tiny().states(queries, memory, ids=ids).shape == (2, 9, 12)
    assert tiny().states(queries, memory).shape == (2, 4, 12)
    assert tiny().states(None, None, ids=ids).shape == (2, 5, 12)


def test_queries_listen_to_the_instruction():
    model = tiny()
    queries, memory, ids = inputs()
    a, b = (model.states(queries, memory, ids=each)[:, :4] for each in (ids, (ids + 1) % 40))
    assert not torch.allclose(a, b)


def test_padding_changes_nothing():
    model = tiny()
    queries, memory, ids = inputs()
    mask = torch.ones(2, 12)
    mask[:, 9:] = 0
    padded = torch.cat((ids, torch.randint(0, 40, (2, 3))), dim=1)
    torch.testing.assert_close(
        model.states(queries, memory, ids=padded, mask=mask)[:, :9], model.states(queries, memory, ids=ids)
    )


def test_only_some_layers_look_at_the_picture():
    trace = Trace.asked(True, True)
    queries, memory, ids = inputs()
    tiny().states(queries, memory, ids=ids, trace=trace)
    assert [w.shape for w in trace.cross_attentions] == [(2, 3, 4, 9)] * 2  # layers 0 and 2
    assert [w.shape for w in trace.attentions] == [(2, 3, 9, 9)] * 3
    assert len(trace.hidden_states) == 4


def test_words_do_not_look_at_the_picture_in_the_first_layer():
    trace, other = Trace.asked(True, False), Trace.asked(True, False)
    model = tiny()
    queries, memory, ids = inputs()
    model.states(queries, memory, ids=ids, trace=trace)
    model.states(queries, memory + 1, ids=ids, trace=other)
    assert torch.equal(trace.hidden_states[1][:, 4:], other.hidden_states[1][:, 4:])
    assert not torch.allclose(trace.hidden_states[1][:, :4], other.hidden_states[1][:, :4])
    assert not torch.allclose(trace.hidden_states[2][:, 4:], other.hidden_states[2][:, 4:])


def test_silenced_heads_leave_the_stream_alone():
    model = tiny()
    queries, memory, ids = inputs()
    trace = Trace.asked(True, False)
    model.states(queries, memory, ids=ids, keep=torch.zeros(3), trace=trace)
    first = model.encoder.layer[0]
    x = trace.hidden_states[0][:, 4:]
    x = first.attention.output.LayerNorm(first.attention.output.dense.bias + x)
    expected = first.output.LayerNorm(first.output.dense(first.intermediate(x)) + x)
    torch.testing.assert_close(trace.hidden_states[1][:, 4:], expected)


def test_relative_positions_notice_the_order_of_words_and_absolute_ones_too():
    for kind in ("absolute", "relative_key", "relative_key_query"):
        model = tiny(position_embedding_type=kind)
        queries, memory, ids = inputs()
        a = model.states(queries, memory, ids=ids)[:, :4]
        b = model.states(queries, memory, ids=ids.roll(1, dims=1))[:, :4]
        assert not torch.allclose(a, b, atol=1e-4), kind


def test_a_text_that_is_too_long_is_refused():
    queries, memory, _ = inputs()
    ids = torch.zeros(2, 17, dtype=torch.long)
    with pytest.raises(
        RequestError, match=r"qformer_input_ids: 17 tokens, .*max_position_embeddings 16; .*max_length=16"
    ):
        tiny().states(queries, memory, ids=ids)


def test_rows_beyond_the_reach_of_relative_positions_are_refused():
    queries, memory, _ = inputs()
    ids = torch.zeros(2, 13, dtype=torch.long)
    with pytest.raises(
        RequestError, match="17 rows, but relative positions reach over max_position_embeddings 16"
    ):
        tiny(position_embedding_type="relative_key").states(queries, memory, ids=ids)


def test_nothing_to_read_is_refused():
    with pytest.raises(RequestError, match="neither query_embeds nor input_ids"):
        tiny().states(None, torch.randn(MEMORY))


def test_queries_without_a_picture_are_refused():
    with pytest.raises(RequestError, match="encoder_hidden_states must be given for cross-attention layers"):
        tiny().states(torch.randn(QUERIES), None)


@pytest.mark.parametrize("shape", [(2, 5), (9,), (2, 9, 8)])
def test_a_mask_that_does_not_fit_is_refused(shape):
    queries, memory, ids = inputs()
    shown = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
    with pytest.raises(RequestError, match=rf"attention_mask has shape \({shown}\); expected \(batch, 9\)"):
        tiny().states(queries, memory, ids=ids, mask=torch.ones(shape))
    with pytest.raises(RequestError, match=rf"encoder_attention_mask has shape \({shown}"):
        tiny().states(queries, torch.randn(2, 20, 7), memory_mask=torch.ones(shape))


@pytest.mark.parametrize("shape", [(2,), (3, 2), (1, 3)])
def test_a_head_mask_that_does_not_fit_is_refused(shape):
    queries, memory, ids = inputs()
    with pytest.raises(
        RequestError, match=rf"head_mask has shape \({shape[0]},.*expected \(3,\) or \(3, 3\)"
    ):
        tiny().states(queries, memory, ids=ids, keep=torch.ones(shape))


def test_unknown_positions_are_refused():
    config = tiny().config
    config.position_embedding_type = "rotary"
    with pytest.raises(
        ConfigError, match="position_embedding_type 'rotary': not implemented; known are absolute, rel"
    ):
        QFormer(config)


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ConfigError, match="hidden_size 12 is not a multiple of num_attention_heads 7"):
        tiny(num_attention_heads=7)


def test_names_are_those_of_the_published_files():
    names = set(tiny(num_hidden_layers=2).state_dict())
    block = ["attention.query", "attention.key", "attention.value", "output.dense", "output.LayerNorm"]
    feed = ["intermediate.dense", "output.dense", "output.LayerNorm"]
    feed += ["intermediate_query.dense", "output_query.dense", "output_query.LayerNorm"]
    parts = [f"encoder.layer.{i}.{part}" for i in (0, 1) for part in [f"attention.{b}" for b in block] + feed]
    parts += [f"encoder.layer.0.crossattention.{b}" for b in block] + ["embeddings.layernorm"]
    assert names == {f"{part}.{kind}" for part in parts for kind in ("weight", "bias")} | {
        "embeddings.word_embeddings.weight",
        "embeddings.position_embeddings.weight",
    }
