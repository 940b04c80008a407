"""What may be opened."""

import base64
import io
import os

import pytest

from watchword.errors import MediaError
from watchword.media import gate
from watchword.media.gate import Policy, admit
from watchword.media.policy import STRICT


@pytest.mark.parametrize(
    "address",
    ["http://example.org/clip.mp4?key=1", "https://me:secret@example.org/a", "rtsp://example.org/x"],
)
def test_addresses_are_refused_without_repeating_their_secrets(address):
    with pytest.raises(MediaError, match=r"^\w+://example.org: an address; only local files are opened"):
        admit(address)


def test_local_files_may_lie_anywhere_unless_folders_are_named(tmp_path):
    inside, outside = tmp_path / "in" / "a.bin", tmp_path / "inner.bin"
    inside.parent.mkdir()
    for file in (inside, outside):
        file.write_bytes(b"x")
    link = inside.parent / "link.bin"
    link.symlink_to(outside)
    policy = Policy(folders=(str(inside.parent),))
    assert admit(outside).path == os.path.realpath(outside)
    assert admit(inside, policy).rewind().read() == b"x"
    for path in (outside, link, inside.parent / ".." / "inner.bin"):
        with pytest.raises(MediaError, match="outside the folders allowed"):
            admit(path, policy)


def test_size_is_limited(tmp_path):
    file = tmp_path / "large.bin"
    file.write_bytes(bytes(100))
    for source in (file, bytes(100), io.BytesIO(bytes(100))):
        with pytest.raises(MediaError, match="100 bytes, at most 99 are opened"):
            admit(source, Policy(max_bytes=99))


class OsPath:
    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return self.path


def test_strangers_reach_no_file_and_no_standard_input(tmp_path, monkeypatch):
    file = tmp_path / "a.bin"
    file.write_bytes(b"x")
    with pytest.raises(
        MediaError, match=r"a.bin: outside what may be read; move it there, or give its bytes"
    ):
        admit(file, STRICT)
    with pytest.raises(MediaError, match="-: outside what may be read"):
        admit("-", STRICT)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"abc")))
    media = admit("-")
    assert media.rewind().read() == b"abc"
    assert admit(media) is media


def test_a_file_is_read_as_it_was_checked_when_a_link_takes_its_place(tmp_path):
    good, secret = tmp_path / "in" / "a.bin", tmp_path / "secret"
    good.parent.mkdir()
    good.write_bytes(b"good")
    secret.write_bytes(b"secret")
    media = admit(good, Policy(folders=(str(good.parent),)))
    good.unlink()
    good.symlink_to(secret)
    assert media.rewind().read() == b"good"


def test_a_file_that_moves_while_it_is_opened_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "a.bin"
    file.write_bytes(b"x")
    monkeypatch.setattr(gate, "_moved", lambda descriptor, path: True)
    with pytest.raises(MediaError, match=r"a.bin: was moved while it was opened; try again"):
        admit(file, Policy(folders=(str(tmp_path),)))


def test_data_addresses_are_capped_before_they_are_decoded():
    address = "data:video/mp4;base64," + base64.b64encode(b"abc").decode()
    assert admit(address).rewind().read() == b"abc"
    with pytest.raises(MediaError, match=r"^data:video/mp4;base64\.\.\.: 26 characters, at most 25 are read"):
        admit(address, Policy(max_data_url=25))


def test_streams_are_copied_up_to_the_cap():
    class Endless:
        def read(self, size):
            return bytes(size)

    with pytest.raises(MediaError, match=r"file object: [\d,]+ bytes, at most 1,000,000 are opened"):
        admit(Endless(), Policy(max_bytes=1_000_000))


def test_folders_outside_are_not_listed(tmp_path):
    with pytest.raises(MediaError, match="outside the folders allowed"):
        gate.admit_folder(str(tmp_path), Policy(folders=(str(tmp_path / "in"),)))


def test_odd_sources_are_refused(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    cases = {
        str(pipe): "pipe: not an ordinary file",
        str(tmp_path): "a folder, where a picture or video file was expected",
        str(tmp_path / "no.mp4"): "no.mp4: no such file; check the path",
        "x" * 5000: r"^'x{200}': cannot be read \(File name too long\); check the path",
        "a\0b": r"cannot be read \(.*null byte.*\); check the path",
        "/tmp/x\ny.mp4": r"^'/tmp/x\\ny.mp4': no such file",
        "data:image/png;base64,iVBORw0": r"^data:image/png;base64\.\.\.: broken base64 \(Incorrect padding\)",
        "data:image/png,abc": r"^data:image/png\.\.\.: not written in base64; expected data:",
        "data:image/png;base64": r"^data:image/png;base64\.\.\.: not written in base64",
        "data:image/png;base64,": r"^data:image/png;base64\.\.\.: empty \(0 bytes\)",
    }
    for source, message in cases.items():
        with pytest.raises(MediaError, match=message):
            admit(source)
    with pytest.raises(MediaError, match="file object: reads as text"):
        admit(io.StringIO("text"))
    with pytest.raises(MediaError, match=r"^b'x.mp4': a path in bytes; give it as text"):
        admit(OsPath(b"x.mp4"))
    with pytest.raises(MediaError, match="dict is nothing to open"):
        admit({})


def test_admitted_source_can_be_read_more_than_once():
    media = admit(io.BytesIO(b"abc"))
    assert [media.rewind().read(), media.rewind().read()] == [b"abc", b"abc"]
