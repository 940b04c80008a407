import huggingface_hub
import pytest
from huggingface_hub import errors

from watchword.errors import CheckpointError
from watchword.weights import hub


def test_fetch_returns_folders_as_they_are(tmp_path):
    assert hub.fetch(tmp_path) == tmp_path
    assert hub.fetch(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["no-such-folder", "/no/such/folder", "./a/b", "a/b/c"])
def test_fetch_says_when_a_path_does_not_exist(name):
    with pytest.raises(CheckpointError, match=f"{name}: no such folder; expected an existing .* or a hub id"):
        hub.fetch(name)


def test_fetch_refuses_a_file(tmp_path):
    path = tmp_path / "model.safetensors"
    path.touch()
    with pytest.raises(CheckpointError, match=f"model.safetensors: is a file, .* give {tmp_path} instead"):
        hub.fetch(path)


def hub_of(monkeypatch, tmp_path, names, calls):
    """A hub that serves one repository with these files."""

    def download(name, *, allow_patterns, **options):
        calls.append(allow_patterns)
        for file in huggingface_hub.utils.filter_repo_objects(names, allow_patterns=allow_patterns):
            path = tmp_path / file
            path.parent.mkdir(exist_ok=True)
            path.touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)


def test_fetch_takes_settings_and_safetensors_and_no_pickles(tmp_path, monkeypatch):
    names = [
        "config.json",
        "model-00001-of-00001.safetensors",
        "README.md",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "qformer_tokenizer/vocab.txt",
        "tokenizer.model",
    ]
    hub_of(monkeypatch, tmp_path, names, [])
    assert hub.fetch("owner/name") == tmp_path
    found = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert found == set(names) - {"README.md", "pytorch_model.bin"}


def test_fetch_takes_pickles_where_there_is_nothing_else(tmp_path, monkeypatch):
    hub_of(monkeypatch, tmp_path, ["config.json", "pytorch_model.bin"], [])
    assert (hub.fetch("owner/name") / "pytorch_model.bin").exists()


def test_fetch_takes_only_what_is_asked_for(tmp_path, monkeypatch):
    calls = []
    hub_of(monkeypatch, tmp_path, ["config.json", "model.safetensors"], calls)
    hub.fetch("owner/name", patterns=hub.SETTINGS)
    assert calls == [list(hub.SETTINGS)]
    assert not (tmp_path / "model.safetensors").exists()


def failing(monkeypatch, error):
    def download(name, **options):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)


class Response:
    """As much of an HTTP answer as the hub's errors read."""

    def __init__(self) -> None:
        self.headers, self.request, self.status_code = {}, None, 404


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.GatedRepoError("no", response=Response()), "owner/name: gated on the hub; accept its terms"),
        (errors.RepositoryNotFoundError("no", response=Response()), "no local folder .* no such repository"),
        (errors.RevisionNotFoundError("no", response=Response()), "the hub has no revision 'v9' of it"),
        (errors.LocalEntryNotFoundError("no"), r"cannot be reached \(LocalEntryNotFoundError\); check"),
        (errors.OfflineModeIsEnabled("no"), "not in the download cache, and offline mode is on"),
        (OSError(28, "No space left on device"), "download failed: OSError: .*No space left on device"),
    ],
)
def test_fetch_says_what_to_do(monkeypatch, error, message):
    failing(monkeypatch, error)
    with pytest.raises(CheckpointError, match=message) as caught:
        hub.fetch("owner/name", revision="v9")
    assert caught.value.__cause__ is error


def test_fetch_offline_without_cache(tmp_path):
    with pytest.raises(CheckpointError, match=r"owner/name: no local folder .* offline mode is on; download"):
        hub.fetch("owner/name", local_files_only=True, cache_dir=tmp_path)


def test_fetch_refuses_ids_the_hub_would_not_know():
    with pytest.raises(CheckpointError, match=r"a/b--c: no such folder, and not a valid hub id; expected"):
        hub.fetch("a/b--c")
