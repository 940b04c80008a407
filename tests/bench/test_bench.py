import json
import subprocess
from importlib.util import find_spec

import pytest

import watchword
from tests import folders
from tests.cli.test_commands import run
from watchword.bench import comparing, machine, ours, peer, plan, table
from watchword.errors import CapacityError, CheckpointError, RequestError
from watchword.nn import memory


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    return folders.video_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Limits measured on little: figures are not what these tests are about."""
    monkeypatch.setattr(machine, "READ", 2**16)
    monkeypatch.setattr(machine, "SIDE", 64)


def test_bench_tells_every_figure_with_its_share(capsys, llava):
    code, out, _ = run(
        capsys, "bench", llava, "--frames", 3, "--tokens", 4, "--repeats", 2, "--device", "cpu"
    )
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("watchword float32, ")
    names = ("load", "first token", "tokens", "frames", "peak memory")
    assert [line.split("  ")[1] for line in lines[1:]] == list(names)
    assert "GB/s" in lines[1]
    assert "GFLOP/s (float32)" in lines[2]


def test_bench_prints_json_of_all_it_measured(capsys, llava):
    _, out, _ = run(capsys, "bench", llava, "--beams", 2, "--tokens", 3, "--repeats", 1, "--json")
    found = json.loads(out)
    assert found["work"]["beams"] == 2
    assert found["work"]["frames"] == 8
    side = found["sides"][0]
    assert side["positions"] > 40
    assert side["first_token"] > 0 < side["step"]
    assert set(side["shares"]) >= {"load", "first token", "steps", "frames"}
    assert found["limits"]["matrix_type"] == "float32"
    assert (found["model"], found["device"], found["watchword"]) == (
        str(llava), "cpu", watchword.__version__
    )  # fmt: skip
    assert set(found["units"]) < set(side)


def test_bench_measures_packed_formats(capsys, llava):
    _, out, _ = run(capsys, "bench", llava, "--quantize", "int8", "--tokens", 2, "--repeats", 1, "--json")
    found = json.loads(out)
    assert (found["format"], found["limits"]["matrix_type"]) == ("int8", "int8")


def test_bench_forgets_between_questions(llava):
    pipeline = watchword.load(llava, device="cpu")
    work = ours.Work(2, tokens=2)
    media = ours.random_media(2, 28)
    for _ in range(2):
        assert ours.asked(pipeline, media, work).tokens["reused"] == 0


def test_bench_refuses_answers_that_have_no_room(llava):
    pipeline = watchword.load(llava, device="cpu")
    with pytest.raises(
        CapacityError, match=r"bench: .* gave \d+ tokens, expected 299 behind a prompt of \d+"
    ):
        ours.asked(pipeline, ours.random_media(2, 28), ours.Work(2, tokens=299))


def test_bench_shows_as_many_frames_as_it_says(llava):
    pipeline = watchword.load(llava, device="cpu")
    few, many = (ours.asked(pipeline, ours.random_media(n, 28), ours.Work(n, tokens=2)) for n in (8, 16))
    assert many.tokens["visual"] == 2 * few.tokens["visual"] == 16 * 5


def test_bench_refuses_a_peer_for_a_quantized_folder(capsys, llava, tmp_path, monkeypatch):
    monkeypatch.setattr(peer, "check_installed", lambda: None)
    assert run(capsys, "quantize", llava, tmp_path / "small", "--to", "int8")[0] == 0
    code, out, err = run(capsys, "bench", tmp_path / "small", "--against", "transformers")
    assert (code, out) == (5, "")
    assert (
        "is quantized (int8), which transformers does not read; give the dense folder and --quantize" in err
    )


def test_bench_refuses_a_peer_with_another_prompt(llava, monkeypatch):
    monkeypatch.setattr(peer, "check_installed", lambda: None)
    monkeypatch.setattr(ours, "peer_task", lambda *args, **how: {"ids": [1, 2, 3]})
    with pytest.raises(RequestError, match=r"our prompt has \d+ positions and that of transformers 3"):
        comparing.compare(str(llava), ours.Work(2, tokens=2, repeats=1), against="transformers", device="cpu")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--against", "lavis"], 5, "bench: --against 'lavis': unknown; expected one of transformers"),
        (["--quantize", "int3"], 4, "ConfigError: quantize 'int3': unknown format"),
        (["--tokens", "1"], 2, "--tokens"),
        (["--threads", "0"], 2, "--threads"),
    ],
)
def test_bench_refuses_what_it_can_not_do(capsys, llava, arguments, code, message):
    found, out, err = run(capsys, "bench", llava, *arguments)
    assert (found, out) == (code, "")
    assert message in err


def test_bench_names_the_extra_that_a_peer_needs(capsys, llava, monkeypatch):
    monkeypatch.setattr(peer, "find_spec", lambda name: None)
    code, _, err = run(capsys, "bench", llava, "--against", "transformers")
    assert code == 4
    assert "the package is not installed; pip install 'watchword[parity]'" in err


def test_bench_passes_on_why_a_peer_failed(monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\nOSError: no such thing\n")
    monkeypatch.setattr(peer, "check_installed", lambda: None)
    monkeypatch.setattr(peer.subprocess, "run", lambda *args, **rest: failed)
    message = "transformers failed with gone: OSError: no such thing; expected a folder that it can load"
    with pytest.raises(CheckpointError, match=message):
        peer.measure_peer({"folder": "gone"})


@pytest.mark.skipif(find_spec("transformers") is None, reason="needs the extra 'parity'")
@pytest.mark.parametrize(
    "make", [folders.video_llava, pytest.param(folders.instructblip, marks=pytest.mark.slow)]
)
def test_bench_measures_the_peer_at_the_same_prompt(tmp_path, make):
    folder = make(tmp_path)
    frames = None if make is folders.instructblip else 2
    work = ours.Work(frames, tokens=3, repeats=1)
    found = comparing.compare(str(folder), work, against="transformers", device="cpu")
    mine, theirs = found.sides
    assert theirs.name.startswith("transformers 4.")
    assert mine.positions == theirs.positions
    assert theirs.first_token > 0 < theirs.step
    assert len(found.ratios()) == 1


def test_limits_are_measured_for_every_type():
    for form in ("float32", "bfloat16", "int8"):
        assert machine.matrix_rate(form, rows=32) > 0
    assert machine.read_rate() > 0
    assert machine.peak_bytes() > 2**20


def test_shares_are_what_they_say():
    row = table.Row("tokens", 12.345, "per s", 0.5, "of 40.0 GB/s")
    assert row.told() == ("tokens", "12.35 per s", "50% of 40.0 GB/s")
    assert table.Row("peak memory", 2**31, "bytes").told() == ("peak memory", "2.0 GiB", "")


def test_what_was_mapped_has_no_share(llava):
    made = plan.plan(llava)
    found = ours.Measured("mapped", 50, load=1e-9, first_token=1.0, step=1.0, vision=1.0, peak=1)
    told = {
        row.what: row for row in table.rows(found, ours.Work(2), made, table.Limits(1e9, 1e12, "float32"))
    }
    assert told["load"].told()[2] == "mapped: read when first used"
    assert told["peak memory"].told()[2].endswith("of weights, not all were read")
    assert told["load"].share is told["peak memory"].share is None


def test_a_slower_side_is_called_slower():
    assert [table.faster(ratio) for ratio in (2.0, 0.5)] == ["2.00 x quicker", "2.00 x slower"]


def test_fit_shows_a_table_and_a_verdict(capsys, llava):
    code, out, err = run(capsys, "fit", llava, "--quantize", "int8", "--positions", 50, "--rows", 2)
    assert code == 0
    assert "language_model" in out
    assert "together, about" in out
    assert "int8, 50 positions, 2 rows: it fits: " in err


def test_fit_leaves_with_1_when_it_does_not_fit(capsys, llava, monkeypatch):
    monkeypatch.setattr(memory, "memory", lambda device: memory.Memory(2**20, "the machine's free memory"))
    code, out, err = run(capsys, "fit", llava, "--json")
    found = json.loads(out)
    assert (code, found["fits"], found["available"]) == (1, False, 2**20)
    assert found["needed"] == sum(found["parts"].values())
    assert "it does not fit: the machine's free memory is 1.0 MiB" in err
    monkeypatch.setattr(memory, "memory", lambda device: memory.Memory(None, "this system"))
    code, _, err = run(capsys, "fit", llava)
    assert code == 0
    assert "nobody knows whether it fits: this system does not say what it has" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["gone"], 4, "CheckpointError: gone: no such folder"),
        (["MODEL", "--quantize", "int3"], 4, "ConfigError: quantize 'int3': unknown format"),
        (["MODEL", "--positions", "0"], 2, "--positions"),
        (["MODEL", "--device", "abacus"], 4, "ConfigError: device 'abacus'"),
    ],
)
def test_fit_refuses_bad_input(capsys, llava, arguments, code, message):
    found, _, err = run(capsys, "fit", *(llava if one == "MODEL" else one for one in arguments))
    assert found == code
    assert message in err
