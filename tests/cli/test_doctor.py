import importlib.metadata
import json

import av
import pytest
import torch

import watchword
from tests.cli.test_commands import run
from watchword.cli import doctor
from watchword.media import abilities


@pytest.fixture(scope="module")
def found():
    """What the command finds here."""
    return {name: doctor.looked(part) for name, part in doctor.PARTS.items()}


def test_doctor_looks_at_every_part_and_none_fails(found):
    assert list(found) == ["versions", "processor", "devices", "operators", "sandbox", "codecs", "extras"]
    for name, rows in found.items():
        assert rows, name
        assert "not known" not in rows, rows
        assert all(isinstance(value, str | int | bool) for value in rows.values())


def test_doctor_tells_versions_and_threads(found):
    assert found["versions"]["watchword"] == watchword.__version__
    assert found["versions"]["torch"] == importlib.metadata.version("torch")
    assert found["versions"]["PyAV"] == av.__version__
    assert found["processor"]["threads"].split()[0] == str(torch.get_num_threads())
    assert found["processor"]["instructions"] == torch.backends.cpu.get_cpu_capability()


def test_doctor_says_which_walls_stand(monkeypatch):
    answers = {"file": "worked", "network": "Operation not permitted", "program": "Operation not permitted"}
    walls = {"namespace": True, "seccomp": False, "limits": True}
    monkeypatch.setattr("watchword.media.sandbox.walls", lambda: {**answers, "walls": walls})
    assert dict(doctor.sandbox()) == {
        "namespace without network": True, "filter of system calls": False, "limits of memory and time": True,
        "opening a file": "possible", "connecting": "refused (Operation not permitted)",
        "starting a process": "refused (Operation not permitted)",
    }  # fmt: skip


def test_doctor_names_codecs_and_formats_that_are_missing(found, monkeypatch):
    assert "h264" in found["codecs"]["video"].split(", ")
    assert "PNG" in found["codecs"]["pictures"].split(", ")
    monkeypatch.setattr(abilities, "decoders", lambda: {"h264": True, "av1": False})
    assert dict(doctor.codecs())["video missing"] == "av1"
    assert abilities._can_read("h264")
    assert not abilities._can_read("no such codec")
    assert not abilities._has("no such library")


def test_doctor_names_what_extras_lack(monkeypatch):
    lines = [
        "torch>=2.5",
        "av>=1; extra == 'seen'",
        "no-such-package[x]>=2; extra == 'lost'",
        "av; extra == 'lost'",
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    assert dict(doctor.extras()) == {
        "seen": True,
        "lost": "no: no-such-package missing; pip install 'watchword[lost]'",
    }


def test_a_part_that_fails_hides_no_other(capsys, monkeypatch):
    def broken():
        raise OSError("libtorch.so is gone")

    rows = {"one": lambda: [("a", True), ("longer", 3)], "two": broken, "three": lambda: [("b", "text")]}
    monkeypatch.setattr(doctor, "PARTS", rows)
    code, out, err = run(capsys, "doctor")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "one", "  a       yes", "  longer  3", "two", "  not known  OSError: libtorch.so is gone", "three",
        "  b  text",
    ]  # fmt: skip
    code, out, _ = run(capsys, "doctor", "--json")
    assert json.loads(out)["two"] == {"not known": "OSError: libtorch.so is gone"}
    assert json.loads(out)["one"] == {"a": True, "longer": 3}
