"""What the three processors share: reading and writing their folder, chat templates, decoding."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from watchword.errors import RequestError, refuse_unknown
from watchword.hf.features import BatchFeature
from watchword.hf.preprocessing import read_json
from watchword.prompt import template, tokenizer_files
from watchword.prompt.calls import CALL_OPTIONS
from watchword.prompt.tokenizer import Tokenizer
from watchword.weights import hub

TOKENIZER_SETTINGS = (
    "padding_side",
    "truncation_side",
    "model_max_length",
    "model_input_names",
    "clean_up_tokenization_spaces",
    "split_special_tokens",
    "add_bos_token",
    "add_eos_token",
    *tokenizer_files.STANDARD,
)
"""Keyword arguments of `from_pretrained` that are meant for the tokenizer."""

TEMPLATE_OPTIONS = ("tools", "documents", "add_generation_prompt", "continue_final_message")
SAMPLING = ("num_frames", "fps", "do_sample_frames")
SOURCES = {"image": ("image", "url", "path", "base64"), "video": ("video", "url", "path")}
"""Keys under which a content part holds its picture or clip, by type."""


class Processor:
    """Mixin of the documented processors. A class names its parts and what `processor_config.json` holds of
    it."""

    attributes: ClassVar[tuple[str, ...]]
    fields: ClassVar[tuple[str, ...]]
    media_classes: ClassVar[dict[str, type]]
    _chat_inputs: Callable[..., BatchFeature]
    """(texts, images, videos, options, sampling): model inputs of rendered texts, by each class's call."""
    default_tensors: ClassVar[str | None] = None
    chat_template: str | dict[str, str] | None = None
    tokenizer: Any

    # ---- folders -----------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        cache_dir: str | os.PathLike | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        revision: str = "main",
        **kwargs: Any,
    ) -> "Processor":
        """The processor of a checkpoint folder or hub repository, written by 4.x or 5.x of the reference or
        by us.

        Args:
            **kwargs: fields of the processor (such as `num_query_tokens`, `patch_size`), settings of the
                tokenizer (such as `padding_side`), or settings of the image and video processors (such as
                `size`).

        Raises:
            CheckpointError: files missing or damaged.
            UnknownArgument: a name that no part knows.
        """
        if force_download:
            raise RequestError(
                "from_pretrained: force_download is not supported; remove the cached copy instead"
            )
        folder = hub.fetch(
            pretrained_model_name_or_path,
            revision=revision,
            token=token,
            local_files_only=local_files_only,
            patterns=hub.SETTINGS,
            cache_dir=cache_dir,
        )
        if subfolder := kwargs.pop("subfolder", None):
            folder = folder / subfolder
        kwargs.pop("trust_remote_code", None)  # no code of a folder is ever run, whatever is said
        if kwargs.pop("use_fast", None):
            raise RequestError(
                "from_pretrained: use_fast=True; pictures are resized by Pillow here, as the reference does "
                "by "
                "default; leave it out"
            )
        saved = _saved(folder / "processor_config.json")
        given = {name: kwargs.pop(name) for name in (*cls.fields, "chat_template") if name in kwargs}
        words = {name: kwargs.pop(name) for name in TOKENIZER_SETTINGS if name in kwargs}
        settings = [name for media in cls.media_classes.values() for name in media.fields]
        refuse_unknown(
            f"{cls.__name__}.from_pretrained",
            kwargs,
            (*cls.fields, "chat_template", *TOKENIZER_SETTINGS, *settings),
        )
        parts = {
            name: media.from_pretrained(folder, **{k: v for k, v in kwargs.items() if k in media.fields})
            for name, media in cls.media_classes.items()
        }
        parts["tokenizer"] = Tokenizer.from_pretrained(folder, **words)
        if "qformer_tokenizer" in cls.attributes:
            parts["qformer_tokenizer"] = Tokenizer.from_pretrained(folder / "qformer_tokenizer")
        known = {name: saved[name] for name in cls.fields if name in saved}
        known["chat_template"] = saved_template(folder, saved, parts["tokenizer"])
        return cls(**parts, **{**known, **given})

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        push_to_hub: bool = False,
        legacy_serialization: bool = True,
        **kwargs: Any,
    ) -> list[str]:
        """Write all parts into a folder, in the 4.x layout, which later versions read as well; returns its
        main file."""
        refuse_unknown("save_pretrained", kwargs, ("save_jinja_files",))
        if push_to_hub or not legacy_serialization:
            raise RequestError(
                "save_pretrained: writes the 4.x layout to a folder only; leave push_to_hub and "
                "legacy_serialization alone"
            )
        folder = Path(save_directory)
        if folder.is_file():
            raise RequestError(f"save_pretrained: {folder} is a file, expected a folder")
        folder.mkdir(parents=True, exist_ok=True)
        for name in self.attributes:
            part = getattr(self, name)
            if hasattr(part, "processor_class"):
                part.processor_class = type(self).__name__
            part.save_pretrained(folder / name if name == "qformer_tokenizer" else folder)
        tokenizer_files.write_templates(folder, self.chat_template)
        target = folder / "processor_config.json"
        target.write_text(self.to_json_string(), "utf-8")
        return [str(target)]

    def to_dict(self) -> dict[str, Any]:
        """What processor_config.json holds."""
        fields = {name: getattr(self, name) for name in self.fields}
        return {
            name: value if isinstance(value, int | str | None) else str(value)
            for name, value in fields.items()
        } | {"processor_class": type(self).__name__}

    def to_json_string(self) -> str:
        """The same as JSON."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"

    # ---- words -------------------------------------------------------------------------------------------

    def decode(self, *args: Any, **kwargs: Any) -> str:
        """The tokenizer's `decode`."""
        return self.tokenizer.decode(*args, **kwargs)

    def batch_decode(self, *args: Any, **kwargs: Any) -> list[str]:
        """The tokenizer's `batch_decode`."""
        return self.tokenizer.batch_decode(*args, **kwargs)

    def post_process_image_text_to_text(
        self, generated_outputs: Any, skip_special_tokens: bool = True, **kwargs: Any
    ) -> list[str]:
        """The texts of what `generate` returned."""
        rows = generated_outputs if getattr(generated_outputs, "ndim", 2) == 2 else generated_outputs[None]
        return self.tokenizer.batch_decode(rows, skip_special_tokens=skip_special_tokens, **kwargs)

    @property
    def model_input_names(self) -> list[str]:
        """Names of what the parts give, in the order of the parts."""
        return [name for part in self.attributes for name in getattr(self, part).model_input_names]

    # ---- chat --------------------------------------------------------------------------------------------

    def apply_chat_template(
        self, conversation: Sequence[Any], chat_template: str | None = None, **kwargs: Any
    ) -> Any:
        """The prompt of a conversation (or of several), as text, as ids, or with its media ready for the
        model.

        Args:
            conversation: messages with `role` and `content`; content is text, or parts such as
                `{"type": "text", "text": "..."}` and `{"type": "video", "path": "clip.mp4"}`.
            chat_template: a template, or the name of one of the processor's, instead of its default.
            **kwargs: `tokenize` (False) gives ids, `return_dict` (False) all inputs; `add_generation_prompt`,
                `continue_final_message`, `tools`, `documents`; `num_frames`, `fps`, `do_sample_frames` for
                clips; options of the processor's call; other names are variables for the template.
        """
        tokenize, return_dict = kwargs.pop("tokenize", False), kwargs.pop("return_dict", False)
        masked = kwargs.pop("return_assistant_tokens_mask", False)
        if kwargs.pop("load_audio_from_video", False):
            raise RequestError("apply_chat_template: load_audio_from_video; these models do not hear")
        if masked and (kwargs.get("continue_final_message") or not (tokenize and return_dict)):
            raise RequestError(
                "apply_chat_template: return_assistant_tokens_mask needs tokenize=True and return_dict=True, "
                "and excludes "
                "continue_final_message"
            )
        options = {
            name: kwargs.pop(name)
            for name in (*CALL_OPTIONS, "images_kwargs", "text_kwargs")
            if name in kwargs
        }
        sampling = {name: kwargs.pop(name) for name in SAMPLING if name in kwargs}
        chosen = template.choose(self.chat_template, chat_template, kwargs.get("tools"))
        conversations, batched = template.split_batch(conversation)
        rendered = template.render_all(
            conversations, chosen, **{**self.tokenizer.special_tokens_map, **kwargs}
        )
        texts = [prompt.text for prompt in rendered]
        if not tokenize:
            return texts if batched else texts[0]
        bos = self.tokenizer.bos_token
        if bos is not None and texts[0].startswith(bos):
            options.setdefault("add_special_tokens", False)  # the template has written it already
        if masked:
            options["return_offsets_mapping"] = True
        if sampling and "do_sample_frames" not in sampling:
            sampling["do_sample_frames"] = True
        tensors = options.setdefault("return_tensors", self.default_tensors)
        out = self._chat_inputs(
            texts, _media(conversations, "image"), _media(conversations, "video"), options, sampling
        )
        if masked:
            masks = [
                _spoken(offsets, prompt.spans) for offsets, prompt in zip(out["offset_mapping"], rendered)
            ]
            del out["offset_mapping"]
            out["assistant_masks"] = masks
            out.convert_to_tensors(tensors)
        return out if return_dict else out["input_ids"]


