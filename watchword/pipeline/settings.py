"""What a checkpoint folder says about pixels and about generation."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from watchword.errors import CheckpointError
from watchword.media.spec import PixelSpec

PLACES = {
    "pillow": (
        ("preprocessor_config.json", None), ("processor_config.json", "image_processor"),
        ("video_preprocessor_config.json", None),
    ),
    "tensor": (
        ("video_preprocessor_config.json", None), ("processor_config.json", "video_processor"),
        ("preprocessor_config.json", None), ("processor_config.json", "image_processor"),
    ),
}  # fmt: skip
"""Where pictures' and clips' settings may stand, newest first: file, and the section in it."""

TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CheckpointError: not JSON, or no object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error}); expected settings; download it again") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: holds a JSON {type(found).__name__}, expected settings by name")
    return found


def pixel_spec(folder: Path, path: Literal["pillow", "tensor"], defaults: Mapping[str, Any]) -> PixelSpec:
    """How pictures ("pillow") or clips ("tensor") become pixels; fields that no file holds take the defaults.

    Raises:
        CheckpointError: no such settings in the folder.
    """
    for name, section in PLACES[path]:
        if (folder / name).is_file():
            raw = read_json(folder / name)
            raw = raw if section is None else raw.get(section)
            if raw is not None:
                given = {field: value for field, value in raw.items() if value is not None}
                return PixelSpec.from_dict({**defaults, **given}, path=path)
    raise CheckpointError(
        f"{folder}: no settings for pixels; expected preprocessor_config.json or one of its relatives "
        f"({', '.join(dict.fromkeys(name for name, _ in PLACES[path]))}); download the checkpoint again"
    )


def generation_settings(folder: Path, config: Any, *, own_file: bool) -> dict[str, Any]:
    """What the checkpoint wants of generation, by the names of generation_config.json.

    Args:
        own_file: whether the family reads generation_config.json. InstructBLIP's inner text model generates,
            so there only the text config counts, as in the reference.
    """
    path = folder / "generation_config.json"
    if own_file and path.is_file():
        return read_json(path)
    found: dict[str, Any] = {}
    for part in (config.text_config, config) if own_file else (config.text_config,):
        found |= part.generation_settings()
        found |= {name: getattr(part, name) for name in TOKENS if getattr(part, name, None) is not None}
    return found
