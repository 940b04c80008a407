"""Media as strangers would send them, made on the spot; what each must come to stands beside it.

The tests read them, and `scripts/security_table.py` writes docs/security.md from the same list.
"""

# ruff: noqa: E501  a case is one line of the table

import base64
import gzip
import io
import os
import struct
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from tests.media import clips
from tests.media.servers import Resolver, answer, serve
from watchword.media.policy import STRICT, Policy

HUGE = 65_535


@dataclass(frozen=True)
class Case:
    """One attempt: its group and title, what makes it, and the words with which it must be refused.

    `make(folder, stack)` gives what is handed in, and settings of the policy that the attempt needs.
    """

    group: str
    title: str
    make: Callable[[Path, ExitStack], tuple[object, dict[str, object]]]
    words: str
    bomb: bool = False


def policy_in(folder: Path, **more: object) -> Policy:
    """What a server would allow, within one folder; in this process, so that a crash shows."""
    return replace(STRICT, **{"folders": (str(folder),), "sandbox": False, "max_seconds": 10.0, **more})


def data(content: Callable[[], bytes] | bytes, **more: object) -> Callable:
    """Make a case of bytes."""
    return lambda folder, stack: (content() if callable(content) else content, more)


def named(name: str, content: bytes | Callable[[], bytes]) -> Callable:
    """Make a case of a file in the folder."""

    def make(folder, stack):
        path = folder / name
        path.write_bytes(content() if callable(content) else content)
        return path, {}

    return make


