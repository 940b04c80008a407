import json
import os
import stat
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from watchword.errors import CheckpointError, RequestError
from watchword.weights import files


def state_dict() -> dict[str, torch.Tensor]:
    return {
        "a.weight": torch.randn(40, 25),
        "a.bias": torch.randn(40),
        "b.weight": torch.randn(64, 64).half(),
        "c.weight": torch.randn(10, 100).bfloat16(),
        "steps": torch.tensor(7),
        "empty": torch.zeros(0, 3),
    }


def read_all(folder) -> dict[str, torch.Tensor]:
    return {name: shard.read(name) for shard in files.open_weights(folder).shards() for name in shard.names}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return set(a) == set(b) and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("size", ["5GB", "6KB", 1])
def test_save_then_read_is_identity(tmp_path, safe, size):
    state = state_dict()
    files.save(state, tmp_path, max_shard_size=size, safe_serialization=safe)
    assert same(read_all(tmp_path), state)


def test_save_names_one_file_plainly(tmp_path):
    assert files.save(state_dict(), tmp_path) == [tmp_path / "model.safetensors"]
    assert files.save(state_dict(), tmp_path, safe_serialization=False) == [tmp_path / "pytorch_model.bin"]


def test_save_divides_by_size_and_writes_an_index(tmp_path):
    state = state_dict()
    written = files.save(state, tmp_path, max_shard_size="6KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in state.values())
    assert set(index["weight_map"]) == set(state)
    assert [p.name for p in written] == [
        *(f"model-{i:05d}-of-00003.safetensors" for i in (1, 2, 3)),
        "model.safetensors.index.json",
    ]
    for path in written[:-1]:
        assert sum(t.nbytes for t in load_file(path).values()) <= 6000 or len(load_file(path)) == 1


def test_save_marks_the_format_and_follows_the_umask(tmp_path):
    old = os.umask(0o022)
    try:
        files.save(state_dict(), tmp_path)
    finally:
        os.umask(old)
    with files.safe_open(tmp_path / "model.safetensors", framework="pt") as opened:
        assert opened.metadata() == {"format": "pt"}
    assert stat.S_IMODE((tmp_path / "model.safetensors").stat().st_mode) == 0o644


def test_save_writes_tied_tensors_once_and_views_whole(tmp_path):
    shared, fused = torch.randn(4, 4), torch.randn(6, 4)
    state = {"first": shared, "again": shared.view(4, 4), "q": fused[:3], "k": fused[3:], "turned": fused.t()}
    files.save(state, tmp_path)
    read = read_all(tmp_path)
    assert set(read) == {"first", "q", "k", "turned"}
    assert torch.equal(read["k"], fused[3:])
    assert torch.equal(read["turned"], fused.t())


@pytest.mark.parametrize("safe", [True, False])
def test_save_removes_what_would_be_read_instead(tmp_path, safe):
    files.save(state_dict(), tmp_path)
    new = {"x": torch.randn(100, 100), "y": torch.randn(100, 100)}
    files.save(new, tmp_path, max_shard_size="40KB", safe_serialization=safe)
    assert same(read_all(tmp_path), new)
    newer = {"x": torch.randn(2)}
    files.save(newer, tmp_path, safe_serialization=safe)
    assert same(read_all(tmp_path), newer)
    assert len(list(tmp_path.iterdir())) == 1


def test_save_over_the_files_just_read_keeps_values(tmp_path):
    state = state_dict()
    files.save(state, tmp_path)
    mapped = read_all(tmp_path)
    files.save({name: t for name, t in mapped.items() if name != "steps"}, tmp_path, max_shard_size="6KB")
    assert same(mapped, state)
    assert same(read_all(tmp_path), {name: t for name, t in state.items() if name != "steps"})


def test_save_that_fails_leaves_the_old_files(tmp_path, monkeypatch):
    files.save(state_dict(), tmp_path)
    before = read_all(tmp_path)

    def full(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(OSError, match="disk full"):
        files.save({"x": torch.ones(1)}, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    assert same(read_all(tmp_path), before)


def test_save_refuses_tensors_without_values(tmp_path):
    with pytest.raises(CheckpointError, match=r"a\.b: has no values"):
        files.save({"a.b": torch.empty(2, device="meta")}, tmp_path)


@pytest.mark.parametrize(
    ("size", "bytes_"),
    [
        ("60KB", 60_000),
        ("5GB", 5 * 10**9),
        ("1.5MB", 1_500_000),
        ("2GiB", 2**31),
        (123, 123),
        ("1tb", 10**12),
    ],
)
def test_parse_size_reads(size, bytes_):
    assert files.parse_size(size) == bytes_


@pytest.mark.parametrize("size", ["big", "", "-5GB", 0, "5 elephants", "0.1"])
def test_parse_size_refuses(size):
    with pytest.raises(RequestError, match=f"max_shard_size {size!r}: not a size"):
        files.parse_size(size)


def test_dtype_is_the_one_most_values_have(tmp_path):
    state = {"a": torch.zeros(10), "b": torch.zeros(20).half(), "c": torch.zeros(90, dtype=torch.int64)}
    files.save(state, tmp_path)
    assert files.open_weights(tmp_path).dtype == torch.float16


def test_entries_describe_without_reading(tmp_path):
    files.save(state_dict(), tmp_path, max_shard_size="6KB")
    entry = files.open_weights(tmp_path).entries["b.weight"]
    assert (entry.shape, entry.dtype) == ((64, 64), torch.float16)


def test_open_prefers_safetensors(tmp_path):
    files.save({"x": torch.zeros(1)}, tmp_path, safe_serialization=False)
    files.save({"x": torch.ones(1)}, tmp_path)
    assert read_all(tmp_path)["x"].item() == 1


def test_open_reads_bins_from_before_zip_files(tmp_path):
    state = {"x": torch.randn(3)}
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert same(read_all(tmp_path), state)


def test_open_missing_folder(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere: no such folder"):
        files.open_weights(tmp_path / "nowhere")


def test_open_empty_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"no weights; found an empty folder; expected one of model"):
        files.open_weights(tmp_path)


def test_open_folder_without_weights_lists_what_is_there(tmp_path):
    for name in ("config.json", "model.ckpt"):
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=r"no weights; found config\.json, model\.ckpt;"):
        files.open_weights(tmp_path)


def sharded(folder, safe: bool = True) -> dict:
    files.save(state_dict(), folder, max_shard_size="6KB", safe_serialization=safe)
    return json.loads(next(folder.glob("*.index.json")).read_text())


@pytest.mark.parametrize("safe", [True, False])
def test_open_names_missing_shards(tmp_path, safe):
    sharded(tmp_path, safe)
    lost = sorted(tmp_path.glob("*-of-*"))[1]
    lost.unlink()
    with pytest.raises(CheckpointError, match=f"1 of 3 shards missing: {lost.name};"):
        files.open_weights(tmp_path)


@pytest.mark.parametrize("safe", [True, False])
def test_open_names_tensors_that_the_shard_lacks(tmp_path, safe):
    index = sharded(tmp_path, safe)
    index["weight_map"]["ghost.weight"] = next(iter(index["weight_map"].values()))
    next(tmp_path.glob("*.index.json")).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"00001-of-00003\S+: lacks 1 tensors .*: ghost\.weight;"):
        files.open_weights(tmp_path)


def test_open_names_tensors_that_the_index_lacks(tmp_path):
    index = sharded(tmp_path)
    del index["weight_map"]["a.bias"]
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"holds 1 tensors that .* does not place there: a\.bias;"):
        files.open_weights(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', "not json"])
def test_open_refuses_an_index_that_is_none(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"index\.json: not a weight index"):
        files.open_weights(tmp_path)


def test_open_refuses_an_index_that_points_outside(tmp_path):
    text = json.dumps({"weight_map": {"x": "../other/model.safetensors"}})
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"names '\.\./other/model\.safetensors'; expected plain names"):
        files.open_weights(tmp_path)


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("keep", [0, 4, 300, -10])
def test_open_refuses_truncated_files(tmp_path, safe, keep):
    path = files.save(state_dict(), tmp_path, safe_serialization=safe)[0]
    left = path.read_bytes()[:keep]
    path.write_bytes(left)
    with pytest.raises(CheckpointError, match=rf"{path.name}: (damaged .* \({len(left)} byte|holds some)"):
        files.open_weights(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_open_recognises_git_lfs_pointers(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
    with pytest.raises(CheckpointError, match=f"{name}: a Git LFS pointer.*git lfs pull"):
        files.open_weights(tmp_path)


def test_open_never_runs_code_in_a_bin(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"x": Trap()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: holds something other than tensors"):
        files.open_weights(tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_open_refuses_a_bin_that_is_no_state_dict(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: not a state dict"):
        files.open_weights(tmp_path)


def test_open_names_types_it_cannot_read(tmp_path, monkeypatch):
    save_file({"x": torch.zeros(2)}, tmp_path / "model.safetensors")
    monkeypatch.delitem(files.DTYPES, "F32")
    with pytest.raises(CheckpointError, match="x has type F32; known are F64"):
        files.open_weights(tmp_path)


MEASURE = """
import re, sys, torch
from torch import nn
from watchword.weights import files, load
torch.set_num_threads(1)
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
with torch.device("meta"):
    model = nn.Sequential(*(nn.Linear(1600, 1600, bias=False) for _ in range(16)))
source = files.open_weights(sys.argv[1])
before = peak()
load.load_weights(model, source, dtype=torch.bfloat16)
print(peak() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from /proc")
@pytest.mark.parametrize("safe", [True, False])
def test_loading_needs_the_model_and_one_shard(tmp_path, safe):
    layer = 1600 * 1600 * 4
    state = {f"{i}.weight": torch.zeros(1600, 1600) for i in range(16)}
    files.save(state, tmp_path, max_shard_size=4 * layer, safe_serialization=safe)
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    model, shard = 16 * layer // 2, 4 * layer
    assert model * 0.9 < int(out.stdout) < model + shard + 10_000_000  # all shards: 3 more
