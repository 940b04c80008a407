"""What all configs share: fields from and to `config.json`, nothing lost and nothing misunderstood.

A config class lists its documented fields in its constructor, under the names of `config.json`. Everything
else that a file holds is one of three kinds: harmless bookkeeping, which is kept and saved back; something
that would change the numbers and is not implemented, which is refused by name (`neutral`); or something
unknown, which is kept, saved back and logged.
"""

import copy
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from watchword.config.shared import BASE_FIELDS, BOOKKEEPING, DTYPES, GENERATION_FIELDS, INERT, REFUSED
from watchword.config.writing import FILE_NAME, Writing, documented
from watchword.errors import ConfigError, UnknownArgument

logger = logging.getLogger(__name__)

Real = int | float  # JSON does not tell 1 from 1.0

# In place of typing.Self, which the checked run of the tests cannot read.
C = TypeVar("C", bound="Config")


def alias(field: str) -> Any:
    """A second name of a field, readable and writable."""

    def read(self: "Config") -> Any:
        return getattr(self, field)

    def write(self: "Config", value: Any) -> None:
        setattr(self, field, value)

    return property(read, write, doc=f"Another name of `{field}`.")


class Config(Writing):
    """One part of a model as `config.json` describes it. Mutable; models read sizes when they are built.

    Attributes:
        model_type: what the class is called in files.
        kin: other model types whose files have the same fields and may be read by this class.
        parts: names of fields that hold configs themselves.
        section: the field of a family under which this part stands, if there is one.
        aliases: second names -> field names; accepted by the constructor, in files and as attributes.
        extras: known fields that are not in the constructor's signature; written unless None.
        neutral: fields that change the numbers and are not implemented -> the values that are accepted.
        handled: fields that others refuse, and whoever loads a model by this config reads.
    """

    model_type: ClassVar[str] = ""
    kin: ClassVar[frozenset[str]] = frozenset()
    parts: ClassVar[tuple[str, ...]] = ()
    section: ClassVar[str] = ""
    aliases: ClassVar[Mapping[str, str]] = {}
    extras: ClassVar[tuple[str, ...]] = ()
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    handled: ClassVar[tuple[str, ...]] = ()

    return_dict: bool
    output_hidden_states: bool
    output_attentions: bool
    torchscript: bool
    tie_word_embeddings: bool
    is_encoder_decoder: bool
    architectures: list[str] | None
    bos_token_id: int | None
    pad_token_id: int | None
    eos_token_id: int | list[int] | None
    decoder_start_token_id: int | None
    id2label: dict[int, str]
    label2id: dict[str, int]

    def __init__(self, **kwargs: Any) -> None:
        self._raw: dict[str, Any] | None = None
        self._read: dict[str, Any] = {}
        self._attn_implementation = kwargs.pop("attn_implementation", None)
        self._name_or_path = str(kwargs.pop("_name_or_path", kwargs.pop("name_or_path", "")))
        self._check_type(kwargs.pop("model_type", None))
        old_dtype = kwargs.pop("torch_dtype", None)
        if kwargs.get("dtype") is None:
            kwargs["dtype"] = old_dtype
        labels = kwargs.pop("num_labels", None)
        for name, default in {**BASE_FIELDS, **GENERATION_FIELDS}.items():
            setattr(self, name, kwargs.pop(name, copy.deepcopy(default)))
        if labels is not None:
            self.num_labels = labels
        self.id2label = {int(key): label for key, label in (self.id2label or {}).items()}
        for name in [name for name in kwargs if name in self.aliases]:
            self._take_alias(name, kwargs.pop(name))
        self._take_foreign(kwargs)
        self._refuse()

    # Reading.

    def _check_type(self, found: str | None) -> None:
        if found in (None, "", self.model_type):
            return
        if found not in self.kin:
            raise ConfigError(
                f"{type(self).__name__}: model_type is {found!r}, expected {self.model_type!r}; "
                "use the config class of that model"
            )
        logger.info("%s: reads a config of model_type %s", type(self).__name__, found)

    def _take_alias(self, name: str, value: Any) -> None:
        field = self.aliases[name]
        current = getattr(self, field)
        if current not in (documented(type(self))[field], value):
            raise ConfigError(
                f"{type(self).__name__}: {name} is {value!r} but {field} is {current!r}; "
                "they are two names of one field, give one of them"
            )
        setattr(self, field, value)

    def _take_foreign(self, fields: Mapping[str, Any]) -> None:
        unknown = []
        for name, value in fields.items():
            if name.startswith("_") or name in BOOKKEEPING:
                continue
            if hasattr(type(self), name):
                raise ConfigError(
                    f"{type(self).__name__}: a field named {name!r} (value {value!r}) would hide a method; "
                    "rename it"
                )
            if name not in self.neutral and name not in REFUSED:
                unknown.append(name)
            setattr(self, name, copy.deepcopy(value))
        if unknown:
            logger.info("%s: fields kept without effect: %s", type(self).__name__, ", ".join(unknown))

    def _refuse(self) -> None:
        for name, accepted in {**REFUSED, **self.neutral}.items():
            if name in self.handled:
                continue
            value = getattr(self, name, accepted[0])
            if value not in accepted:
                expected = " or ".join(repr(one) for one in accepted)
                raise ConfigError(
                    f"{type(self).__name__}: {name} is {value!r}, which is not implemented here; "
                    f"expected {expected}"
                )
        inert = [name for name in INERT if getattr(self, name) != BASE_FIELDS[name]]
        if inert:
            logger.info("%s: fields kept without effect: %s", type(self).__name__, ", ".join(inert))

    @classmethod
    def from_dict(cls: type[C], raw: Mapping[str, Any], **changes: Any) -> C:
        """Read a parsed `config.json`; `changes` are set afterwards, see `override`."""
        config = cls(**copy.deepcopy(dict(raw)))
        config._remember(raw)
        config.override(changes)
        return config

    def has(self, name: str) -> bool:
        """Whether there is a field of that name, or one that is also called so."""
        settable = getattr(getattr(type(self), name, None), "fset", None) is not None
        more = ("attn_implementation", "_attn_implementation", "model_type")
        return name in (*more, *self._fields(), *self._spellings()) or settable

    def override(self, changes: Mapping[str, Any]) -> None:
        """Set fields by name, as if by assignment; a dictionary for a part changes fields of that part.

        Raises:
            UnknownArgument: no such field.
            ConfigError: a value that would change the numbers and is not implemented.
        """
        for name in changes:
            if not self.has(name):
                raise UnknownArgument(
                    f"{type(self).__name__}: no field named {name!r}; known: {', '.join(self._known())}"
                )
        self.update(changes)
        self._refuse()

    def _remember(self, raw: Mapping[str, Any]) -> None:
        """Keep what was read, and what was made of it, so that saving changes only what changed."""
        for name in self.parts:
            if isinstance(raw.get(name), Mapping):
                getattr(self, name)._remember(raw[name])
        self._raw = copy.deepcopy(dict(raw))
        self._read = copy.deepcopy(self._values())

    @classmethod
    def from_pretrained(cls: type[C], folder: str | Path, **changes: Any) -> C:
        """Read `config.json` of a local folder, or such a file; a part is also found in a family's file."""
        path = Path(folder)
        file = path / FILE_NAME if path.is_dir() else path
        if not file.is_file():
            raise ConfigError(
                f"{folder}: no {FILE_NAME} here, expected a checkpoint folder on this machine; for a hub id "
                "use the from_pretrained of a model class, or watchword.load"
            )
        config = cls.from_json_file(file, **changes)
        config._name_or_path = str(folder)
        return config

    @classmethod
    def from_json_file(cls: type[C], file: str | Path, **changes: Any) -> C:
        """Read one JSON file."""
        try:
            raw = json.loads(Path(file).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{file}: not JSON ({error}); expected a {FILE_NAME}") from error
        if not isinstance(raw, dict):
            raise ConfigError(
                f"{file}: holds a JSON {type(raw).__name__}, expected an object with the config's fields"
            )
        if cls.section and isinstance(raw.get(cls.section), dict) and raw.get("model_type") != cls.model_type:
            raw = raw[cls.section]
        return cls.from_dict(raw, **changes)

    # Shared fields that are more than a value.

    @property
    def raw(self) -> dict[str, Any] | None:
        """The document as it was read; None if the config was built in code."""
        return copy.deepcopy(self._raw)

    @property
    def dtype(self) -> Any:
        """The `torch.dtype` that the file states for its weights, or None."""
        if self._dtype is None:
            return None
        import torch  # here, so that reading a config does not load it

        return getattr(torch, self._dtype)

    @dtype.setter
    def dtype(self, value: Any) -> None:
        name = None if value is None else str(value).removeprefix("torch.")
        if name is not None and name not in DTYPES:
            raise ConfigError(
                f"{type(self).__name__}: dtype is {value!r}, expected one of {', '.join(DTYPES)}"
            )
        self._dtype = name

    torch_dtype = alias("dtype")

    @property
    def name_or_path(self) -> str:
        """The folder that the config was read from, or an empty string."""
        return self._name_or_path

    @property
    def use_return_dict(self) -> bool:
        """Whether results are objects rather than tuples."""
        return self.return_dict and not self.torchscript

    @property
    def num_labels(self) -> int:
        """Number of entries in `id2label`."""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, count: int) -> None:
        if count != len(self.id2label):
            self.id2label = {i: f"LABEL_{i}" for i in range(count)}
            self.label2id = {label: i for i, label in self.id2label.items()}

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> "Config":
        """The config of the language model: a family's `text_config`, any other config itself."""
        return getattr(self, "text_config", self)

    def generation_settings(self) -> dict[str, Any]:
        """Settings of generation that an old `config.json` carries: those that differ from their defaults."""
        values = {name: getattr(self, name) for name in GENERATION_FIELDS}
        return {name: value for name, value in values.items() if value != GENERATION_FIELDS[name]}

    def update(self, changes: Mapping[str, Any]) -> None:
        """Assign several fields at once; a dictionary for a part changes fields of that part."""
        for name, value in changes.items():
            if name == "model_type":
                self._check_type(value)
            elif name in self.parts and isinstance(value, Mapping):
                part = getattr(self, name)
                changed = type(part).from_dict({**part.to_dict(), **value})
                changed._attn_implementation = part._attn_implementation
                setattr(self, name, changed)
            else:
                setattr(self, "_attn_implementation" if name == "attn_implementation" else name, value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and type(self) is type(other) and self._fields() == other._fields()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"
