"""Chat messages to a prompt, through the Jinja2 template that comes with a checkpoint."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from json import dumps
from typing import Any

import jinja2

from watchword.errors import CapacityError, RequestError, WatchwordError
from watchword.prompt.meter import MAX_VALUE, METER, Meter, weigh
from watchword.prompt.sandbox import Sandbox, plain

MAX_TEMPLATE = 100_000
"""Characters of a template; published ones have some thousands."""


@dataclass(frozen=True)
class Rendered:
    """A prompt, and where in it the assistant speaks (start and end character, for templates that mark
    it)."""

    text: str
    spans: tuple[tuple[int, int], ...] = ()


def render(template: str, messages: Sequence[Mapping[str, Any]], **variables: Any) -> Rendered:
    """One conversation as a prompt.

    Args:
        template: Jinja2, with what the reference offers: `raise_exception`, `strftime_now`, `tojson`, `break`
            and `continue`, and the `generation` tag; blocks swallow their own line ends and indentation.
        messages: dicts with `role` and `content` (text, or a list of parts `{"type": "text" | "image" |
            "video", ...}`).
        **variables: further names the template may use. Only plain data reaches it.

    Raises:
        RequestError: the template is not valid, or refuses these messages.
        CapacityError: it is too large, works too long, or makes too much.
    """
    meter = Meter()
    token = METER.set(meter)
    chunks: list[str] = []
    try:
        for chunk in _compiled(template).generate(**plain({"messages": list(messages), **variables})):
            chunks.append(chunk)
            meter.written += len(chunk)
            meter.step()
            if meter.written > MAX_VALUE:
                raise CapacityError(f"chat template: writes more than {MAX_VALUE:,} characters")
    except WatchwordError:
        raise
    except RecursionError as error:
        raise CapacityError(
            "chat template: calls itself too deeply, or its data is nested too deeply"
        ) from error
    except Exception as error:
        raise RequestError(f"chat template: {type(error).__name__}: {error}") from error
    finally:
        METER.reset(token)
    return Rendered("".join(chunks), tuple(meter.spans))


@functools.lru_cache(maxsize=32)
def _compiled(template: str) -> jinja2.Template:
    if len(template) > MAX_TEMPLATE:
        raise CapacityError(f"chat template: {len(template):,} characters; the limit is {MAX_TEMPLATE:,}")
    sandbox = Sandbox()
    sandbox.filters["tojson"] = _tojson
    sandbox.globals["raise_exception"] = _raise_exception
    sandbox.globals["strftime_now"] = _strftime_now
    return sandbox.from_string(template)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is, without the HTML escapes of Jinja2's own filter."""
    if indent is not None and (not isinstance(indent, int) or indent > 16):
        raise CapacityError(f"chat template: tojson(indent={indent!r:.20}); the largest indent allowed is 16")
    METER.get().size(weigh(value) * (8 + (indent or 0)))
    return dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise RequestError(f"chat template refuses the messages: {message}")


def _strftime_now(pattern: str) -> str:
    if len(pattern) > 200:
        raise CapacityError(
            f"chat template: strftime_now pattern of {len(pattern):,} characters; the limit is 200"
        )
    return datetime.now().strftime(pattern)


# ---- conversations -------------------------------------------------------------------------------


def by_name(templates: Any) -> str | dict[str, str] | None:
    """A folder's chat templates: one as a string, several as a mapping; files also have them as a list of
    pairs."""
    if isinstance(templates, list | tuple):
        return {entry["name"]: entry["template"] for entry in templates}
    return templates


def choose(templates: str | Mapping[str, str] | None, asked: str | None, tools: Any = None) -> str:
    """The template to use: the one asked for by name or given as text, else the default one.

    Raises:
        RequestError: there is none, or none is the default.
    """
    if isinstance(templates, Mapping):
        name = asked or ("tool_use" if tools is not None and "tool_use" in templates else "default")
        if name in templates:
            return templates[name]
        if asked is None:
            raise RequestError(
                f"chat template: there are several ({', '.join(sorted(templates))}) and none is the default; "
                "name one with "
                "chat_template="
            )
    template = asked if asked is not None or isinstance(templates, Mapping) else templates
    if template is None:
        raise RequestError(
            "chat template: this checkpoint has none; pass one with chat_template=, or write the prompt as "
            "text"
        )
    return template


def split_batch(conversation: Sequence[Any]) -> tuple[list[Sequence[Mapping[str, Any]]], bool]:
    """The conversations in one argument, and whether there were several.

    Raises:
        RequestError: it is neither a list of messages nor a list of such lists.
    """
    if not isinstance(conversation, list | tuple) or not conversation:
        raise RequestError("chat template: expected a list of messages, or a list of conversations")
    batched = isinstance(conversation[0], list | tuple)
    conversations = list(conversation) if batched else [conversation]
    for messages in conversations:
        for message in messages:
            if not isinstance(message, Mapping) or "role" not in message:
                raise RequestError(
                    f"chat template: a message is {type(message).__name__}, expected a dict with 'role' and "
                    "'content'"
                )
    return conversations, batched


