"""Prompts built from segments, so that what a user types is never read as a control token or placeholder.

The documented way is one string in which `<video>` or `</s>` is a token wherever it stands. Here a prompt is
a list: text (anybody's), control tokens and media (ours). Text without such strings gets exactly the ids of
the documented way, because it goes that way; other text goes through a copy of the tokenizer that knows no
special token at all.
"""

import functools
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tokenizers

from watchword.errors import RequestError
from watchword.prompt.text import check_text
from watchword.prompt.tokenizer import BACKEND_LOCK


@dataclass(frozen=True)
class Text:
    """Words, read as nothing but words."""

    text: str


@dataclass(frozen=True)
class Control:
    """One token of the vocabulary by its name, such as `</s>`."""

    token: str


@dataclass(frozen=True)
class Media:
    """The visual tokens of one picture or clip.

    `outside` puts them in front of what the tokenizer itself adds, as InstructBLIP has them before BOS.
    """

    token: str
    count: int
    outside: bool = False


Segment = Text | Control | Media


@dataclass(frozen=True)
class Turn:
    """One question, with the media it is about, and its answer if there is one already.

    `media` are (placeholder, visual tokens) pairs, for example `("<video>", 2056)`. `end` is the control
    token that closes the answer in place of a space, for example `"</s>"`.
    """

    question: str
    media: tuple[tuple[str, int], ...] = ()
    answer: str | None = None
    end: str | None = None


def video_llava(turns: Sequence[Turn]) -> list[Segment]:
    r"""`USER: <video>\nquestion ASSISTANT: answer USER: question ASSISTANT:`, as documented.

    With `Turn.end` set to `"</s>"` a turn ends as the original trains it: `ASSISTANT: answer</s>USER: ...`.

    Source: the documented example of several turns; conv_vicuna_v1 in the original's conversation.py.
    """
    segments: list[Segment] = []
    apart = ""
    for turn in turns:
        segments.append(Text(f"{apart}USER: "))
        for token, count in turn.media:
            segments += [Media(token, count), Text("\n")]
        segments.append(Text(f"{turn.question} ASSISTANT:"))
        if turn.answer is not None:
            segments.append(Text(f" {turn.answer}"))
            segments += [] if turn.end is None else [Control(turn.end)]
        apart = "" if turn.end is not None else " "
    return segments


def instructblip(turns: Sequence[Turn]) -> list[Segment]:
    """The media in front of everything, then the question as it is; the family knows no conversation.

    Raises:
        RequestError: several turns, or an answer.
    """
    if len(turns) != 1 or turns[0].answer is not None:
        raise RequestError(
            f"InstructBLIP answers one question at a time, got {len(turns)} turns; put what came before into "
            "the question"
        )
    return [*(Media(token, count, outside=True) for token, count in turns[0].media), Text(turns[0].question)]


FORMATS = {"video_llava": video_llava, "instructblip": instructblip, "instructblipvideo": instructblip}
"""Family (config's `model_type`) to the form of its prompts."""


