"""Configs back into `config.json`: what was read, with what has changed since."""

import copy
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from watchword.config.shared import BASE_FIELDS, GENERATION_FIELDS

FILE_NAME = "config.json"


def documented(cls: type) -> dict[str, Any]:
    """Documented fields of a config class and their defaults, in the order of its constructor."""
    parameters = list(inspect.signature(cls).parameters.values())
    return {p.name: p.default for p in parameters if p.kind is not p.VAR_KEYWORD}


class Writing:
    """The half of a `fields.Config` that writes it; for the attributes see there."""

    model_type: ClassVar[Any]
    parts: ClassVar[Any]
    aliases: ClassVar[Any]
    extras: ClassVar[Any]
    id2label: dict[int, str]
    _raw: dict[str, Any] | None
    _read: dict[str, Any]
    _dtype: str | None

    def _known(self) -> tuple[str, ...]:
        names = (*documented(type(self)), *self.extras, *BASE_FIELDS, *GENERATION_FIELDS)
        return tuple(dict.fromkeys(names))

    def _fields(self) -> dict[str, Any]:
        """All fields as they stand now."""
        known = self._known()
        foreign = [name for name in vars(self) if name not in known and not name.startswith("_")]
        return {name: self._dtype if name == "dtype" else getattr(self, name) for name in (*known, *foreign)}

    def _values(self) -> dict[str, Any]:
        """The same in JSON's types."""
        values = self._fields()
        values["id2label"] = {str(key): label for key, label in self.id2label.items()}
        for name in self.parts:
            values[name] = values[name].to_dict()
        return values

    def to_dict(self) -> dict[str, Any]:
        """The document to save: what was read, with what has changed since; or, if built in code, every field
        of the class and the shared fields that differ from their defaults.
        """
        values = self._values()
        if self._raw is None:
            return copy.deepcopy({**self._worth_writing(values), "model_type": self.model_type})
        written = copy.deepcopy(self._raw)
        for name, value in values.items():
            changed = name not in self._read or self._read[name] != value
            spellings = [name, *(other for other, field in self._spellings().items() if field == name)]
            present = [one for one in spellings if one in written]
            if changed or (name in self.parts and isinstance(written.get(name), dict)):
                for one in present or [name]:
                    written[one] = copy.deepcopy(value)
        for name in [name for name in self._read if name not in values]:
            written.pop(name, None)
        if "model_type" in written:
            written["model_type"] = self.model_type
        return written

    def _spellings(self) -> dict[str, str]:
        return {"torch_dtype": "dtype", **self.aliases}

    def _worth_writing(self, values: Mapping[str, Any]) -> dict[str, Any]:
        own = documented(type(self))
        shared = {**BASE_FIELDS, **GENERATION_FIELDS, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}}

        def keep(name: str, value: Any) -> bool:
            if name in own:
                return True
            if name in self.extras:
                return value is not None
            return name not in shared or shared[name] != value

        return {name: value for name, value in values.items() if keep(name, value)}

    def to_diff_dict(self) -> dict[str, Any]:
        """The same as `to_dict`, which never writes shared fields that stand at their defaults."""
        return self.to_dict()

    def to_json_string(self) -> str:
        """The document as text: in the order that was read, or sorted if built in code."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=self._raw is None, ensure_ascii=False) + "\n"

    def to_json_file(self, file: str | Path) -> None:
        """Write the document to a file."""
        Path(file).write_text(self.to_json_string(), encoding="utf-8")

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` into a folder, which is made if it is not there."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.to_json_file(Path(folder) / FILE_NAME)