def render_all(
    conversations: Sequence[Sequence[Mapping[str, Any]]],
    template: str,
    *,
    tools: Any = None,
    documents: Any = None,
    add_generation_prompt: bool = False,
    continue_final_message: bool = False,
    **variables: Any,
) -> list[Rendered]:
    """Every conversation as a prompt.

    Args:
        add_generation_prompt: end with the header of the assistant's turn.
        continue_final_message: end inside the last message, so that the model goes on with it.
    """
    if continue_final_message and add_generation_prompt:
        raise RequestError(
            "chat template: continue_final_message and add_generation_prompt exclude each other"
        )
    if any(callable(tool) for tool in tools or ()):
        raise RequestError("chat template: a tool is a function; pass its JSON schema as a dict")
    variables |= {"tools": tools, "documents": documents, "add_generation_prompt": add_generation_prompt}
    rendered = [render(template, messages, **variables) for messages in conversations]
    if not continue_final_message:
        return rendered
    return [
        Rendered(_open_ended(prompt.text, messages[-1]["content"]), prompt.spans)
        for prompt, messages in zip(rendered, conversations)
    ]


def _open_ended(prompt: str, final: Any) -> str:
    """The prompt up to the end of the last message's text."""
    if not isinstance(final, str):
        texts = [part["text"] for part in final if isinstance(part, Mapping) and "text" in part]
        if not texts:
            raise RequestError(
                "chat template: continue_final_message, and the last message has no text to continue"
            )
        final = texts[-1]
    start = prompt.rfind(final.strip())
    if start < 0:
        raise RequestError(
            "chat template: continue_final_message, and the last message does not appear in the prompt as it "
            "stands; the "
            "template changes it"
        )
    kept = final if prompt.startswith(final, start) else final.strip()  # templates may trim trailing space
    return prompt[: start + len(kept)]


def apply(
    tokenizer: Any,
    conversation: Sequence[Any],
    *,
    chat_template: str | None = None,
    tokenize: bool = True,
    padding: bool | str = False,
    truncation: bool | str = False,
    max_length: int | None = None,
    return_tensors: str | None = None,
    return_dict: bool = False,
    return_assistant_tokens_mask: bool = False,
    tokenizer_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """A tokenizer's `apply_chat_template`: the prompt of a conversation (or of several), as ids unless told
    otherwise.

    Args:
        chat_template: a template, or the name of one of the tokenizer's, instead of its default.
        tokenize: False gives the prompt as text.
        return_dict: give all that tokenizing gives instead of the ids alone.
        return_assistant_tokens_mask: add `assistant_masks`, 1 where the assistant speaks (the template must
            mark it).
        tokenizer_kwargs: further options of the tokenizer.
        **options: those of `render_all`; other names are variables for the template.
    """
    if (return_dict and not tokenize) or (return_assistant_tokens_mask and not return_dict):
        raise RequestError(
            "apply_chat_template: return_dict needs tokenize=True, and return_assistant_tokens_mask needs "
            "both"
        )
    if return_assistant_tokens_mask and options.get("continue_final_message"):
        raise RequestError(
            "apply_chat_template: continue_final_message cannot be used with return_assistant_tokens_mask"
        )
    template = choose(tokenizer.chat_template, chat_template, options.get("tools"))
    conversations, batched = split_batch(conversation)
    rendered = render_all(conversations, template, **{**tokenizer.special_tokens_map, **options})
    texts = [prompt.text for prompt in rendered]
    if not tokenize:
        return texts if batched else texts[0]
    batch = tokenizer(
        texts if batched else texts[0],
        padding=padding,
        truncation=truncation,
        max_length=max_length,
        add_special_tokens=False,
        return_tensors=return_tensors,
        **(tokenizer_kwargs or {}),
    )
    if not return_dict:
        return batch["input_ids"]
    if return_assistant_tokens_mask:
        masks = [spoken(batch, row, prompt.spans) for row, prompt in enumerate(rendered)]
        batch["assistant_masks"] = masks if batched or return_tensors else masks[0]
        batch.convert_to_tensors(return_tensors)
    return batch


def spoken(batch: Any, row: int, spans: Sequence[tuple[int, int]]) -> list[int]:
    """1 for the tokens of a row inside the given characters, 0 for the others."""
    mask = [0] * len(batch.encodings[row].ids)
    for start, end in spans:
        first = batch.char_to_token(row, start)
        last = batch.char_to_token(row, end - 1) if end > start else None
        if first is None:
            break  # cut off
        stop = len(mask) if last is None else last + 1
        mask[first:stop] = [1] * (stop - first)
    return mask
