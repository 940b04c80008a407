"""Words to ids and back, over the `tokenizers` library, called the way the reference's fast tokenizers are
called."""

import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from watchword.errors import RequestError
from watchword.prompt import template, tokenizer_files
from watchword.prompt.backend import set_case, set_prefix_space, take_layout
from watchword.prompt.batch import TextBatch
from watchword.prompt.calls import columns, kind, refuse
from watchword.prompt.layout import Layout, resolve_layout
from watchword.prompt.special import SpecialTokens
from watchword.prompt.text import check_text
from watchword.prompt.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

UNLIMITED = int(1e30)
"""`model_max_length` of a tokenizer that declares none."""

BACKEND_LOCK = threading.RLock()
"""Held while a tokenizer's truncation, padding or splitting is set for one call: they are state of the shared
backend."""


class Tokenizer(Vocabulary, SpecialTokens):
    """One vocabulary with its rules, special tokens and chat template.

    Args:
        backend: the tokenizer of the `tokenizers` library that does the work.
        class_name: name of the reference's class, without "Fast", whose defaults fill what `settings` leave
            out.
        **settings: fields of tokenizer_config.json, such as `padding_side`, `pad_token`, `chat_template`.
            Fields that mean nothing here are kept and saved back.
    """

    is_fast = True

    def __init__(self, backend: tokenizers.Tokenizer, class_name: str | None = None, **settings: Any) -> None:
        self.init_kwargs = {**take_layout(backend), **settings}
        self.class_name = class_name
        settings = {**tokenizer_files.CLASS_DEFAULTS.get(class_name or "", {}), **self.init_kwargs}
        self._backend = backend
        self._keep_special(settings)
        self.source: Path | None = None
        self.name_or_path = ""
        self.padding_side = settings.pop("padding_side", None) or "right"
        self.truncation_side = settings.pop("truncation_side", None) or "right"
        self.model_max_length = int(settings.pop("model_max_length", None) or UNLIMITED)
        self.model_input_names = list(
            settings.pop("model_input_names", None) or ("input_ids", "token_type_ids", "attention_mask")
        )
        self.clean_up_tokenization_spaces = bool(settings.pop("clean_up_tokenization_spaces", False))
        self.split_special_tokens = bool(settings.pop("split_special_tokens", False))
        self.chat_template = template.by_name(settings.pop("chat_template", None))
        self.pad_token_type_id = 0
        self._add_bos, self._add_eos = (
            bool(settings.get("add_bos_token")),
            bool(settings.get("add_eos_token")),
        )
        if class_name == "T5Tokenizer" and not any("<extra_id_" in str(token) for token in self._additional):
            self._additional += [f"<extra_id_{index}>" for index in range(settings["extra_ids"])]
        self._declare_special()
        self._follow_settings(settings)
        self._declared = {name: getattr(self, name) for name in CHANGEABLE}

    # ---- folders ---------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, folder: str | Path, **overrides: Any) -> "Tokenizer":
        """Read a tokenizer folder.

        Args:
            folder: holds tokenizer.json (or vocab.txt, or vocab.json and merges.txt) and
                tokenizer_config.json.
            **overrides: settings that replace the folder's, such as `padding_side="left"`.

        Raises:
            CheckpointError: no tokenizer in the folder, or damaged files.
        """
        folder = Path(folder)
        settings, class_name, added = tokenizer_files.read_settings(folder)
        class_name = tokenizer_files.class_of_files(folder, class_name)
        settings |= overrides
        defaults = tokenizer_files.CLASS_DEFAULTS.get(class_name or "", {})
        backend = tokenizer_files.read_backend(folder, class_name, defaults | settings)
        present = {index: repr(token) for index, token in backend.get_added_tokens_decoder().items()}
        for index, token in sorted(added.items()):
            if present.get(index) != repr(token):
                backend.add_special_tokens([token]) if token.special else backend.add_tokens([token])
        tokenizer = cls(backend, class_name, **settings)
        tokenizer.source, tokenizer.name_or_path = folder, str(folder)
        return tokenizer

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the folder again, in the 4.x dialect, which later versions read as well."""
        roles = self._special | {"additional_special_tokens": self._additional}
        settings = {
            name: value for name, value in self.init_kwargs.items() if name != "named" and name not in roles
        }
        for name in CHANGEABLE:
            if name in settings or getattr(self, name) != self._declared[name]:
                settings[name] = getattr(self, name)
        if self.class_name == "TokenizersBackend":  # saved under another name, whose default is another one
            settings["model_input_names"] = self.model_input_names
        settings["model_max_length"] = self.model_max_length
        settings["clean_up_tokenization_spaces"] = self.clean_up_tokenization_spaces
        settings["chat_template"] = self.chat_template
        defaults = tokenizer_files.CLASS_DEFAULTS.get(self.class_name or "", {})
        # a role without a token is written where silence would give it one
        special = {
            role: value
            for role, value in roles.items()
            if value or role in self.init_kwargs or role in defaults
        }
        tokenizer_files.write_folder(
            Path(folder), self._backend, settings, special, self._named, self.class_name, self.source
        )

    # ---- words to ids ----------------------------------------------------------------------------

    def __call__(
        self,
        text: Any,
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        split_special_tokens: bool | None = None,
        **unsupported: Any,
    ) -> TextBatch:
        """Ids and masks of one text or of several.

        Args:
            text: a string gives flat lists (unless tensors are asked for), a list of strings gives rows.
            add_special_tokens: whether to frame the text as the vocabulary wants it (BOS, EOS, [CLS] ...
                [SEP]).
            padding: True or "longest", "max_length", or False.
            truncation: True cuts to `max_length`, or to `model_max_length` without one. A `max_length` alone
                cuts too.
            stride: tokens that an overflowing piece repeats from the one before.
            padding_side: for this call, instead of the attribute.
            return_tensors: "pt", "np", or None for lists.
            return_overflowing_tokens: give what truncation cut off as further rows, with
                `overflow_to_sample_mapping`.
            split_special_tokens: whether special tokens inside the text are read as plain text.

        Raises:
            RequestError: padding without a pad token, rows that do not fit one tensor, contradicting lengths.
            UnknownArgument: anything else.
        """
        refuse(unsupported)
        rows = [text] if isinstance(text, str) else text
        if not isinstance(rows, list | tuple) or not all(isinstance(row, str) for row in rows):
            raise RequestError(f"tokenizer: text is {kind(text)}, expected a string or a list of strings")
        layout = resolve_layout(
            self, padding, truncation, max_length, stride, pad_to_multiple_of, padding_side, verbose
        )
        split = self.split_special_tokens if split_special_tokens is None else split_special_tokens
        wanted = {
            "token_type_ids": self._wants(return_token_type_ids, "token_type_ids"),
            "attention_mask": self._wants(return_attention_mask, "attention_mask"),
            "special_tokens_mask": return_special_tokens_mask,
            "offset_mapping": return_offsets_mapping,
            "length": return_length,
        }
        groups = self._encodings(rows, layout, add_special_tokens, split)
        if not return_overflowing_tokens:
            groups = [group[:1] for group in groups]
        batch = TextBatch(columns(groups, wanted), [encoding for group in groups for encoding in group])
        if return_overflowing_tokens:
            batch["overflow_to_sample_mapping"] = [index for index, group in enumerate(groups) for _ in group]
        elif isinstance(text, str) and return_tensors is None:
            flat = {
                name: column[0] if isinstance(column[0], list) else column for name, column in batch.items()
            }
            return TextBatch(flat, batch.encodings)
        return batch.convert_to_tensors(return_tensors)

    def encode(self, text: str, *, add_special_tokens: bool = True, **options: Any) -> Any:
        """The ids of one text; takes the options of a call."""
        return self(text, add_special_tokens=add_special_tokens, **options)["input_ids"]

    def tokenize(self, text: str, *, add_special_tokens: bool = False, **options: Any) -> list[str]:
        """The pieces of one text as strings."""
        return self(text, add_special_tokens=add_special_tokens, **options).tokens()

    def _wants(self, asked: bool | None, name: str) -> bool:
        """Whether a column was asked for, by the call or else by the tokenizer's `model_input_names`."""
        return name in self.model_input_names if asked is None else asked

    def _encodings(
        self, rows: Sequence[str], layout: Layout, add_special_tokens: bool, split: bool
    ) -> list[list[tokenizers.Encoding]]:
        """Per text its encoding, and those of the pieces that truncation cut off."""
        for row in rows:
            check_text("tokenizer", row)
        with BACKEND_LOCK:
            layout.apply(self._backend)
            self._backend.encode_special_tokens = split
            try:
                encodings = self._backend.encode_batch(list(rows), add_special_tokens=add_special_tokens)
            finally:
                self._backend.no_truncation()
                self._backend.no_padding()
                self._backend.encode_special_tokens = False
        return [[encoding, *encoding.overflowing] for encoding in encodings]

    def _declare_special(self) -> None:
        """Make every special token an added token, so that text containing it is recognised and decoding can
        skip it."""
        present = {token.content for token in self.added_tokens_decoder.values()}
        for value in self.special_tokens_map_extended.values():
            for token in value if isinstance(value, list) else [value]:
                if str(token) not in present:
                    present.add(str(token))
                    self._backend.add_special_tokens([token])
        for name, token in self._named.items():
            setattr(self, name, str(token))
            setattr(self, f"{name}_id", self.convert_tokens_to_ids(str(token)))

    def _follow_settings(self, settings: Mapping[str, Any]) -> None:
        """Let settings win over tokenizer.json where the reference lets them."""
        if self.class_name == "LlamaTokenizer":
            self._frame()
        if self.class_name == "BertTokenizer":
            set_case(self._backend, settings)
        if self.class_name not in ("LlamaTokenizer", "T5Tokenizer"):
            set_prefix_space(self._backend, bool(settings.get("add_prefix_space")))

    # ---- chat ------------------------------------------------------------------------------------

    def apply_chat_template(self, conversation: Sequence[Any], **options: Any) -> Any:
        """Render chat messages with the chat template, and tokenize the result unless `tokenize=False`.

        Takes the options of `watchword.prompt.template.apply`.
        """
        return template.apply(self, conversation, **options)


CHANGEABLE = ("padding_side", "truncation_side", "add_bos_token", "add_eos_token", "model_input_names")
"""Attributes that are saved once they differ from what was read; a side that is saved is also passed to
Q-Formers."""
