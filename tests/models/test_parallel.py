import json
import os
import subprocess
import sys

import pytest
import torch

import watchword
from tests import folders
from tests.cli.test_commands import run
from tests.models import ranks
from watchword.config import LlamaConfig, OPTConfig, T5Config
from watchword.errors import ConfigError
from watchword.models import parallel
from watchword.models.language import language_model
from watchword.models.parallel import COLUMNS, GATHERED, ROWS
from watchword.nn import dense

TORCHRUN = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.fixture
def made(tmp_path):
    """A Video-LLaVA with an odd vocabulary, and InstructBLIPs over the other text models."""
    paths = [tmp_path / name for name in ("llava", "opt", "t5")]
    folders.video_llava(paths[0])
    folders.instructblip(paths[1], text="opt")
    folders.instructblip(paths[2], text="t5")
    return paths


def test_two_ranks_answer_as_one_process(made):
    runs = ranks.start(["-m", "tests.models.ranks", *made])
    assert [run[2] for run in runs] == [0, 0], runs
    first, second = (json.loads(run[0].splitlines()[-1]) for run in runs)
    assert first == second == ranks.answers(made)


@pytest.mark.slow
def test_torchrun_prints_an_answer_once(made, tmp_path):
    picture = tmp_path / "black.ppm"
    picture.write_bytes(b"P6 30 30 255\n" + bytes(2700))
    command = ["-m", "watchword", "ask", picture, "What is it?", "--model", made[0], "--max-new-tokens", "5"]
    alone, both = (
        subprocess.run([sys.executable, *starter, *map(str, command)], capture_output=True, text=True)
        for starter in ([], ["-m", "torch.distributed.run", "--nproc-per-node=2"])
    )
    assert (alone.returncode, both.returncode) == (0, 0), both.stderr
    assert both.stdout == alone.stdout != ""
    assert both.stderr.count("answers (video_llava") == 1


def text(config):
    with torch.device("meta"):
        return language_model(config)


def test_every_linear_of_a_decoder_is_split_and_nothing_else():
    small = dict(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=4)
    for config in (
        LlamaConfig(**small, intermediate_size=40),
        OPTConfig(**small, ffn_dim=40, word_embed_proj_dim=32, tie_word_embeddings=False),
        T5Config(vocab_size=50, d_model=32, d_kv=6, d_ff=40, num_layers=1, num_heads=4,
                 tie_word_embeddings=False, feed_forward_proj="gated-gelu"),
    ):  # fmt: skip
        model = text(config)
        found = {name: how for name, _, how in parallel.split_modules(model)}
        linears = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
        assert {name for name in found if "relative" not in name} == linears
        assert set(found.values()) == {COLUMNS, ROWS, GATHERED}


def test_a_tied_head_stays_whole():
    model = text(LlamaConfig(vocab_size=50, hidden_size=32, num_attention_heads=4, tie_word_embeddings=True))
    assert "lm_head" not in [name for name, _, _ in parallel.split_modules(model)]


@pytest.mark.parametrize(
    ("fields", "count", "message"),
    [
        ({}, 3, r"self_attn has 4 attention heads for 3 ranks; .* start fewer ranks: 1, 2, 4"),
        ({}, 4, r"self_attn has 2 key/value heads for 4 ranks; .* start fewer ranks: 1, 2"),
        ({"num_key_value_heads": 4, "intermediate_size": 42}, 4,
         r"mlp.down_proj is 42 wide inside for 4 ranks; .* start fewer ranks: 1, 2, 3, 6, 7"),
    ],
)  # fmt: skip
def test_ranks_that_do_not_divide_the_model_are_refused(fields, count, message):
    config = {"num_key_value_heads": 2, "intermediate_size": 40} | fields
    model = text(LlamaConfig(vocab_size=50, hidden_size=32, num_attention_heads=4, **config))
    with pytest.raises(ConfigError, match=message):
        parallel.check(model, count)


def test_a_text_model_without_a_plan_is_refused():
    model = text(LlamaConfig(vocab_size=50, hidden_size=32, num_attention_heads=4))
    model.config.model_type = "gpt"
    with pytest.raises(ConfigError, match="no plan for 'gpt'; there are plans for llama, mistral, opt, t5"):
        parallel.check(model, 2)


def test_parallel_needs_the_environment_of_torchrun(made, monkeypatch):
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        ConfigError, match=r"RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT not set; .* start with `torchrun"
    ):
        watchword.load(made[0], parallel="tensor")
    monkeypatch.setenv("RANK", "1")
    assert parallel.rank() == 1


def test_ranks_multiply_as_the_first_one_does(monkeypatch):
    monkeypatch.setattr(dense, "_agreed", [])
    monkeypatch.setattr(dense, "pays", lambda: True)
    assert dense.turns()
    dense.agree(False)
    assert not dense.turns()


def test_parallel_and_a_quantized_folder_are_refused(made, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "small"
    assert run(capsys, "quantize", made[0], folder, "--to", "int8")[0] == 0
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(parallel, "join", lambda device: None)
    monkeypatch.setattr(parallel, "split", lambda text, mesh: None)
    message = (
        "a folder quantized to int8 on several ranks: not implemented; .* the folder that it was made from"
    )
    with pytest.raises(ConfigError, match=message):
        watchword.load(folder, parallel="tensor", device="cpu")


@pytest.mark.parametrize("command", ["rank", "explain", "chat"])
def test_commands_that_do_not_share_a_model_refuse_several_processes(capsys, monkeypatch, tmp_path, command):
    monkeypatch.setenv("WORLD_SIZE", "2")
    picture = tmp_path / "black.ppm"
    picture.write_bytes(b"P6 30 30 255\n" + bytes(2700))
    words = {"rank": ["What?", "a", "b"], "explain": ["What?", "--output", tmp_path / "why.png"], "chat": []}[
        command
    ]
    code, _, err = run(capsys, command, picture, *words)
    assert code == 4
    assert "torchrun started 2 processes; expected that of `ask` and `train` alone" in err


def test_parallel_of_another_kind_or_with_a_map_is_refused(made):
    with pytest.raises(ConfigError, match="parallel 'pipeline': not implemented; expected 'tensor'"):
        watchword.load(made[0], parallel="pipeline")
    with pytest.raises(ConfigError, match="parallel='tensor' and device_map: both say where"):
        watchword.load(made[0], parallel="tensor", device_map="auto")


def test_each_rank_takes_a_card_of_its_own(monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(parallel, "chosen_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setitem(os.environ, "LOCAL_RANK", "1")
    assert parallel.rank_device("cuda") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="device 'cuda:0'; each rank takes a card of its own"):
        parallel.rank_device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(
        ConfigError, match=r"rank 2 of this machine, which has 2 cards; .* --nproc-per-node 2"
    ):
        parallel.rank_device("cuda")
    assert parallel.rank_device("cpu") == torch.device("cpu")
