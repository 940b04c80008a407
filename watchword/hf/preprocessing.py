"""Settings of a processor: read from a checkpoint folder, saved as the reference saves them."""

import json
import os
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

from watchword.errors import CheckpointError, refuse_unknown
from watchword.hf.features import BatchFeature
from watchword.weights.hub import fetch

__all__ = ["Preprocessor", "read_json"]

# Written by older versions for what has another name now; they would mislead whoever reads them next.
_OUTDATED = ("feature_extractor_type",)


class Preprocessor:
    """What image and video processors share: their settings are attributes, kept in one JSON file.

    Attributes:
        files: the files that may hold the settings, the first that exists is read; the first is written.
        section: where `processor_config.json` of newer versions keeps these settings.
        type_key: the field that names the class.
        fields: the settings, in the order of the constructor.
        model_input_names: the keys of the result.
        processor_class: the class this belongs to, written into the file when known.
        extra: unknown fields of the file, kept and saved back.
    """

    files: ClassVar[tuple[str, ...]] = ()
    section: ClassVar[str] = ""
    type_key: ClassVar[str] = ""
    fields: ClassVar[tuple[str, ...]] = ()
    model_input_names: ClassVar[list[str]] = []
    processor_class: str | None = None
    extra: Mapping[str, Any]

    def _keep(self, kwargs: Mapping[str, Any]) -> None:
        """Take the constructor's other keywords: only those that name classes are known."""
        refuse_unknown(
            type(self).__name__, kwargs, (*self.fields, "processor_class", self.type_key, *_OUTDATED)
        )
        self.processor_class = kwargs.get("processor_class")
        self.extra = {}

    def __call__(self, *args: Any, **kwargs: Any) -> BatchFeature:
        """Do `preprocess`."""
        return self.preprocess(*args, **kwargs)  # type: ignore[attr-defined, no-any-return]

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Read the settings from a folder, a JSON file or a hub id.

        Args:
            pretrained_model_name_or_path: where they are.
            cache_dir: where downloads are kept.
            local_files_only: never ask the network.
            token: for private repositories.
            revision: branch, tag or commit.
            **kwargs: settings that win over the file's. With `return_unused_kwargs=True`, names that are no
                settings are returned beside the processor instead of being refused.

        Raises:
            CheckpointError: no such folder or file, or one that cannot be read.
            UnknownArgument: a keyword that is no setting.
        """
        path = Path(pretrained_model_name_or_path).expanduser()
        if not path.is_file():
            path = fetch(
                pretrained_model_name_or_path,
                revision=revision,
                token=token,
                local_files_only=local_files_only,
                patterns=cls.files,
                cache_dir=cache_dir,
            )
        return cls.from_dict(_read(path, cls.files, cls.section), **kwargs)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], **kwargs: Any) -> Any:
        """Build from the content of a settings file; `kwargs` win over it, unknown fields of it are kept."""
        unused = None
        if kwargs.pop("return_unused_kwargs", False):
            unused = {name: value for name, value in kwargs.items() if name not in cls.fields}
            kwargs = {name: value for name, value in kwargs.items() if name in cls.fields}
        refuse_unknown(cls.__name__, kwargs, cls.fields)
        known = {name: deepcopy(value) for name, value in settings.items() if name in cls.fields}
        processor = cls(**{**known, **kwargs})
        processor.processor_class = settings.get("processor_class")
        named = (*cls.fields, "processor_class", cls.type_key, *_OUTDATED)
        processor.extra = {name: deepcopy(value) for name, value in settings.items() if name not in named}
        return processor if unused is None else (processor, unused)

    def to_dict(self) -> dict[str, Any]:
        """Give all settings, the name of the class, and what was unknown in the file."""
        known = {name: deepcopy(getattr(self, name)) for name in self.fields}
        owner = {} if self.processor_class is None else {"processor_class": self.processor_class}
        return {**self.extra, **known, self.type_key: type(self).__name__, **owner}

    def to_json_string(self) -> str:
        """Give the settings as the file holds them: sorted, indented by two."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True, default=_plain) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Write the settings to a file."""
        Path(json_file_path).write_text(self.to_json_string(), encoding="utf-8")

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> list[str]:
        """Write the settings into a folder, which is made if needed; give the paths written."""
        folder = Path(save_directory)
        if folder.is_file():
            raise CheckpointError(f"{folder}: a file, where a folder was expected; name a folder to save in")
        folder.mkdir(parents=True, exist_ok=True)
        self.to_json_file(folder / self.files[0])
        return [str(folder / self.files[0])]

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        CheckpointError: it is no JSON, or no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: no valid JSON ({error}); get the file again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds {type(content).__name__}, where settings by name were expected")
    return content


def _read(path: Path, files: Iterable[str], section: str) -> dict[str, Any]:
    """Read the first of the files that exists and holds the settings, whole or in its section."""
    files = tuple(files)
    for file in [path] if path.is_file() else [path / name for name in files]:
        if file.is_file():
            content = read_json(file)
            if isinstance(content.get(section), dict):
                return dict(content[section])
            if file.name != "processor_config.json":  # without a section it holds other settings
                return content
    raise CheckpointError(
        f"{path}: no settings of the {section.replace('_', ' ')} in it; expected one of {', '.join(files)}"
    )


def _plain(value: Any) -> Any:
    """Numbers and lists for what JSON does not know: enum members, arrays, devices."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return getattr(value, "value", str(value))
