"""A checkpoint by name: a local folder, or a hub id that is downloaded once and kept in the hub's cache."""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from watchword.errors import CheckpointError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

SETTINGS = ("*.json", "*.jinja", "*.model", "*.txt", "qformer_tokenizer/*")
"""Configs, tokenizers, processors: everything that is small."""
SAFETENSORS = ("model*.safetensors",)
PICKLES = ("pytorch_model*.bin",)


def fetch(
    folder_or_id: str | os.PathLike,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    patterns: Sequence[str] | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Path:
    """The local folder of a checkpoint: a folder is returned as it is, a hub id is downloaded unless cached.

    Args:
        revision: branch, tag or commit on the hub.
        token: for private and gated repositories; True takes the one saved by `hf auth login`.
        local_files_only: never ask the network.
        patterns: which files to bring, as shell patterns; None means settings and weights, the weights as
            safetensors where the repository has them and as .bin files otherwise.
        cache_dir: where downloads are kept; None means the hub's own place.

    Raises:
        CheckpointError: no such folder, no such repository or revision, no right to it, or no network.
    """
    name = os.fspath(folder_or_id)
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"{name}: is a file, expected a checkpoint folder; give {path.parent} instead")
    if path.is_absolute() or not HUB_ID.fullmatch(name):
        raise CheckpointError(
            f"{name}: no such folder; expected an existing checkpoint folder or a hub id such as "
            "LanguageBind/Video-LLaVA-7B-hf"
        )
    options = {
        "revision": revision,
        "token": token,
        "local_files_only": local_files_only,
        "cache_dir": cache_dir,
    }
    if patterns is not None:
        return _download(name, list(patterns), options)
    found = _download(name, [*SETTINGS, *SAFETENSORS], options)
    if not any(True for pattern in SAFETENSORS for _ in found.glob(pattern)):
        found = _download(name, [*SETTINGS, *PICKLES], options)
    return found


def _download(name: str, patterns: list[str], options: dict) -> Path:
    """snapshot_download, its errors in words that say what to do."""
    import huggingface_hub  # late: it takes a third of a second, and local folders do not need it
    from huggingface_hub import errors

    network = (OSError, sys.modules["httpx"].HTTPError) if "httpx" in sys.modules else (OSError,)
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns, **options))
    except errors.HFValidationError as error:
        raise CheckpointError(
            f"{name}: no such folder, and not a valid hub id; expected owner/name ({error})"
        ) from error
    except (*network, errors.HfHubHTTPError) as error:
        raise CheckpointError(f"{name}: {_reason(error, options)}") from error


def _reason(error: BaseException, options: dict) -> str:
    """What happened and what to do about it."""
    from huggingface_hub import errors

    chain = (error, error.__cause__, error.__context__)
    if any(isinstance(e, errors.GatedRepoError) for e in chain):
        return "gated on the hub; accept its terms at huggingface.co, then pass token= or run hf auth login"
    if any(isinstance(e, errors.RevisionNotFoundError) for e in chain):
        return f"the hub has no revision {options['revision']!r} of it; expected a branch, tag or commit"
    if any(isinstance(e, errors.RepositoryNotFoundError) for e in chain):
        return (
            "no local folder of that name, and no such repository on the hub (or it is private); check the "
            "spelling, or pass token="
        )
    offline = options["local_files_only"] or any(isinstance(e, errors.OfflineModeIsEnabled) for e in chain)
    if offline:
        return (
            "no local folder of that name, not in the download cache, and offline mode is on; "
            "download it once with network access, or give a folder"
        )
    if isinstance(error, errors.LocalEntryNotFoundError | ConnectionError):
        return (
            "no local folder of that name, not in the download cache, and the hub cannot be reached "
            f"({type(error.__cause__ or error).__name__}); check the network, or give a folder"
        )
    return f"download failed: {type(error).__name__}: {error}; try again"
