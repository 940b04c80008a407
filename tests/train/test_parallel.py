"""Two processes learn what one learns: copies of a model (DDP), and a model spread over both (FSDP2)."""

import csv
import os
import socket
import subprocess
import sys

import pytest

from tests import folders
from tests.train import material
from tests.train.team import SETTINGS
from watchword import train
from watchword.errors import RequestError
from watchword.train.options import Options
from watchword.train.parallel import Team
from watchword.weights import files


def start(world, *arguments):
    """Processes as `torchrun` starts them; all that they said when all have ended well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.train.team", *map(str, arguments)],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    said = [one.communicate(timeout=300)[1] for one in running]
    assert [one.returncode for one in running] == [0] * world, "\n".join(said)


def losses(folder):
    with (folder / "losses.csv").open(newline="") as file:
        return [
            [float(line[name]) for name in ("loss", "norm", "held_out") if line[name]]
            for line in csv.DictReader(file)
        ]


def weights(folder):
    """What the run wrote: a model, or an adapter."""
    shards = (
        [files.Shard(folder / "adapter" / "adapter_model.safetensors")]
        if (folder / "adapter").exists()
        else files.open_weights(folder / "model").shards()
    )
    return {name: shard.read(name).clone() for shard in shards for name in shard.names}


@pytest.mark.parametrize(
    ("recipe", "shard"),
    [
        ("full", "copies"),
        pytest.param("language", "shard", marks=pytest.mark.slow),
        pytest.param("lora", "shard", marks=pytest.mark.slow),
    ],
)
def test_two_processes_learn_what_one_learns(tmp_path, recipe, shard):
    model = folders.video_llava(tmp_path / "checkpoint")
    data = material.jsonl(
        tmp_path / "d.jsonl", material.lines(tmp_path, 4) + material.lines(tmp_path, 4, kind="video")
    )
    train.run(data, model=model, out=tmp_path / "one", recipe=recipe, **SETTINGS)
    start(2, data, model, tmp_path / "two", recipe, shard)
    alone, together = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(alone) == 3
    for first, second in zip(alone, together, strict=True):
        assert first == pytest.approx(second, rel=2e-5)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, value in one.items():
        if not name.endswith(
            "k_proj.bias"
        ):  # softmax cancels it: its gradient is rounding, AdamW's step its sign
            assert (value - two[name]).abs().median() < 1e-5, name


def test_a_step_is_divided_evenly(tmp_path):
    from watchword.train.opening import open_model
    from watchword.train.plan import plan

    opened = open_model(folders.video_llava(tmp_path / "checkpoint"), device="cpu", dtype="auto")
    data = material.jsonl(tmp_path / "d.jsonl", material.lines(tmp_path, 2))

    class Three(Team):
        def shared(self, value):
            return value

    with pytest.raises(RequestError, match="batch=16: cannot be divided by 3 processes; expected a multiple"):
        plan([data], opened, Options(), tmp_path, team=Three(0, 3), resume=False, tell=print)
