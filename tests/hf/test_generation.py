import json
import logging

import pytest
import torch

from tests.generation.toy import Toy
from watchword.errors import CheckpointError, RequestError, UnknownArgument
from watchword.generation.cache import KVCache
from watchword.hf.generation import GenerateOutput, GenerationConfig, read_call, run_generate
from watchword.shapes import Tensor

IDS = torch.tensor([[0, 0, 3, 5], [7, 1, 4, 9]])
MASK = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])


def ask(embeds: Tensor, mask: Tensor | None, ids: Tensor | None, defaults: GenerationConfig, **kwargs):
    return run_generate(
        Toy(),
        embeds=embeds,
        attention_mask=mask,
        input_ids=ids,
        call=read_call(defaults, kwargs),
        is_encoder_decoder=False,
        max_positions=None,
    )


def answer(
    defaults: GenerationConfig | None = None, ids: Tensor | None = IDS, mask: Tensor | None = MASK, **kwargs
):
    return ask(Toy().table[IDS], mask, ids, defaults or GenerationConfig(pad_token_id=10), **kwargs)


class Letters:
    """Id 0 is a, id 1 is b, and so on; id 10 is a word."""

    def decode(self, ids: list[int], skip_special_tokens: bool, **settings) -> str:
        return "".join("\n###" if one == 10 else chr(ord("a") + one) for one in ids)


def test_config_reads_and_writes_its_file(tmp_path):
    raw = {
        "max_new_tokens": 7,
        "eos_token_id": [2, 3],
        "transformers_version": "4.31",
        "future_field": {"a": 1},
    }
    (tmp_path / "generation_config.json").write_text(json.dumps(raw))
    config = GenerationConfig.from_pretrained(tmp_path, top_p=0.5)
    assert (config.max_new_tokens, config.top_p, config.future_field) == (7, 0.5, {"a": 1})
    assert config.num_beams == 1
    config.save_pretrained(tmp_path / "copy")
    saved = json.loads((tmp_path / "copy" / "generation_config.json").read_text())
    assert saved == raw | {"top_p": 0.5}
    assert GenerationConfig.from_pretrained(tmp_path / "copy") == config
    assert repr(config).startswith("GenerationConfig {")


def test_config_update_returns_what_it_does_not_know():
    config = GenerationConfig()
    assert config.update(num_beams=3, pixel_values=1) == {"pixel_values": 1}
    assert config.to_diff_dict() == {"num_beams": 3}


def test_config_refuses_values_out_of_range():
    with pytest.raises(RequestError, match="max_new_tokens=0"):
        GenerationConfig(max_new_tokens=0)


def test_config_keeps_what_generate_refuses():
    config = GenerationConfig(num_beam_groups=2)
    with pytest.raises(RequestError, match="num_beam_groups=2 is not implemented"):
        answer(config)


def test_config_without_a_file_comes_from_the_model(tmp_path):
    class Text:
        eos_token_id, pad_token_id, repetition_penalty = 2, None, 1.3

    class Family:
        text_config, pad_token_id, output_attentions = Text(), 5, True

    config = GenerationConfig.from_folder(tmp_path, Family())
    assert config.to_diff_dict() == {
        "eos_token_id": 2,
        "pad_token_id": 5,
        "repetition_penalty": 1.3,
        "_from_model_config": True,
    }


def test_config_names_a_missing_or_broken_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"no generation_config.json in it"):
        GenerationConfig.from_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"generation_config.json: is not JSON"):
        GenerationConfig.from_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"holds list, expected an object"):
        GenerationConfig.from_pretrained(tmp_path)


def test_call_arguments_win_over_a_passed_config_over_the_model_s():
    defaults = GenerationConfig(num_beams=2, top_k=9, max_new_tokens=5, eos_token_id=4)
    passed = GenerationConfig(top_k=7, max_new_tokens=6)
    options = read_call(defaults, {"generation_config": passed, "max_new_tokens": 8}).options
    assert (options.num_beams, options.top_k, options.max_new_tokens) == (2, 7, 8)
    options = read_call(defaults, {"generation_config": passed, "use_model_defaults": False}).options
    assert (options.num_beams, options.top_k, options.eos_token_ids) == (1, 7, (4,))
    options = read_call(defaults, {"generation_config": {"top_k": 3}}).options
    assert (options.num_beams, options.top_k) == (2, 3)


def test_call_a_cold_config_is_greedy_over_a_sampling_model():
    cold = GenerationConfig(temperature=0.0)
    call = read_call(GenerationConfig(do_sample=True), {"generation_config": cold})
    assert call.options.do_sample is False


