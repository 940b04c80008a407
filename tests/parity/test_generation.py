"""generate against the reference: the same weights, the same settings, the same ids and scores."""

import warnings
from functools import cache

import pytest
import tokenizers
import torch
import transformers as ref

from tests.parity.tiny import saved, shaken, video_llava
from watchword.config import LlamaConfig, T5Config
from watchword.hf.generation import GenerationConfig, read_call, run_generate
from watchword.hf.stopping import StopStrings
from watchword.hf.video_llava import VideoLlavaForConditionalGeneration
from watchword.models.language import language_model
from watchword.shapes import Tensor

SETTINGS = {
    "greedy": dict(),
    "greedy-repetition": dict(repetition_penalty=1.7),
    "greedy-ngram": dict(no_repeat_ngram_size=2),
    "greedy-ngram-1": dict(no_repeat_ngram_size=1, max_new_tokens=6),
    "greedy-min-length": dict(min_length=17),
    "greedy-min-new": dict(min_new_tokens=9),
    "greedy-bad-words": dict(bad_words_ids=[[5], [7, 8], [2], [3, 4, 5]]),
    "greedy-bias": dict(sequence_bias={(11,): 4.0, (11, 12): 9.0, (9,): -3.0}),
    "greedy-suppress": dict(suppress_tokens=[4, 9, 30], begin_suppress_tokens=[2, 17]),
    "greedy-forced-end": dict(forced_eos_token_id=[2, 6]),
    "greedy-decay": dict(exponential_decay_length_penalty=(2, 1.1)),  # a steeper one magnifies rounding
    "greedy-renormalize": dict(renormalize_logits=True, remove_invalid_values=True),
    "greedy-encoder-repetition": dict(encoder_repetition_penalty=1.5),
    "greedy-encoder-ngram": dict(encoder_no_repeat_ngram_size=1),
    "sample": dict(do_sample=True),
    "sample-temperature": dict(do_sample=True, temperature=0.6, top_k=0),
    "sample-top-p": dict(do_sample=True, top_p=0.7, num_return_sequences=3),
    "sample-min-p": dict(do_sample=True, min_p=0.1, temperature=1.5),
    "sample-typical": dict(do_sample=True, typical_p=0.4, top_k=0),
    "sample-cutoffs": dict(do_sample=True, epsilon_cutoff=0.02, eta_cutoff=0.05, top_k=0),
    "sample-all": dict(
        do_sample=True,
        repetition_penalty=1.2,
        temperature=0.8,
        top_k=12,
        top_p=0.9,
        min_p=0.02,
        renormalize_logits=True,
    ),
    "beams": dict(num_beams=4),
    "beams-return": dict(num_beams=4, num_return_sequences=3),
    "beams-early": dict(num_beams=3, early_stopping=True, num_return_sequences=2),
    "beams-never": dict(num_beams=3, early_stopping="never"),
    "beams-long": dict(num_beams=3, length_penalty=2.5, num_return_sequences=3),
    "beams-long-never": dict(num_beams=3, length_penalty=2.5, early_stopping="never"),
    "beams-short": dict(num_beams=3, length_penalty=-1.0, early_stopping="never", num_return_sequences=2),
    "beams-flat": dict(num_beams=5, length_penalty=0.0),
    "beams-documented": dict(
        num_beams=5, max_length=26, min_length=1, repetition_penalty=1.5, length_penalty=1.0, temperature=1
    ),
    "beams-ngram": dict(num_beams=3, no_repeat_ngram_size=2, min_new_tokens=4),
    "beams-sample": dict(num_beams=3, do_sample=True, top_k=20, num_return_sequences=2),
    "beams-sample-filters": dict(num_beams=2, do_sample=True, top_p=0.8, typical_p=0.9, temperature=1.4),
    "beams-renormalize": dict(num_beams=3, renormalize_logits=True, suppress_tokens=[4]),
}
COUNTING = {
    "repetition_penalty",
    "no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "encoder_no_repeat_ngram_size",
}
ENDS = {
    "one-end": dict(eos_token_id=2, pad_token_id=0),
    "ends": dict(eos_token_id=[2, 31, 40, 44, 57], pad_token_id=7),
}


