"""The tokenizer's own behaviour: folders, refusals, and what the reference's fast tokenizers do not have."""

import copy
import json
import pickle
import threading

import numpy as np
import pytest
import torch

from tests.prompt.vocabularies import LINES, write_tokenizer
from watchword.errors import CheckpointError, RequestError, UnknownArgument
from watchword.prompt import AddedToken, Tokenizer


@pytest.fixture
def llama(tmp_path):
    return Tokenizer.from_pretrained(write_tokenizer(tmp_path / "llama", "llama"))


def test_batch_is_a_mapping_with_attributes(llama):
    batch = llama(["a cat", "the red ball"], padding=True, return_tensors="pt")
    assert batch.input_ids is batch["input_ids"]
    assert set(batch) == {"input_ids", "attention_mask"}
    assert batch.to("cpu") is batch
    batch["more"] = 1
    assert batch.more == 1
    assert batch.tokens(0)[-1] in llama.get_vocab()
    assert copy.deepcopy(batch)["more"] == pickle.loads(pickle.dumps(batch)).more == 1
    assert {**batch}["more"] == 1


def test_named_tokens_are_attributes(llama):
    assert (llama.image_token, llama.image_token_id) == ("<image>", llama.convert_tokens_to_ids("<image>"))
    assert not hasattr(llama, "audio_token")


def test_newer_spelling_of_a_folder_is_read(tmp_path):
    folder = write_tokenizer(tmp_path, "llama")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["added_tokens_decoder"]
    config |= {
        "tokenizer_class": "TokenizersBackend",
        "backend": "tokenizers",
        "extra_special_tokens": ["<sep>"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.from_pretrained(folder)
    assert tokenizer.image_token == "<image>"
    assert tokenizer.additional_special_tokens == ["<sep>"]
    assert tokenizer.model_input_names == ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert saved["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert saved["extra_special_tokens"] == {"image_token": "<image>", "video_token": "<video>"}
    again = Tokenizer.from_pretrained(tmp_path / "saved")
    assert again.model_input_names == ["input_ids", "attention_mask"]
    assert again("a <sep> <image>") == tokenizer("a <sep> <image>")


def test_older_spelling_of_a_folder_is_read(tmp_path):
    folder = write_tokenizer(tmp_path, "opt")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["added_tokens_decoder"]
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    state = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"bos_token": "</s>", "eos_token": {"content": "</s>", **state}, "pad_token": "<pad>"})
    )
    (folder / "added_tokens.json").write_text(json.dumps({"<late>": 421, "<later>": 422}))
    tokenizer = Tokenizer.from_pretrained(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("</s>", "</s>", "<pad>")
    assert tokenizer.convert_tokens_to_ids("<later>") - tokenizer.convert_tokens_to_ids("<late>") == 1
    assert tokenizer.padding_side == "right"


def test_chat_templates_of_a_folder(tmp_path):
    folder = write_tokenizer(
        tmp_path,
        "llama",
        chat_template=[{"name": "default", "template": "a"}, {"name": "rag", "template": "b"}],
    )
    assert Tokenizer.from_pretrained(folder).chat_template == {"default": "a", "rag": "b"}
    (folder / "chat_template.jinja").write_text("own file")
    assert Tokenizer.from_pretrained(folder).chat_template == "own file"
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("other")
    tokenizer = Tokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == {"default": "own file", "rag": "other"}
    tokenizer.save_pretrained(tmp_path / "saved")
    assert Tokenizer.from_pretrained(tmp_path / "saved").chat_template == tokenizer.chat_template


def test_saving_keeps_unknown_settings_and_sentencepiece(tmp_path):
    folder = write_tokenizer(
        tmp_path / "a", "llama", sp_model_kwargs={"x": 1}, use_default_system_prompt=False
    )
    (folder / "tokenizer.model").write_bytes(b"pieces")
    tokenizer = Tokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(tmp_path / "b")
    saved = json.loads((tmp_path / "b" / "tokenizer_config.json").read_text())
    assert saved["sp_model_kwargs"] == {"x": 1}
    assert saved["use_default_system_prompt"] is False
    assert "padding_side" not in saved  # saying it would also pad the Q-Former's rows on that side
    assert (tmp_path / "b" / "tokenizer.model").read_bytes() == b"pieces"


def test_saving_keeps_roles_that_were_taken_away(tmp_path):
    tokenizer = Tokenizer.from_pretrained(write_tokenizer(tmp_path / "a", "llama", add_bos_token=False))
    tokenizer.bos_token = None
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path / "b")
    again = Tokenizer.from_pretrained(tmp_path / "b")
    assert again.bos_token is again.pad_token is None


