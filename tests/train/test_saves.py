import os
import resource
import signal

import pytest
import torch

from watchword.errors import CapacityError, CheckpointError
from watchword.train import saves


def save(run, step, value=1.0):
    return saves.write_state(run, step, {"a": torch.full((3,), value)}, {"loss": value})


def test_a_checkpoint_comes_back(tmp_path):
    save(tmp_path, 7, 2.5)
    tensors, facts = saves.read_state(tmp_path, 7)
    assert tensors["a"].tolist() == [2.5] * 3
    assert (facts["step"], facts["loss"]) == (7, 2.5)
    save(tmp_path, 7, 3.5)
    assert saves.read_state(tmp_path, 7)[1]["loss"] == 3.5


def test_the_last_and_the_best_are_kept(tmp_path):
    for step in (1, 2, 3, 4, 5):
        save(tmp_path, step)
    saves.forget(tmp_path, keep=2, best=1)
    assert saves.steps_saved(tmp_path) == [1, 4, 5]


def test_what_is_half_written_does_not_count_and_goes(tmp_path):
    save(tmp_path, 1)
    half = tmp_path / "checkpoints" / ".step-0000002.partial"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"x")
    assert saves.steps_saved(tmp_path) == [1]
    saves.forget(tmp_path, keep=1, best=None)
    assert not half.exists()


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"step-0000001: no checkpoint of a run"):
        saves.read_state(tmp_path, 1)
    folder = save(tmp_path, 1)
    os.replace(folder, saves.place(tmp_path, 2))
    with pytest.raises(
        CheckpointError, match="form 'watchword run 1' and step 1; expected 'watchword run 1' and 2"
    ):
        saves.read_state(tmp_path, 2)


def limited(work, bytes_):
    """Run in a child process that may write files of so many bytes at most; its exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))
            work()
            code = 0
        except CapacityError as error:
            code = 6 if "cannot be written" in str(error) and "as it was" in str(error) else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_full_disk_leaves_earlier_checkpoints_whole(tmp_path):
    save(tmp_path, 1, 1.0)
    big = {"a": torch.zeros(100_000)}
    assert limited(lambda: saves.write_state(tmp_path, 2, big, {}), 50_000) == 6
    assert saves.steps_saved(tmp_path) == [1]
    assert saves.read_state(tmp_path, 1)[0]["a"].tolist() == [1.0] * 3
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-0000001"]
    assert limited(lambda: saves.write_state(tmp_path, 2, big, {}), 1_000_000) == 0
    assert saves.steps_saved(tmp_path) == [1, 2]