@cache
def models(kind: str):
    """The reference and ours with the same weights; scores wide enough that answers vary and end."""
    torch.manual_seed(3)
    shared = dict(vocab_size=61, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    if kind == "llama":
        sizes = dict(
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
        )
        theirs = shaken(ref.LlamaForCausalLM(ref.LlamaConfig(**shared, **sizes)), 0.25)
        ours = language_model(LlamaConfig(**shared, **sizes))
    else:
        sizes = dict(
            d_model=24,
            d_kv=6,
            d_ff=32,
            num_layers=2,
            num_heads=3,
            decoder_start_token_id=0,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=16,
        )
        theirs = shaken(ref.T5ForConditionalGeneration(ref.T5Config(**shared, **sizes)), 0.25)
        ours = language_model(T5Config(**shared, **sizes))
    ours.load_state_dict(theirs.state_dict(), strict=False)
    return theirs, ours.eval()


def prompt(rows: int) -> tuple[Tensor, Tensor]:
    """Rows of unequal length, padded on the left with an id that the answer may contain too."""
    ids = torch.randint(3, 61, (rows, 7))
    mask = torch.ones_like(ids)
    mask[-1, :3] = 0
    return ids, mask


def both(kind: str, ids: Tensor, mask: Tensor, settings: dict):
    """The reference's output object and ours, from the same random state."""
    theirs, ours = models(kind)
    settings = dict(return_dict_in_generate=True, output_scores=True, output_logits=True, **settings)
    torch.manual_seed(11)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = theirs.generate(ids, attention_mask=mask, **settings)
    torch.manual_seed(11)
    found = run_generate(
        ours,
        embeds=ours.embed(ids),
        attention_mask=mask,
        input_ids=ids,
        call=read_call(
            GenerationConfig.from_model_config(theirs.config), settings, is_encoder_decoder=kind == "t5"
        ),
        is_encoder_decoder=kind == "t5",
        max_positions=64,
    )
    return expected, found


def same(expected, found) -> None:
    """Equal ids; scores equal to 1e-5, which is what float32 sums in another order may differ by."""
    assert found.sequences.tolist() == expected.sequences.tolist()
    assert len(found.scores) == len(expected.scores)
    for ours, theirs in zip((*found.scores, *found.logits), (*expected.scores, *expected.logits)):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)
    if "sequences_scores" in expected:
        torch.testing.assert_close(found.sequences_scores, expected.sequences_scores, atol=1e-5, rtol=1e-5)
        assert found.beam_indices.tolist() == expected.beam_indices.tolist()


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_generate_equals_reference(kind, name, ends):
    ids, mask = prompt(3)
    settings = dict(max_new_tokens=12) | SETTINGS[name] | ENDS[ends]
    if "max_length" in settings:
        del settings["max_new_tokens"]
    if kind == "t5" or settings.keys() & COUNTING:
        mask = torch.ones_like(mask)  # there the reference counts padding, see docs/differences.md
    same(*both(kind, ids, mask, settings))


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("early", [False, True, "never"])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 2.5])
def test_generate_beams_equal_reference(length_penalty, early, ends):
    ids, mask = prompt(3)
    same(
        *both(
            "llama",
            ids,
            mask,
            dict(
                max_new_tokens=10,
                num_beams=3,
                num_return_sequences=3,
                length_penalty=length_penalty,
                early_stopping=early,
                **ENDS[ends],
            ),
        )
    )


def test_generate_answers_vary_and_end():
    """What the comparisons above are worth: rows end early, at different places, and not always at once."""
    lengths = set()
    for kind in ("llama", "t5"):
        ids, mask = prompt(3)
        settings = dict(max_new_tokens=12, do_sample=True, **ENDS["ends"])
        found, _ = both(kind, ids, torch.ones_like(mask), settings)
        start = found.sequences.shape[1] - len(found.scores)
        for row in found.sequences[:, start:].tolist():
            lengths.add(next((i for i, one in enumerate(row) if one in ENDS["ends"]["eos_token_id"]), 12))
    assert len(lengths) >= 3