def test_overrides_win_over_the_folder(tmp_path):
    tokenizer = Tokenizer.from_pretrained(
        write_tokenizer(tmp_path, "llama"), padding_side="right", pad_token="</s>"
    )
    assert (tokenizer.padding_side, tokenizer.pad_token_id) == ("right", 2)


def test_folder_without_tokenizer_names_what_is_missing(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"no tokenizer; expected tokenizer.json, or vocab.txt, or vocab.json with"
    ):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.model", "spiece.model"])
def test_folder_with_sentencepiece_only_names_the_conversion(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(
        CheckpointError, match=rf"only the sentencepiece file {name}.*AutoTokenizer.*save_pretrained"
    ):
        Tokenizer.from_pretrained(tmp_path)


def test_vocabularies_that_do_not_suffice_are_refused(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b</w>": 1}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(CheckpointError, match=r"only GPT-2's and OPT's byte-level BPE is built"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0}))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True})
    )
    with pytest.raises(CheckpointError, match=r"has no '<\|endoftext\|>', the bos_token"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\n")
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no \[SEP\], which frames every text"):
        Tokenizer.from_pretrained(tmp_path)


def test_damaged_files_are_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(
        CheckpointError, match=r"tokenizer.json: not a tokenizer file that tokenizers [\d.]+ reads"
    ):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer_config.json: not valid JSON"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"tokenizer_config.json: holds a list, expected a JSON object"):
        Tokenizer.from_pretrained(tmp_path)


def test_unknown_arguments_are_refused_with_the_nearest(llama):
    with pytest.raises(UnknownArgument, match=r"unknown argument 'paddin'; did you mean 'padding'?"):
        llama("a", paddin=True)
    with pytest.raises(
        TypeError, match=r"unknown argument 'skip_special'; did you mean 'skip_special_tokens'?"
    ):
        llama.decode([1], skip_special=True)
    with pytest.raises(RequestError, match="text_pair is not supported; join the texts"):
        llama("a", text_pair="b")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"padding": "widest"},
            "padding='widest': expected True, False or one of longest, max_length, do_not_pad",
        ),
        ({"truncation": "some"}, "truncation='some': expected True, False or one of longest_first"),
        ({"padding": True, "padding_side": "up"}, "padding_side='up': expected 'left' or 'right'"),
        ({"return_tensors": "tf"}, "return_tensors='tf': expected 'pt', 'np' or None"),
        ({"max_length": -3}, "max_length=-3: expected 0 or more"),
        (
            {"max_length": 4, "truncation": True, "stride": 3},
            "stride=3 leaves no room in max_length=4 with 1 special",
        ),
        (
            {"max_length": 9, "truncation": True, "padding": True, "pad_to_multiple_of": 8},
            "max_length=9 is not a multiple of pad_to_multiple_of=8",
        ),
    ],
)
def test_contradicting_options_are_refused(llama, options, message):
    with pytest.raises(RequestError, match=message):
        llama("What is it?", **options)


def test_truncation_side_is_checked(llama):
    llama.truncation_side = "middle"
    with pytest.raises(RequestError, match="truncation_side='middle': expected 'left' or 'right'"):
        llama("What is it?", max_length=3)