def test_call_tells_a_length_of_twenty_from_the_default():
    assert read_call(GenerationConfig(), {}).options.max_length is None
    assert read_call(GenerationConfig(max_length=20), {}).options.max_length is None
    assert read_call(GenerationConfig(), {"max_length": 20}).options.max_length == 20


def test_call_names_the_nearest_argument():
    with pytest.raises(UnknownArgument, match=r"argument 'max_new_token'; did you mean 'max_new_tokens'\?"):
        answer(max_new_token=3)
    with pytest.raises(UnknownArgument, match=r"unknown argument 'zzz'; known are .*max_new_tokens"):
        answer(zzz=3)


def test_call_says_when_sampling_settings_do_nothing(caplog):
    read_call(GenerationConfig(), {"top_p": 0.9, "temperature": 1.0})
    assert "top_p=0.9 has no effect with do_sample=False" in caplog.text


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(assistant_model=object()), "assistant_model=.* is not implemented"),
        (dict(penalty_alpha=0.6), "penalty_alpha=0.6 is not implemented"),
        (
            dict(output_attentions=True, return_dict_in_generate=True),
            "output_attentions=True is not implemented",
        ),
        (dict(return_legacy_cache=True), "return_legacy_cache=True is not implemented"),
        (dict(stop_strings="x"), "stop_strings='x' without a tokenizer"),
        (dict(stop_strings=[""], tokenizer=Letters()), r"stop_strings=\[''\]: expected a string"),
        (dict(streamer=object(), num_beams=2), "streamer with num_beams=2"),
        (dict(max_length=4), "max_length=4, but the prompt already has 4; .*max_new_tokens"),
        (dict(mask=torch.ones(2, 3)), r"attention_mask has shape \(2, 3\), the prompt \(2, 4\)"),
    ],
)
def test_generate_refuses(kwargs, message):
    with pytest.raises(RequestError, match=message):
        answer(**kwargs)


def test_generate_returns_the_prompt_as_given_and_what_follows():
    rows = answer(max_new_tokens=3)
    assert rows.shape == (2, 7)
    assert rows[:, :4].tolist() == IDS.tolist()
    assert answer(ids=None, mask=None, max_new_tokens=3).shape == (2, 3)
    assert answer().shape == (2, 4 + 20)
    assert answer(max_length=9).shape == (2, 9)
    assert answer(ids=None, mask=None).shape == (2, 20 - 4)


def test_generate_hides_masked_positions_wherever_they_are():
    table, config = Toy().table, GenerationConfig(repetition_penalty=1.5, max_new_tokens=6)
    pair = torch.tensor([[3, 5]])
    alone = ask(table[pair], None, pair, config)
    for places in ([0, 1], [2, 3], [0, 3], [1, 2]):
        ids = torch.zeros(2, 4, dtype=torch.long)
        ids[0, places], ids[1] = pair[0], IDS[1]
        mask = torch.ones(2, 4)
        mask[0] = 0
        mask[0, places] = 1
        rows = ask(table[ids], mask, ids, config)
        assert rows[0, 4:].tolist() == alone[0, 2:].tolist()


def test_generate_infers_the_mask_from_padding_ids():
    given = answer(max_new_tokens=5).tolist()
    assert answer(GenerationConfig(pad_token_id=0), mask=None, max_new_tokens=5).tolist() == given
    ambiguous = GenerationConfig(pad_token_id=0, eos_token_id=0)
    everything = answer(ambiguous, mask=torch.ones(2, 4), max_new_tokens=5).tolist()
    assert answer(ambiguous, mask=None, max_new_tokens=5).tolist() == everything != given


def test_generate_output_is_read_by_attribute_key_and_index():
    found = answer(return_dict_in_generate=True, output_scores=True, max_new_tokens=3)
    assert isinstance(found, GenerateOutput)
    assert list(found.keys()) == ["sequences", "scores", "past_key_values"]
    assert found[0] is found.sequences is found["sequences"]
    assert len(found.scores) == 3
    assert found.logits is None
    beams = answer(return_dict_in_generate=True, num_beams=2, max_new_tokens=3, use_cache=False)
    assert list(beams.keys()) == ["sequences", "beam_indices"]
    scored = answer(
        return_dict_in_generate=True, num_beams=2, max_new_tokens=3, output_scores=True, output_logits=True
    )
    assert list(scored.keys()) == [
        "sequences",
        "sequences_scores",
        "scores",
        "logits",
        "beam_indices",
        "past_key_values",
    ]


