"""Streaming: joined pieces are the decoded whole, and no piece holds half a character."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.prompt.vocabularies import LINES, MAKERS, write_tokenizer
from watchword.errors import RequestError
from watchword.prompt import Detokenizer, StopStrings, Tokenizer

_LOADED = {}


@pytest.fixture(scope="module", autouse=True)
def loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    for kind in MAKERS:
        _LOADED[kind] = Tokenizer.from_pretrained(write_tokenizer(folder / kind, kind))


def pieces_of(tokenizer, ids, **options):
    stream = Detokenizer(tokenizer, **options)
    return [*(stream.push(index) for index in ids), stream.finish()]


@pytest.mark.parametrize("kind", ["llama", "llama_new", "t5", "opt", "words"])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_joined_pieces_are_the_decoded_whole(kind, data):
    tokenizer = _LOADED[kind]
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=60))
    text = data.draw(st.text(max_size=20)) + data.draw(st.sampled_from(LINES))
    for row in (ids, tokenizer(text)["input_ids"] + ids, tokenizer(text * 3)["input_ids"]):
        for skip in (True, False):
            for clean in (True, False):
                pieces = pieces_of(tokenizer, row, skip_special_tokens=skip, clean_up=clean)
                whole = tokenizer.decode(row, skip_special_tokens=skip, clean_up_tokenization_spaces=clean)
                assert "".join(pieces) == whole


@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet=" '.nstmverd?!,a", max_size=30))
def test_cleaning_while_streaming_is_cleaning_the_whole(text):
    tokenizer = _LOADED["opt"]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert "".join(pieces_of(tokenizer, ids, clean_up=True)) == tokenizer.decode(
        ids, clean_up_tokenization_spaces=True
    )


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_no_piece_holds_half_a_character(kind):
    tokenizer = _LOADED[kind]
    text = "a 🙂 b 日本語 é"
    pieces = pieces_of(tokenizer, tokenizer(text)["input_ids"], clean_up=False)
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces)
    assert sum(bool(piece) for piece in pieces) > 5


def test_pieces_come_before_the_end():
    tokenizer = _LOADED["llama"]
    ids = tokenizer(LINES[0])["input_ids"]
    pieces = pieces_of(tokenizer, ids)
    assert pieces[-1] == ""
    assert sum(bool(piece) for piece in pieces) > len(ids) // 2


def test_window_does_not_grow_with_the_text(monkeypatch):
    tokenizer = _LOADED["opt"]
    longest = 0
    decode = tokenizer.decode

    def watch(ids, **options):
        nonlocal longest
        longest = max(longest, len(ids))
        return decode(ids, **options)

    monkeypatch.setattr(tokenizer, "decode", watch)
    pieces_of(tokenizer, tokenizer(" ".join(LINES))["input_ids"])
    assert longest < 60


def test_stop_string_is_found_where_it_ends():
    tokenizer = _LOADED["opt"]
    ids = tokenizer("What is this? A cat.\nUSER: why", add_special_tokens=False)["input_ids"]
    for string in ("USER", ".\nUS", "this", "?", "cat"):
        stop = StopStrings(tokenizer, ["never", string])
        hits = [end for end in range(1, len(ids) + 1) if stop(ids[:end])]
        ends = [
            end
            for end in range(1, len(ids) + 1)
            if string in tokenizer.decode(ids[:end]) and string not in tokenizer.decode(ids[: end - 1])
        ]
        assert set(ends) <= set(hits)
        assert all(string in tokenizer.decode(ids[:end]) for end in hits)
        assert stop.found(ids[: ends[0]]) == string
        assert not stop(ids[: ends[0] - 1])
    assert not StopStrings(tokenizer, "What")(ids)
    assert not StopStrings(tokenizer, "What")([])


def test_stop_string_may_be_a_special_token():
    tokenizer = _LOADED["llama"]
    ids = [*tokenizer("a cat")["input_ids"], 2]
    assert StopStrings(tokenizer, "</s>")(ids)


@pytest.mark.parametrize("wrong", [[], "", ["a", ""], [1]])
def test_stop_strings_must_be_text(wrong):
    with pytest.raises(RequestError, match=r"stop_strings=.*expected a string or a list of strings"):
        StopStrings(_LOADED["opt"], wrong)