LENGTHS = {
    "nothing": dict(),
    "max-new": dict(max_new_tokens=3),
    "max-length": dict(max_length=12),
    "max-length-20": dict(max_length=20),
    "both": dict(max_new_tokens=3, max_length=12),
    "config": dict(generation_config=ref.GenerationConfig(max_length=13, min_length=11)),
    "config-20": dict(generation_config=ref.GenerationConfig(max_length=20)),
    "min-length": dict(max_length=14, min_length=12),
    "min-new": dict(max_new_tokens=6, min_new_tokens=5),
    "min-both": dict(max_new_tokens=6, min_new_tokens=2, min_length=99),
}


@pytest.mark.parametrize("way", ["ids", "ids-and-embeds", "embeds"])
@pytest.mark.parametrize("name", LENGTHS)
def test_generate_lengths_equal_reference(name, way):
    theirs, ours = models("llama")
    ids, _ = prompt(2)
    kwargs = dict(eos_token_id=[2, 31, 40, 44, 57], pad_token_id=0, repetition_penalty=1.3, **LENGTHS[name])
    embeds = ours.embed(ids)
    given = {
        "ids": dict(input_ids=ids),
        "embeds": dict(inputs_embeds=embeds),
        "ids-and-embeds": dict(input_ids=ids, inputs_embeds=embeds),
    }[way]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = theirs.generate(**given, attention_mask=torch.ones_like(ids), **kwargs)
    found = run_generate(
        ours,
        embeds=embeds,
        attention_mask=None,
        input_ids=given.get("input_ids"),
        call=read_call(GenerationConfig.from_model_config(theirs.config), kwargs),
        is_encoder_decoder=False,
        max_positions=64,
    )
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("length", [44, 50, 63])
def test_generate_default_length_ends_with_the_positions(length):
    theirs, ours = models("llama")
    ids = torch.randint(3, 61, (1, length))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = theirs.generate(ids, attention_mask=torch.ones_like(ids), eos_token_id=None)
    found = run_generate(
        ours,
        embeds=ours.embed(ids),
        attention_mask=None,
        input_ids=ids,
        call=read_call(GenerationConfig.from_model_config(theirs.config), dict(eos_token_id=None)),
        is_encoder_decoder=False,
        max_positions=64,
    )
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("settings", [dict(), dict(num_beams=3), dict(do_sample=True)])
def test_generate_right_padded_encoder_prompts_equal_reference(settings):
    ids, mask = prompt(3)
    mask = mask.flip(1)
    same(*both("t5", ids, mask, dict(max_new_tokens=9, **settings, **ENDS["ends"])))