def test_generate_cache_has_the_caller_s_places():
    found = answer(return_dict_in_generate=True, max_new_tokens=3)
    keys, values = found.past_key_values[0]
    assert found.past_key_values.get_seq_length() == 4 + 2
    assert keys[0, :, :2].abs().sum() == 0
    toy = Toy()
    alone = KVCache(toy.cache_spec, 1, 8)
    ids = found.sequences[0, 2:-1]
    toy.prefill(toy.table[ids][None], torch.tensor([len(ids)]), alone, None)
    torch.testing.assert_close(keys[0, :, 2:], alone.layer(0).own[0][0, :, : len(ids)])
    torch.testing.assert_close(values[0, :, 2:], alone.layer(0).own[1][0, :, : len(ids)])


def test_generate_feeds_a_streamer_the_prompt_then_each_token():
    class Streamer:
        def __init__(self) -> None:
            self.got, self.ended = [], 0

        def put(self, ids: Tensor) -> None:
            self.got.append(ids)

        def end(self) -> None:
            self.ended += 1

    streamer = Streamer()
    rows = answer(streamer=streamer, max_new_tokens=3)
    assert streamer.got[0].tolist() == IDS.tolist()
    assert torch.stack(streamer.got[1:], dim=1).tolist() == rows[:, 4:].tolist()
    assert streamer.ended == 1


def test_generate_stops_at_a_stop_string():
    whole = answer(max_new_tokens=12)[1].tolist()
    text = Letters().decode(whole, skip_special_tokens=False)
    stop = text[6:8]
    end = text.index(stop, 3) + len(stop)
    row = answer(max_new_tokens=12, stop_strings=stop, tokenizer=Letters(), eos_token_id=99)[1].tolist()
    assert row[:end] == whole[:end]
    assert set(row[end:]) <= {10}


def test_stop_strings_must_overlap_the_last_token():
    call = read_call(GenerationConfig(), dict(stop_strings=["##", "bc"], tokenizer=Letters()))
    (stop,) = call.stop
    ids = torch.tensor([[0, 0, 0, 10], [0, 0, 10, 0], [0, 0, 1, 2], [0, 1, 2, 0]])
    assert stop(ids).tolist() == [True, False, True, False]


def test_generate_passes_processors_and_criteria_on():
    def never_three(ids, scores):
        return scores.index_fill(1, torch.tensor([3]), -1e9)

    rows = answer(
        max_new_tokens=9,
        logits_processor=[never_three],
        stopping_criteria=[lambda ids, scores: ids.shape[1] == 9],
    )
    assert rows.shape == (2, 9)
    assert 3 not in rows[:, 4:]


def test_generate_says_what_fills_when_there_is_no_pad_id(caplog):
    with caplog.at_level(logging.WARNING):
        answer(GenerationConfig(eos_token_id=6), max_new_tokens=2)
    assert "no pad_token_id; rows that end are filled with id 6" in caplog.text


class Echo(Toy):
    """Takes start ids, as an encoder-decoder model does; the prompt is what the encoder read."""

    def prefill(self, embeds: Tensor, lengths: Tensor, cache: KVCache, start_ids: Tensor) -> Tensor:
        self.start = start_ids
        scores = self.run(self.table[start_ids], cache)[:, -1]
        cache.advance(start_ids.shape[1])
        return scores


@pytest.mark.parametrize(
    ("settings", "given", "start"),
    [
        (dict(decoder_start_token_id=6, bos_token_id=1), None, [[6], [6]]),
        (dict(bos_token_id=1), None, [[1], [1]]),
        (dict(decoder_start_token_id=6), [[2, 3], [4, 5]], [[6, 2, 3], [6, 4, 5]]),
        (dict(decoder_start_token_id=6), [[6, 3], [6, 5]], [[6, 3], [6, 5]]),
    ],
)
def test_generate_begins_a_decoder_with_its_start_token(settings, given, start):
    toy = Echo()
    kwargs = {} if given is None else {"decoder_input_ids": torch.tensor(given)}
    rows = run_generate(
        toy,
        embeds=toy.table[IDS],
        attention_mask=MASK,
        input_ids=None,
        call=read_call(GenerationConfig(**settings), kwargs, is_encoder_decoder=True),
        is_encoder_decoder=True,
        max_positions=None,
    )
    assert toy.start.tolist() == start
    assert rows[:, : len(start[0])].tolist() == start
    assert rows.shape[1] == len(start[0]) + 20


def test_generate_needs_a_start_token():
    with pytest.raises(RequestError, match="neither decoder_start_token_id nor bos_token_id is set"):
        run_generate(
            Echo(),
            embeds=torch.zeros(1, 2, 8),
            attention_mask=None,
            input_ids=None,
            call=read_call(GenerationConfig(), {}, is_encoder_decoder=True),
            is_encoder_decoder=True,
            max_positions=None,
        )