def encode_segments(
    tokenizer: Any, segments: Sequence[Segment], *, add_special_tokens: bool = True
) -> list[int]:
    """The ids of a prompt.

    Args:
        tokenizer: ours, or a fast tokenizer of the reference.
        add_special_tokens: whether the tokenizer frames the prompt (BOS, EOS).

    Raises:
        RequestError: a control token or placeholder that the vocabulary lacks, or a tokenizer that cannot
            keep text apart.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, tokenizers.Tokenizer):
        raise RequestError(
            f"{type(tokenizer).__name__}: has no backend_tokenizer; load it with use_fast=True"
        )
    segments = _merged(segments)
    outside = [segment for segment in segments if isinstance(segment, Media) and segment.outside]
    inside = [segment for segment in segments if segment not in outside]
    front = [index for segment in outside for index in [_id(backend, segment.token)] * segment.count]
    marks = [segment for segment in inside if not isinstance(segment, Text)]
    wanted = [_id(backend, segment.token) for segment in marks]
    added = backend.get_added_tokens_decoder()
    control = _control_ids(backend, added, getattr(tokenizer, "unk_token_id", None))
    texts = [segment.text for segment in inside if isinstance(segment, Text)]
    ids = None
    if not any(token.content in text for token in added.values() for text in texts if token.content):
        joined = "".join(segment.text if isinstance(segment, Text) else segment.token for segment in inside)
        ids = _encode(backend, joined, add_special_tokens, control, wanted)
    if ids is None:  # the text holds what would be read as a token
        inert, sentinel = _inert(backend.to_str())
        joined = "".join(segment.text if isinstance(segment, Text) else sentinel for segment in inside)
        mark = inert.token_to_id(sentinel)
        ids = _encode(inert, joined, add_special_tokens, control | {mark}, [mark] * len(wanted))
        if ids is None:
            raise RequestError("prompt: the text cannot be kept apart from control tokens by this tokenizer")
        names = iter(wanted)
        ids = [(next(names) if index == mark else index, counted) for index, counted in ids]
    counts = iter(segment.count if isinstance(segment, Media) else 1 for segment in marks)
    return front + [index for index, counted in ids for _ in range(next(counts) if counted else 1)]


def _encode(
    backend: tokenizers.Tokenizer, text: str, add_special_tokens: bool, control: set[int], wanted: list[int]
) -> list[tuple[int, bool]] | None:
    """Ids, and which are the wanted marks; None if the text gave rise to others."""
    check_text("prompt", text)
    with BACKEND_LOCK:
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = False
        encoding = backend.encode(text, add_special_tokens=add_special_tokens)
    marked = [
        (index, index in control and not framing)
        for index, framing in zip(encoding.ids, encoding.special_tokens_mask)
    ]
    return marked if [index for index, mark in marked if mark] == wanted else None


def _control_ids(backend: tokenizers.Tokenizer, added: dict[int, Any], declared: int | None) -> set[int]:
    """Ids that text must not give; the unknown piece is none of them, since unknown letters give it."""
    model = backend.model
    if isinstance(model, tokenizers.models.Unigram):  # knows its unknown piece, but does not tell
        return set(added) - {declared}
    unknown = backend.token_to_id(model.unk_token) if getattr(model, "unk_token", None) else None
    return set(added) - {unknown}


def _id(backend: tokenizers.Tokenizer, token: str) -> int:
    index = backend.token_to_id(token)
    if index is None:
        raise RequestError(f"prompt: the tokenizer has no token {token!r}; add it with tokenizer.add_tokens")
    return index


def _merged(segments: Sequence[Segment]) -> list[Segment]:
    """Neighbouring texts as one, so that they are cut into pieces together."""
    merged: list[Segment] = []
    for segment in segments:
        if isinstance(segment, Text) and merged and isinstance(merged[-1], Text):
            merged[-1] = Text(merged[-1].text + segment.text)
        elif not isinstance(segment, Text) or segment.text:
            merged.append(segment)
    return merged


@functools.lru_cache(maxsize=4)
def _inert(serialized: str) -> tuple[tokenizers.Tokenizer, str]:
    """A copy of a tokenizer that recognises one token only, which nobody can guess.

    Pieces of the vocabulary that spell a control token are respelled as well: a Unigram model would find them
    in text.
    """
    state = json.loads(serialized)
    nonce = secrets.token_hex(16)
    unknown = state["model"].get("unk_token")
    names = {token["content"] for token in state["added_tokens"]} - {unknown}
    vocabulary = state["model"]["vocab"]
    if isinstance(vocabulary, dict):
        spelled = {
            pair if isinstance(pair, str) else " ".join(pair) for pair in state["model"].get("merges") or ()
        }
        made = {"".join(pair.split(" ")) for pair in spelled}  # a merge needs its result under its own name
        used = {part for pair in spelled for part in pair.split(" ")} | made
        state["model"]["vocab"] = {
            (piece if piece not in names or piece in used else f"{nonce}{index}"): index
            for piece, index in vocabulary.items()
        }
    else:
        index_unknown = state["model"].get("unk_id")
        state["model"]["vocab"] = [
            [piece if piece not in names or index == index_unknown else f"{nonce}{index}", score]
            for index, (piece, score) in enumerate(vocabulary)
        ]
    sentinel = f"\ue000{nonce}\ue001"
    state["added_tokens"] = []
    inert = tokenizers.Tokenizer.from_str(json.dumps(state))
    inert.add_special_tokens([tokenizers.AddedToken(sentinel, normalized=False, special=True)])
    return inert, sentinel
