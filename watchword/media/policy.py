"""What may be opened and what it may cost, in one value that every door hands on."""

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from watchword.errors import MediaError
from watchword.media.address import Network, system_resolve
from watchword.media.budget import Budget

__all__ = ["CODECS", "OPEN", "PICTURES", "STRICT", "VIDEOS", "Policy"]

PICTURES = ("AVIF", "BMP", "GIF", "JPEG", "MPO", "PNG", "PPM", "TIFF", "WEBP")
# Demuxer names of FFmpeg. Playlists and scripts (hls, dash, concat, tty, ...) are left out on purpose: they
# open other files or draw text. The sound-only ones are here so that the message can say what the file is.
VIDEOS = (
    "mov", "matroska", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "asf", "ogg", "gif", "apng", "mxf", "nut",
    "ivf", "h264", "hevc", "m4v", "yuv4mpegpipe", "wav", "mp3", "flac", "aac",
)  # fmt: skip
# What cameras, phones and the web write. For strangers' files; FFmpeg knows some hundred more.
CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2video", "mjpeg", "gif", "apng", "png")


@dataclass(frozen=True)
class Policy:
    """What may be opened. The default, `OPEN`, is for one's own files; `STRICT` for those of strangers.

    Attributes:
        folders: local files must lie inside one of these, links resolved; None allows every folder, and
            standard input; () allows none.
        hosts: names from which addresses are fetched: `media.example.org`, `*.example.org`, with `:port` for
            any but the usual one. None are fetched from when empty.
        schemes: https, and http where it is named.
        networks: addresses that are not public but may be connected to nonetheless, such as `10.2.0.0/16`.
        max_redirects: how often an answer may point elsewhere; each place is checked like the first.
        fetch_seconds: the most seconds until all has come from an address.
        max_data_url: the most characters of a `data:` address.
        max_bytes: the largest file, byte string, stream or download.
        max_pixels: the most pixels of a picture or of one video frame, read from its header before anything
            is decoded. The default is where Pillow itself refuses (twice its warning limit).
        max_frames: the most frames kept of one clip.
        max_memory: the most bytes that the frames kept of one clip may take.
        max_packets: the most packets read and decoded of one clip, together.
        max_seconds: the most seconds spent on reading one clip; None for no limit.
        pictures: picture formats that are tried, by Pillow's names.
        videos: container formats that are tried, by FFmpeg's names.
        codecs: kinds of compression that are decoded, by FFmpeg's names; None allows all.
        sandbox: read in a limited child process; see `media.sandbox`.
        sandbox_memory: the most bytes of address space that the child process may take.
        resolve: finds the addresses of a host; for tests, and for networks with a resolver of their own.
        tls: certificates to trust, if not the system's.
    """

    folders: tuple[str, ...] | None = None
    hosts: tuple[str, ...] = ()
    schemes: tuple[str, ...] = ("https",)
    networks: tuple[str, ...] = ()
    max_redirects: int = 3
    fetch_seconds: float = 60.0
    max_data_url: int = 64 * 1024**2
    max_bytes: int = 16 * 1024**3
    max_pixels: int = 178_956_970
    max_frames: int = 1_000_000
    max_memory: int = 16 * 1024**3
    max_packets: int = 100_000_000
    max_seconds: float | None = None
    pictures: tuple[str, ...] = PICTURES
    videos: tuple[str, ...] = VIDEOS
    codecs: tuple[str, ...] | None = None
    sandbox: bool = False
    sandbox_memory: int = 4 * 1024**3
    resolve: Callable[[str, int], Sequence[str]] = field(default=system_resolve, compare=False, repr=False)
    tls: ssl.SSLContext | None = field(default=None, compare=False, repr=False)

    def boxed(self, sandbox: bool = True) -> "Policy":
        """The same in a child process, if that is wanted."""
        return replace(self, sandbox=True) if sandbox else self

    def budget(self, name: str) -> Budget:
        """What one reading may spend."""
        return Budget(name, self.max_packets, self.max_seconds)

    def network(self) -> Network:
        """What may be connected to."""
        return Network(
            hosts=self.hosts, schemes=self.schemes, allowed=self.networks, redirects=self.max_redirects,
            seconds=self.fetch_seconds, max_bytes=self.max_bytes, resolve=self.resolve, tls=self.tls,
        )  # fmt: skip

    def local(self) -> "Policy":
        """The same budgets for bytes that passed the gate already: nothing else may be opened."""
        return replace(self, folders=(), hosts=(), sandbox=False, resolve=system_resolve, tls=None)

    def open_options(self) -> dict[str, str]:
        """What FFmpeg is told: which formats and decoders it may try, and to open nothing else."""
        options = {"format_whitelist": ",".join(self.videos), "protocol_whitelist": "file"}
        if self.codecs is None:
            return options
        decoders = [*self.codecs, *(["libdav1d", "libaom-av1"] if "av1" in self.codecs else [])]
        return options | {"codec_whitelist": ",".join(decoders)}

    def check_size(self, name: str, size: int) -> None:
        """Refuse a source that is empty or larger than the budget."""
        if size == 0:
            raise MediaError(
                f"{name}: empty (0 bytes), where a picture or video was expected; check how it was made"
            )
        if size > self.max_bytes:
            raise MediaError(
                f"{name}: {size:,} bytes, at most {self.max_bytes:,} are opened; "
                "shorten it or raise Policy.max_bytes"
            )

    def check_pixels(self, name: str, width: int, height: int) -> None:
        """Refuse a picture or frame that is larger than the budget."""
        if width * height > self.max_pixels:
            raise MediaError(
                f"{name}: {width}x{height} is {width * height:,} pixels, at most {self.max_pixels:,} are "
                "decoded; make it smaller or raise Policy.max_pixels"
            )

    def check_memory(self, name: str, count: int, width: int, height: int) -> None:
        """Refuse frames that together are more than the budget; one chosen twice is there twice."""
        if count > self.max_frames:
            raise MediaError(
                f"{name}: {count:,} frames chosen, at most {self.max_frames:,} are kept; choose fewer"
            )
        if count * width * height * 3 > self.max_memory:
            raise MediaError(
                f"{name}: {count:,} frames of {width}x{height} take {count * width * height * 3:,} bytes, "
                f"at most {self.max_memory:,} are kept; choose fewer or raise Policy.max_memory"
            )


OPEN = Policy()
STRICT = Policy(
    folders=(), max_data_url=16 * 1024**2, max_bytes=256 * 1024**2, max_pixels=4096 * 4096, max_frames=256,
    max_memory=1024**3, max_packets=500_000, max_seconds=20.0, fetch_seconds=20.0, codecs=CODECS,
    sandbox=True, sandbox_memory=2 * 1024**3,
)  # fmt: skip
