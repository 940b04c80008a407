import json

from benchmarks import gpu
from watchword.bench import machine


def test_the_script_for_a_card_runs_in_a_tiny_form(monkeypatch, capsys):
    monkeypatch.setattr(machine, "READ", 2**16)
    monkeypatch.setattr(machine, "SIDE", 32)
    tiny = "--device cpu --layers 1 --width 128 --prompt 6 --tokens 3 --rows 2 --repeats 1 --warm-ups 0"
    gpu.main([*tiny.split(), "--sides", "ours", "fixed", "graph"])
    limits, ours, fixed, graph = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert limits["read_bytes_per_s"] > 0
    assert limits["bfloat16_flop_per_s"] > 0
    for side, name in ((ours, "ours"), (fixed, "fixed")):
        assert side["side"] == name
        assert side["prefill_s"] > 0
        assert side["share_of_matrix_rate"] > 0
    assert graph == {"side": "graph", "left_out": "CUDA graphs need a CUDA device"}


def test_a_step_reads_weights_once_and_its_own_keys_for_every_row():
    given = gpu.arguments(["--layers", "2", "--width", "128", "--prompt", "10", "--tokens", "4"])
    read, operations = gpu.work(given)
    weights = 2 * (4 * 128 * 128 + 3 * 128 * 344)
    assert read == 2 * (weights + 128 * 32000) + 2 * 2 * 2 * 128 * 12
    assert operations == 2 * weights * 10 + 2 * 2 * 2 * 128 * 100 / 2
    given.rows = 3
    assert gpu.work(given)[0] - read == 2 * (2 * 2 * 2 * 128 * 12)