def test_padding_without_a_pad_token_is_refused(llama):
    llama.pad_token = None
    with pytest.raises(RequestError, match="the tokenizer has no pad token; set one"):
        llama(["a", "b"], padding=True)


def test_rows_of_unequal_length_are_refused_as_tensors(llama):
    with pytest.raises(RequestError, match=r"rows of input_ids have lengths \[\d+, \d+\].*pass padding=True"):
        llama(["a", "a long text"], return_tensors="pt")


@pytest.mark.parametrize("wrong", [None, 3, ["a", 3], [["a"]]])
def test_what_is_no_text_is_refused(llama, wrong):
    with pytest.raises(RequestError, match=r"tokenizer: text is a .*expected a string or a list of strings"):
        llama(wrong)


def test_decode_refuses_negative_ids_and_nested_rows(llama):
    with pytest.raises(RequestError, match="negative id -100"):
        llama.decode([1, -100])
    with pytest.raises(RequestError, match="use batch_decode for several rows"):
        llama.decode([[1], [2]])


def test_roles_are_checked(llama):
    with pytest.raises(RequestError, match="unknown role 'padding_token'; expected one of bos_token"):
        llama.add_special_tokens({"padding_token": "x"})
    with pytest.raises(RequestError, match=r"tokenizer.pad_token = 3: expected a string"):
        llama.pad_token = 3
    llama.bos_token = None
    with pytest.raises(RequestError, match="there is no bos_token; set it first"):
        llama.add_bos_token = True


def test_added_tokens_keep_their_rules(llama):
    llama.add_tokens([AddedToken("<new>", lstrip=True, rstrip=True, normalized=False)])
    ids = llama("a <new> b", add_special_tokens=False)["input_ids"]
    assert llama.convert_ids_to_tokens(ids).count("<new>") == 1
    assert len(ids) == len(llama("a<new>b", add_special_tokens=False)["input_ids"])


def test_ids_come_from_arrays_and_tensors(llama):
    ids = llama("a cat")["input_ids"]
    for row in (ids, tuple(ids), np.array(ids), torch.tensor(ids), [np.int64(index) for index in ids]):
        assert llama.decode(row, skip_special_tokens=True) == "a cat"
    assert llama.batch_decode(torch.tensor([ids, ids]), skip_special_tokens=True) == ["a cat"] * 2


def test_threads_do_not_see_each_others_options(llama):
    expected = {
        length: llama(LINES, max_length=length, truncation=True, padding="max_length")
        for length in range(4, 12)
    }
    wrong = []

    def work(length):
        for _ in range(10):
            got = llama(LINES, max_length=length, truncation=True, padding="max_length")
            if got != expected[length] or llama("a cat") != alone:
                wrong.append(length)

    alone = llama("a cat")
    threads = [threading.Thread(target=work, args=(length,)) for length in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_tokenizer_can_be_copied_and_pickled(llama):
    for other in (copy.deepcopy(llama), pickle.loads(pickle.dumps(llama))):
        assert other("a <image> cat") == llama("a <image> cat")
        other.pad_token = "</s>"
        assert llama.pad_token == "<pad>"


def test_chat_needs_what_it_needs(llama):
    messages = [{"role": "user", "content": "hi"}]
    with pytest.raises(RequestError, match="this checkpoint has none"):
        llama.apply_chat_template(messages)
    llama.chat_template = "{{ bos_token }}{{ messages[0].content }} {{ eos_token }}"
    assert llama.apply_chat_template(messages, tokenize=False) == "<s>hi </s>"
    assert llama.apply_chat_template(messages) == llama("<s>hi </s>", add_special_tokens=False)["input_ids"]
    with pytest.raises(RequestError, match="return_dict needs tokenize=True"):
        llama.apply_chat_template(messages, tokenize=False, return_dict=True)
    with pytest.raises(
        RequestError, match="continue_final_message cannot be used with return_assistant_tokens_mask"
    ):
        llama.apply_chat_template(
            messages, return_dict=True, return_assistant_tokens_mask=True, continue_final_message=True
        )