def saved_template(folder: Path, saved: Mapping[str, Any], tokenizer: Any) -> str | dict[str, str] | None:
    """A folder's chat template: chat_template.json, chat_template.jinja, the processor's config or the
    tokenizer's."""
    legacy = _saved(folder / "chat_template.json").get("chat_template")
    return (
        legacy
        or tokenizer_files.read_templates(folder)
        or saved.get("chat_template")
        or tokenizer.chat_template
    )


def check_parts(owner: str, **parts: Any) -> None:
    """Every part must be there.

    Raises:
        RequestError: one is None; the message names it.
    """
    for name, part in parts.items():
        if part is None:
            raise RequestError(f"{owner}: {name} is required; pass one, or use from_pretrained")


def as_texts(owner: str, text: Any) -> list[str]:
    """A string or list of strings as a list.

    Raises:
        RequestError: anything else.
    """
    texts = [text] if isinstance(text, str) else list(text) if isinstance(text, list | tuple) else None
    if texts is None or not texts or not all(isinstance(one, str) for one in texts):
        raise RequestError(f"{owner}: text is {type(text).__name__}, expected a string or a list of strings")
    return texts


def joined(
    words: Mapping[str, Any], pixels: Mapping[str, Any] | None, tensors: str | None, media_first: bool = False
) -> BatchFeature:
    """All inputs together. Pixels are of the kind asked for already, or a list where clips differ in
    length."""
    inputs = BatchFeature(dict(words), tensor_type=tensors)
    parts = (pixels or {}, inputs) if media_first else (inputs, pixels or {})
    return BatchFeature({name: value for part in parts for name, value in part.items()})


def _media(conversations: Sequence[Sequence[Mapping[str, Any]]], kind: str) -> list[Any]:
    """The pictures or clips of all conversations, in order."""
    found = []
    for messages in conversations:
        for message in messages:
            parts = message.get("content") or ()
            for part in () if isinstance(parts, str) else parts:
                if part.get("type") == kind:
                    found += [part[key] for key in SOURCES[kind] if key in part]
    return found


def _spoken(offsets: Any, spans: Sequence[tuple[int, int]]) -> list[int]:
    """1 for tokens that begin inside one of the spans of characters."""
    starts = [int(start) for start, _ in offsets]
    ends = [int(end) for _, end in offsets]
    return [
        int(any(first <= start < last and end > start for first, last in spans))
        for start, end in zip(starts, ends)
    ]


def _saved(file: Path) -> dict[str, Any]:
    """An absent file is an empty one."""
    return read_json(file) if file.is_file() else {}