# Sizes that lie
# -------------------------------------------------------------------------------------------------


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *, bits: int = 8, body: bytes = b"", before: bytes = b"") -> bytes:
    """A grey PNG; its pixels are what `body` unpacks to."""
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + before + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def zeros(count: int) -> bytes:
    """That many zero bytes, packed."""
    packer, block, parts = zlib.compressobj(9), bytes(2**20), []
    for _ in range(count // len(block)):
        parts.append(packer.compress(block))
    return b"".join([*parts, packer.compress(bytes(count % len(block))), packer.flush()])


def gigapixels() -> bytes:
    """A picture of 2 gigapixels in some hundred kilobytes."""
    side = 44_722
    return png(side, side, bits=1, body=zeros(side * (side // 8 + 2)))


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(clips.picture(3)).save(file, kind)
    return file.getvalue()


def jpeg_that_says(width: int, height: int) -> bytes:
    content = bytearray(encoded("JPEG"))
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def gif_that_says(width: int, height: int) -> bytes:
    content = bytearray(encoded("GIF"))
    content[6:10] = struct.pack("<HH", width, height)
    return bytes(content)


def bmp_that_says(width: int, height: int) -> bytes:
    content = bytearray(encoded("BMP"))
    content[18:26] = struct.pack("<ii", width, height)
    return bytes(content)


def clip_of(suffix: str, codec: str, **options: str) -> bytes:
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"watchword-{os.getpid()}{suffix}"
    try:
        return clips.write(path, codec, 30, **options).read_bytes()
    finally:
        path.unlink(missing_ok=True)


def vp8_that_says(width: int, height: int) -> bytes:
    content = bytearray(clip_of(".webm", "libvpx", **{"cpu-used": "8"}))
    at = content.index(b"\x9d\x01\x2a") + 3
    content[at : at + 4] = struct.pack("<HH", width, height)
    return bytes(content)


def mp4_of_many_samples() -> bytes:
    content = bytearray(clip_of(".mp4", "libx264"))
    at = content.index(b"stsz") + 12
    content[at : at + 4] = struct.pack(">I", 2**31 - 1)
    return bytes(content)


def gif_of_many_frames(count: int) -> bytes:
    frame = b"\x21\xf9\x04\x00\x01\x00\x00\x00\x2c\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02\x44\x01\x00"
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\x00\x00\x00\xff\xff\xff"
    return head + frame * count + b";"


class Endless(io.RawIOBase):
    """A GIF whose frames never end."""

    def __init__(self) -> None:
        self.rest = gif_of_many_frames(1000)[:-1]
        self.frames = self.rest[19:]

    def read(self, size: int = -1) -> bytes:
        while len(self.rest) < size:
            self.rest += self.frames * 20
        part, self.rest = self.rest[:size], self.rest[size:]
        return part


# Files that name other files
# -------------------------------------------------------------------------------------------------

SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd" width="9" height="9"/></svg>'
M3U8 = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n%s\n#EXT-X-ENDLIST\n"
CONCAT = b"ffconcat version 1.0\nfile '/etc/passwd'\n"
DASH = b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>file:///etc/passwd</BaseURL></MPD>'
SDP = b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n"


def archive_in_archive() -> bytes:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("clip.mp4", bytes(10**6))
    outer = io.BytesIO()
    with tarfile.open(fileobj=outer, mode="w") as file:
        member = tarfile.TarInfo("clip.zip")
        member.size = len(inner.getvalue())
        file.addfile(member, io.BytesIO(inner.getvalue()))
    return gzip.compress(outer.getvalue())


def avi_with_playlist() -> bytes:
    """The trick of 2016: a playlist in the text of an AVI."""
    return b"RIFF\x00\x10\x00\x00AVI LIST" + M3U8 % b"file:///etc/passwd"


# Places
# -------------------------------------------------------------------------------------------------


def link_out(folder: Path, stack: ExitStack) -> tuple[object, dict[str, object]]:
    (folder.parent / "secret.png").write_bytes(encoded("PNG"))
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    return folder / "link.png", {}


def folder_link_out(folder: Path, stack: ExitStack) -> tuple[object, dict[str, object]]:
    (folder / "up").symlink_to(folder.parent)
    (folder.parent / "secret.png").write_bytes(encoded("PNG"))
    return folder / "up" / "secret.png", {}


def picture_link_in_folder(folder: Path, stack: ExitStack) -> tuple[object, dict[str, object]]:
    (folder / "frames").mkdir()
    (folder.parent / "secret.png").write_bytes(encoded("PNG"))
    (folder / "frames" / "1.png").symlink_to(folder.parent / "secret.png")
    return folder / "frames", {}


def dots(folder: Path, stack: ExitStack) -> tuple[object, dict[str, object]]:
    (folder.parent / "secret.png").write_bytes(encoded("PNG"))
    return f"{folder}/../secret.png", {}


def pipe(folder: Path, stack: ExitStack) -> tuple[object, dict[str, object]]:
    os.mkfifo(folder / "pipe.mp4")
    return folder / "pipe.mp4", {}


def at(path: str, **more: object) -> Callable:
    return lambda folder, stack: (path, more)


# The network
# -------------------------------------------------------------------------------------------------


def web(respond: Callable, address: str = "http://media.test:{port}/", **names: object) -> Callable:
    """A case of an address; the server is on this machine, and so is the resolver."""

    def make(folder, stack):
        port = stack.enter_context(serve(respond))
        allowed = {
            "hosts": (f"media.test:{port}", f"inside.test:{port}"), "schemes": ("http", "https"),
            "networks": ("127.0.0.1/32",), "fetch_seconds": 0.5,
            "resolve": Resolver(**{"media_test": "127.0.0.1", "inside_test": "10.0.0.1", **names}),
        }  # fmt: skip
        return address.format(port=port), allowed

    return make


def moved(to: str) -> Callable:
    return lambda line, request: line.sendall(answer(b"", "302 Found", Location=to))


def drip(line, request) -> None:
    line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    for _ in range(100):
        time.sleep(0.05)
        line.sendall(b"x")


def rebinds(folder: Path, stack: ExitStack) -> tuple[object, dict[str, object]]:
    """The second answer of the resolver points inside; it is asked again only for a redirect."""
    make = web(moved("/again"), media_test=["127.0.0.1", "169.254.169.254"])
    return make(folder, stack)


NEITHER = "neither a picture"
TEXT = png(8, 8, body=zeros(72), before=chunk(b"zTXt", b"Comment\0\0" + zeros(200 * 2**20)))

CASES = (
    Case("sizes", "PNG header of 65,535 x 65,535", data(png(HUGE, HUGE)), "too large", True),
    Case("sizes", "JPEG header of 65,535 x 65,535", data(lambda: jpeg_that_says(HUGE, HUGE)), "too large", True),
    Case("sizes", "GIF header of 65,535 x 65,535", data(lambda: gif_that_says(HUGE, HUGE)), "too large", True),
    Case("sizes", "BMP header of 65,535 x 65,535", data(lambda: bmp_that_says(HUGE, HUGE)), "too large", True),
    Case(
        "sizes", "VP8 frame of 12,000 x 12,000", data(lambda: vp8_that_says(12_000, 12_000)),
        "12000x12000 is 144,000,000 pixels", True,
    ),
    Case(
        "sizes", "raw video header of 65,535 x 65,535",
        data(b"YUV4MPEG2 W65535 H65535 F25:1 Ip C420\nFRAME\n" + bytes(999)), NEITHER, True,
    ),
    Case("sizes", "2 gigapixels in a small PNG", data(gigapixels), "too large", True),
    Case("sizes", "200 MiB of text packed into a PNG", data(TEXT), "damaged picture", True),
    Case("sizes", "MP4 index that lists 2,147,483,647 frames", data(mp4_of_many_samples), NEITHER, True),
    Case(
        "sizes", "GIF of 1,000,000 tiny frames", data(lambda: gif_of_many_frames(10**6), max_packets=100_000),
        "more than 100,000 packets", True,
    ),
    Case(
        "sizes", "GIF that never ends", lambda folder, stack: (Endless(), {"max_bytes": 8 * 2**20}),
        "at most 8,388,608 are opened", True,
    ),
    Case("sizes", "long data URL", data(lambda: "data:image/png;base64," + "A" * (17 * 2**20)), "characters, at most"),
    Case("other files", "HLS playlist of a local file", data(M3U8 % b"/etc/passwd"), NEITHER),
    Case("other files", "HLS playlist of an address", named("list.mp4", M3U8 % b"http://127.0.0.1/"), NEITHER),
    Case("other files", "playlist inside an AVI", named("clip.avi", avi_with_playlist()), "no moving picture in it"),
    Case("other files", "concat script", named("clip.mp4", CONCAT), NEITHER),
    Case("other files", "DASH manifest", data(DASH), NEITHER),
    Case("other files", "SDP session", data(SDP), NEITHER),
    Case("other files", "SVG that embeds a file", named("x.png", SVG), NEITHER),
    Case("other files", "PostScript", named("x.jpg", EPS), NEITHER),
    Case("other files", "SVG as a data URL", data("data:image/svg+xml;base64," + base64.b64encode(SVG).decode()), NEITHER),
    Case("other files", "archive in an archive", data(archive_in_archive), NEITHER),
    Case("places", "link out of the folder", link_out, "outside the folders allowed"),
    Case("places", "linked folder out of the folder", folder_link_out, "outside the folders allowed"),
    Case("places", "link among numbered pictures", picture_link_in_folder, "outside the folders allowed"),
    Case("places", "`..` out of the folder", dots, "outside the folders allowed"),
    Case("places", "/etc/passwd", at("/etc/passwd"), "outside the folders allowed"),
    Case("places", "pipe", pipe, "not an ordinary file"),
    Case("places", "device", at("/dev/zero", folders=None), "not an ordinary file"),
    Case("places", "/proc/self/environ", at("/proc/self/environ", folders=None), r"empty \(0 bytes\)"),
    Case("places", "name with a line break", named("a\n[info] ok.mp4", b"no video" * 99), r"\\n\[info\].*neither"),
    Case("places", "name with a zero byte", at("a\0b"), "cannot be read"),
    Case("places", "`concat:` address", at("concat:/etc/passwd|/etc/hosts"), "outside the folders allowed"),
    Case("places", "`file://` address", at("file:///etc/passwd"), "an address; only local files"),
    Case("places", "`rtsp://` address", at("rtsp://127.0.0.1/x"), "an address; only local files"),
    Case("network", "redirect to 127.0.0.1", web(moved("http://127.0.0.1/")), "not one of the hosts"),
    Case("network", "redirect to 169.254.169.254", web(moved("http://169.254.169.254/")), "not one of the hosts"),
    Case("network", "redirect to a file", web(moved("file:///etc/passwd")), "the scheme 'file'"),
    Case("network", "redirects without end", web(moved("/")), "more than 3 redirects"),
    Case("network", "a host with a private address", web(drip, "http://inside.test:{port}/"), "its address is private"),
    Case("network", "DNS that changes its answer", rebinds, "its address is link-local"),
    Case("network", "slow drip", web(drip), "not all had come after 0.5 s"),
)  # fmt: skip


# Mutations
# -------------------------------------------------------------------------------------------------


def seeds() -> dict[str, bytes]:
    """Small whole files, one of each kind that is read."""
    moving = io.BytesIO()
    first, *rest = [Image.fromarray(clips.picture(n)) for n in range(4)]
    first.save(moving, "WEBP", save_all=True, append_images=rest, duration=100)
    return {
        "clip.mp4": clip_of(".mp4", "libx264"), "clip.mkv": clip_of(".mkv", "libx264"),
        "clip.webm": clip_of(".webm", "libvpx-vp9", **{"cpu-used": "8"}), "clip.avi": clip_of(".avi", "mpeg4"),
        "clip.ts": clip_of(".ts", "mpeg2video"), "clip.gif": clip_of(".gif", "gif"),
        "moving.webp": moving.getvalue(),
        **{f"picture.{kind.lower()}": encoded(kind) for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")},
    }  # fmt: skip


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Flip some bytes, most of them near the start where the structure is."""
    result = bytearray(content)
    reach = len(result) if rng.random() < 0.5 else min(len(result), 600)
    for _ in range(int(rng.integers(1, 9))):
        result[int(rng.integers(reach))] = int(rng.integers(256))
    return bytes(result)