@pytest.mark.parametrize("kind", ["llama", "t5"])
@pytest.mark.parametrize("settings", [{}, dict(num_beams=2), dict(do_sample=True, num_return_sequences=2)])
def test_generate_cache_equals_reference(kind, settings):
    ids, mask = prompt(2)
    mask = mask.flip(1) if kind == "t5" else mask
    expected, found = both(kind, ids, mask, dict(max_new_tokens=5, eos_token_id=None, **settings))
    copies = len(expected.past_key_values[0][0]) // len(ids)
    real = torch.cat([mask, mask.new_ones(2, 4)], dim=1).repeat_interleave(copies, dim=0) == 1
    memory = mask.repeat_interleave(copies, dim=0) == 1
    for ours, theirs in zip(found.past_key_values, expected.past_key_values):
        for own, other in zip(ours, theirs):
            at = real if kind == "llama" else memory
            own, other = own.transpose(1, 2), other.transpose(1, 2)
            assert own.shape == other.shape
            at = at if at.shape == own.shape[:2] else slice(None)
            torch.testing.assert_close(own[at], other[at], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_generate_calls_processors_criteria_and_prefixes_as_reference(beams):
    def processor(ids, scores):
        return scores - 2.0 * (torch.arange(scores.shape[1]) % (ids.shape[1] + 1) == ids[:, -1:] % 7)

    def criterion(ids, scores, **_):
        return (ids[:, -1] % 5 == 0) & torch.tensor(len(scores) > 1)

    def prefix(row, ids):
        return [i for i in range(61) if (i + row + int(ids[-1])) % 3]

    ids, mask = prompt(2)
    same(
        *both(
            "llama",
            ids,
            torch.ones_like(mask),
            dict(
                max_new_tokens=10,
                num_beams=beams,
                logits_processor=ref.LogitsProcessorList([processor]),
                stopping_criteria=ref.StoppingCriteriaList([criterion]),
                prefix_allowed_tokens_fn=prefix,
                **ENDS["one-end"],
            ),
        )
    )


def test_generate_feeds_streamers_as_reference():
    class Streamer:
        def __init__(self) -> None:
            self.got = []

        def put(self, ids: Tensor) -> None:
            self.got.append(ids.tolist())

        def end(self) -> None:
            self.got.append("end")

    ids, mask = prompt(2)
    theirs, ours = models("llama")
    kwargs = dict(max_new_tokens=5, do_sample=True, num_return_sequences=2, **ENDS["ends"])
    streamers = Streamer(), Streamer()
    torch.manual_seed(1)
    theirs.generate(ids, attention_mask=mask, streamer=streamers[0], **kwargs)
    torch.manual_seed(1)
    run_generate(
        ours,
        embeds=ours.embed(ids),
        attention_mask=mask,
        input_ids=ids,
        call=read_call(
            GenerationConfig.from_model_config(theirs.config), dict(streamer=streamers[1], **kwargs)
        ),
        is_encoder_decoder=False,
        max_positions=64,
    )
    assert streamers[0].got == streamers[1].got


def test_generation_config_equals_reference(tmp_path):
    fields = dict(max_new_tokens=7, eos_token_id=[2, 3], temperature=0.3, do_sample=True, bad_words_ids=[[4]])
    ref.GenerationConfig(**fields).save_pretrained(tmp_path)
    ours = GenerationConfig.from_pretrained(tmp_path)
    assert ours.to_diff_dict() == fields | {"transformers_version": ref.__version__}
    ours.save_pretrained(tmp_path / "ours")
    assert ref.GenerationConfig.from_pretrained(tmp_path / "ours").to_diff_dict() == ours.to_diff_dict()
    documented = {k: v for k, v in vars(ref.GenerationConfig()).items() if not k.startswith("_")}
    del documented["transformers_version"]
    assert documented == GenerationConfig().to_dict()


@pytest.mark.parametrize("strings", ["a b", ["ab ", "b\n"], ["ba", "  a"], "abba"])
def test_stop_strings_equal_reference(strings):
    words = ["a", "b", "c", "d", "e", "f", "ab", "ba", "Ġ", "Ċ", "Ġa", "bĠa", "abĊ", "bbab"]
    model = tokenizers.models.BPE({word: i for i, word in enumerate(words)}, [])
    fast = tokenizers.Tokenizer(model)
    fast.decoder = tokenizers.decoders.ByteLevel()
    fast.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = ref.PreTrainedTokenizerFast(tokenizer_object=fast)
    ids = torch.randint(0, len(words), (400, 7))
    expected = ref.StopStringCriteria(tokenizer, strings)(ids, None).tolist()
    assert StopStrings(strings, tokenizer)(ids).tolist() == expected
    assert 0 < sum(expected) < 400


def test_generate_default_length_of_video_llava_may_exceed_the_positions(tmp_path):
    theirs = video_llava("llama")
    ours = VideoLlavaForConditionalGeneration.from_pretrained(saved(theirs, tmp_path))
    ids = torch.randint(3, 90, (1, 250))  # of 256 positions
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = theirs.generate(input_ids=ids, attention_mask=torch.ones_like(ids), eos_token_id=None)
    found = ours.generate(input_ids=ids, attention_mask=torch.ones_like(ids), eos_token_id=None)
    assert found.shape == (1, 270)
    assert found.tolist() == expected.tolist()
