import pytest

from watchword.errors import RequestError
from watchword.generation.options import REFUSED, GenerationOptions


@pytest.mark.parametrize(
    ("given", "prompt", "most", "least"),
    [
        (dict(), 7, 20, 0),
        (dict(max_new_tokens=5), 7, 5, 0),
        (dict(max_length=10), 7, 3, 0),
        (dict(max_length=10, min_length=9), 7, 3, 2),
        (dict(max_length=10, min_length=4), 7, 3, 0),
        (dict(max_new_tokens=9, min_length=30, min_new_tokens=4), 7, 9, 4),
        (dict(max_new_tokens=9, max_length=8), 7, 9, 0),
    ],
)
def test_options_lengths_become_new_tokens(given, prompt, most, least):
    resolved = GenerationOptions(**given).resolved(prompt)
    assert (resolved.max_new_tokens, resolved.min_new_tokens) == (most, least)
    assert resolved.resolved(prompt) == resolved


def test_options_default_length_stops_at_the_last_position():
    assert GenerationOptions().resolved(50, max_positions=64).max_new_tokens == 14
    assert GenerationOptions(max_length=80).resolved(50, max_positions=64).max_new_tokens == 30


def test_options_count_embeddings_without_ids():
    assert GenerationOptions().resolved(0, embeds=8).max_new_tokens == 12
    assert GenerationOptions(max_new_tokens=9).resolved(0, embeds=8).max_new_tokens == 9
    resolved = GenerationOptions(max_length=30, min_length=15).resolved(0, embeds=8)
    assert (resolved.max_new_tokens, resolved.min_new_tokens) == (22, 7)


def test_options_both_lengths_are_logged(caplog):
    GenerationOptions(max_new_tokens=9, max_length=8).resolved(3)
    assert "max_new_tokens=9 and max_length=8 are both set: max_new_tokens applies" in caplog.text


@pytest.mark.parametrize(
    ("given", "call", "message"),
    [
        (
            dict(max_length=50),
            dict(prompt=2104),
            "max_length=50, but the prompt already has 2104; .*new_tokens",
        ),
        (
            dict(),
            dict(prompt=64, max_positions=64),
            "the model has 64 positions, but the prompt already has 64",
        ),
        (dict(), dict(prompt=0, embeds=40), "max_length=20, but the prompt already has 40"),
    ],
)
def test_options_refuse_a_prompt_that_leaves_no_room(given, call, message):
    with pytest.raises(RequestError, match=message):
        GenerationOptions(**given).resolved(**call)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(max_new_tokens=0), "max_new_tokens=0, expected a whole number, at least 1"),
        (dict(min_length=-2), "min_length=-2, expected a whole number, at least 0"),
        (dict(num_beams=0), "num_beams=0"),
        (dict(num_beams=3, num_return_sequences=4), "num_return_sequences=4 of num_beams=3"),
        (dict(num_return_sequences=2), "num_return_sequences=2 of greedy choice .* do_sample=True"),
        (dict(repetition_penalty=2), "repetition_penalty=2, expected a float above 0"),
        (dict(repetition_penalty=-1.0), r"repetition_penalty=-1.0, expected a float above 0"),
        (dict(encoder_repetition_penalty=0.0), "encoder_repetition_penalty=0.0"),
        (
            dict(exponential_decay_length_penalty=(3, 1.5)),
            r"exponential_decay_length_penalty=\(3, 1.5\) without",
        ),
        (
            dict(do_sample=True, temperature=0.0),
            "temperature=0.0, expected a number above 0; .* do_sample=False",
        ),
        (dict(do_sample=True, top_k=-1), "top_k=-1"),
        (dict(do_sample=True, top_p=1.5), "top_p=1.5, expected a number from 0 to 1"),
        (dict(do_sample=True, min_p=-0.1), "min_p=-0.1"),
        (dict(do_sample=True, typical_p=0.0), "typical_p=0, expected a number above 0"),
    ],
)
def test_options_refuse_values_out_of_range(given, message):
    with pytest.raises(RequestError, match=message):
        GenerationOptions(**given)


def test_options_refuse_another_early_stopping():
    with pytest.raises(RequestError, match="early_stopping='soon', not a bool or 'never'"):
        GenerationOptions.from_dict({"early_stopping": "soon"})


def test_options_sampling_values_do_not_matter_without_sampling():
    assert GenerationOptions(temperature=0.0, top_p=9.0).do_sample is False


def test_options_from_a_file_take_ids_and_defaults_as_they_are_written():
    options = GenerationOptions.from_dict(
        {
            "eos_token_id": [2, 3],
            "pad_token_id": -1,
            "max_length": 20,
            "top_k": None,
            "temperature": None,
            "suppress_tokens": [4],
            "forced_eos_token_id": 2,
            "bad_words_ids": [[5, 6]],
            "transformers_version": "4.56.2",
            "sequence_bias": [[[7, 8], 1.5]],
            "exponential_decay_length_penalty": [4, 1.1],
            "bos_token_id": 1,
        }
    )
    assert options == GenerationOptions(
        eos_token_ids=(2, 3),
        pad_token_id=None,
        top_k=0,
        suppress_tokens=(4,),
        forced_eos_token_ids=(2,),
        bad_words_ids=((5, 6),),
        sequence_bias=(((7, 8), 1.5),),
        exponential_decay_length_penalty=(4, 1.1),
    )
    assert options.fill == 2
    assert GenerationOptions.from_dict({"eos_token_id": 5}).eos_token_ids == (5,)
    assert GenerationOptions.from_dict({"max_length": 64}).max_length == 64
    assert GenerationOptions.from_dict({}) == GenerationOptions()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"eos_token_id": [2, "x"]}, "eos_token_id contains 'x'"),
        ({"bad_words_ids": []}, r"bad_words_ids=\[\], expected a list of lists"),
        ({"bad_words_ids": [[3, -1]]}, r"bad_words_ids has \[3, -1\]"),
        ({"sequence_bias": {}}, "sequence_bias={} is empty"),
        ({"sequence_bias": {(3,): 1}}, r"sequence_bias has \(3,\): 1, expected ids and a float"),
    ],
)
def test_options_refuse_malformed_lists(raw, message):
    with pytest.raises(RequestError, match=message):
        GenerationOptions.from_dict(raw)


@pytest.mark.parametrize("name", REFUSED)
def test_options_refuse_by_name_what_is_not_implemented(name):
    with pytest.raises(RequestError, match=rf"{name}=7 is not implemented"):
        GenerationOptions.from_dict({name: 7})
    for neutral in REFUSED[name]:
        GenerationOptions.from_dict({name: neutral})


def test_options_refuse_objects_by_name():
    with pytest.raises(RequestError, match=r"watermarking_config={'bias': 2.0} is not implemented"):
        GenerationOptions.from_dict({"watermarking_config": {"bias": 2.0}})
