"""Fetch media from an address on the network, and from nowhere that the network's owner did not mean.

Hosts are taken from a list. A name is resolved once, every address it has must be public, and the connection
goes to that address: a name that changes its answer in between changes nothing. Where an answer points
elsewhere, all of that is done again. No proxy, no cookie, no password; bytes and seconds are capped.
"""

import http.client
import ipaddress
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import SplitResult, urljoin, urlsplit

from watchword.errors import MediaError

__all__ = ["Network", "fetch", "refusal", "system_resolve"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_PORTS = {"http": 80, "https": 443}
_MOVED = (301, 302, 303, 307, 308)
_IN_MEMORY = 32 * 1024**2  # larger downloads lie in a temporary file
_CHUNK = 256 * 1024
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def system_resolve(host: str, port: int) -> Sequence[str]:
    """Ask the system for the addresses of a host."""
    return [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


@dataclass(frozen=True)
class Network:
    """What may be connected to; see `Policy`."""

    hosts: tuple[str, ...]
    schemes: tuple[str, ...]
    allowed: tuple[str, ...]
    redirects: int
    seconds: float
    max_bytes: int
    resolve: Callable[[str, int], Sequence[str]]
    tls: ssl.SSLContext | None


@dataclass(frozen=True)
class _Place:
    """A checked address: its parts, and a name for messages without path, query or password."""

    scheme: str
    host: str
    port: int
    path: str
    name: str


def fetch(address: str, network: Network) -> tuple[str, IO[bytes]]:
    """Fetch what an address gives, as its name for messages and an open temporary file.

    Raises:
        MediaError: a scheme, host, port or address that is not allowed, too many redirects, an answer that is
            none, too many bytes, or too slow.
    """
    deadline = time.monotonic() + network.seconds
    first = ""
    for _ in range(network.redirects + 1):
        place = _checked(address, network)
        first = first or place.name
        with _connection(place, network, deadline) as connection:
            found, moved = _ask(connection, place, network, deadline)
        if found is not None:
            return place.name, found
        address = urljoin(address, moved)
    raise MediaError(
        f"{first}: more than {network.redirects} redirects, the last to {_told(urlsplit(address))}; "
        "give the address where the file lies"
    )


def _checked(address: str, network: Network) -> _Place:
    """Take an address apart and refuse what is not allowed."""
    if any(ord(sign) <= 32 or ord(sign) >= 127 or sign == "\\" for sign in address):
        raise MediaError("an address with spaces or signs beyond ASCII; write them as %20 and the like")
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise MediaError(f"{address[:40]!r}: no address ({error}); write https://host/path") from error
    name = _told(parts)
    if parts.scheme not in network.schemes:
        raise MediaError(
            f"{name}: the scheme {parts.scheme!r}, allowed are {', '.join(network.schemes)}; "
            "give such an address, or the bytes"
        )
    if parts.username is not None or parts.password is not None:
        raise MediaError(f"{name}: a name or password in the address; leave it out")
    usual = _PORTS[parts.scheme]
    number = usual if port is None else port
    if not any(_fits(entry, host, number, usual) for entry in network.hosts):
        raise MediaError(f"{name}: not one of the hosts allowed; add it to Policy.hosts, or give the bytes")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return _Place(parts.scheme, host, number, path, name)


def _fits(entry: str, host: str, port: int, usual: int) -> bool:
    pattern, colon, number = (
        entry.lower().partition(":") if entry.count(":") <= 1 else (entry.lower(), "", "")
    )
    if port != (int(number) if colon else usual):
        return False
    return host.endswith(pattern[1:]) and host != pattern[2:] if pattern[:2] == "*." else host == pattern


def _told(parts: SplitResult) -> str:
    """An address for messages: paths and queries may hold secrets."""
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}"[:200]


def refusal(address: Address, allowed: Sequence[str] = ()) -> str | None:
    """Say why an address must not be connected to, or None when it may: it is public, or allowed by name.

    Addresses of the old kind that lie inside one of the new kind count as what they are.
    """
    if any(address in ipaddress.ip_network(entry) for entry in allowed):
        return None
    for one in (address, *_inside(address)):
        for kind in ("loopback", "link_local", "multicast", "unspecified", "private", "reserved"):
            if getattr(one, f"is_{kind}"):
                return kind.replace("_", "-")
        if not one.is_global:
            return "not public"
    return None


def _inside(address: Address) -> Iterator[Address]:
    """IPv4 addresses that an IPv6 address stands for: mapped, 6to4, Teredo, translated, compatible."""
    if not isinstance(address, ipaddress.IPv6Address):
        return
    if address.ipv4_mapped:
        yield address.ipv4_mapped
    if address.sixtofour:
        yield address.sixtofour
    if address.teredo:
        yield from address.teredo
    if address in _NAT64 or int(address) < 2**32:
        yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)


def _resolved(place: _Place, network: Network, deadline: float) -> list[Address]:
    """Resolve a host once; all its addresses must be allowed. Waits no longer than the deadline."""
    answer: list[Any] = []

    def ask() -> None:
        try:
            answer.append(network.resolve(place.host, place.port))
        except Exception as error:  # of the system's resolver or the caller's own
            answer.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(max(0.0, deadline - time.monotonic()))
    if not answer:
        raise _slow(place, network)
    if isinstance(answer[0], Exception) or not answer[0]:
        raise MediaError(f"{place.name}: no such host; check the address")
    addresses = [ipaddress.ip_address(text.partition("%")[0]) for text in answer[0]]
    for one in addresses:
        why = refusal(one, network.allowed)
        if why is not None:
            raise MediaError(
                f"{place.name}: its address is {why}, and only public ones are connected to; "
                "give the bytes, or add the network to Policy.networks"
            )
    return addresses


@contextmanager
def _connection(place: _Place, network: Network, deadline: float) -> Iterator[http.client.HTTPConnection]:
    """Connect to an address of the host, and cut the line at the deadline, whatever it is waiting for."""
    line: socket.socket | None = None
    for one in _resolved(place, network, deadline):
        try:
            line = socket.create_connection((str(one), place.port), max(0.01, deadline - time.monotonic()))
            break
        except OSError:
            continue
    if line is None:
        if time.monotonic() >= deadline:
            raise _slow(place, network)
        raise MediaError(f"{place.name}: no connection; check the address")
    kind: type[http.client.HTTPConnection] = http.client.HTTPConnection
    if place.scheme == "https":
        kind = http.client.HTTPSConnection
        context = network.tls or ssl.create_default_context()
        line = context.wrap_socket(line, server_hostname=place.host, do_handshake_on_connect=False)
    watch = threading.Timer(max(0.0, deadline - time.monotonic()), _cut, (line,))
    watch.daemon = True
    watch.start()
    try:
        if isinstance(line, ssl.SSLSocket):
            line.do_handshake()
        connection = kind(place.host, place.port)
        connection.sock = line
        yield connection
    except (OSError, http.client.HTTPException) as error:  # TimeoutError and ssl.SSLError are OSErrors
        if time.monotonic() >= deadline:
            raise _slow(place, network) from error
        what = getattr(error, "verify_message", "") or type(error).__name__
        raise MediaError(f"{place.name}: the connection broke ({what}); try again") from error
    finally:
        watch.cancel()
        line.close()


def _cut(line: socket.socket) -> None:
    try:
        line.shutdown(socket.SHUT_RDWR)
    except OSError:  # closed meanwhile
        line.close()


def _ask(
    connection: http.client.HTTPConnection, place: _Place, network: Network, deadline: float
) -> tuple[IO[bytes] | None, str]:
    """Ask for the file: (its bytes, "") or (None, where it is instead)."""
    connection.request(
        "GET", place.path, headers={"Accept-Encoding": "identity", "User-Agent": "watchword", "Accept": "*/*"}
    )
    with connection.getresponse() as answer:  # it holds the line open until it is closed itself
        if answer.status in _MOVED and answer.headers.get("Location"):
            return None, str(answer.headers["Location"])
        if answer.status != 200:
            raise MediaError(
                f"{place.name}: answered {answer.status}, where 200 was expected; check the address"
            )
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise MediaError(f"{place.name}: a packed answer, which was not asked for; give the bytes")
        return _save(answer, place, network, deadline), ""


def _save(answer: http.client.HTTPResponse, place: _Place, network: Network, deadline: float) -> IO[bytes]:
    """Copy an answer into a temporary file, as far as it may be."""
    promised = answer.length
    if promised is not None and promised > network.max_bytes:
        raise _large(place, network, f"{promised:,} bytes")
    file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115  the caller closes it
    try:
        while chunk := answer.read1(_CHUNK):
            file.write(chunk)
            if file.tell() > network.max_bytes:
                raise _large(place, network, "more bytes than it may")
            if time.monotonic() >= deadline:
                raise _slow(place, network)
        if time.monotonic() >= deadline:  # cut by the watch, which reads like the end
            raise _slow(place, network)
        if promised is not None and file.tell() < promised:
            raise MediaError(
                f"{place.name}: broke off after {file.tell():,} of {promised:,} bytes; try again"
            )
        file.seek(0)
        return file
    except BaseException:
        file.close()
        raise


def _slow(place: _Place, network: Network) -> MediaError:
    return MediaError(
        f"{place.name}: not all had come after {network.seconds:g} s; try again or raise Policy.fetch_seconds"
    )


def _large(place: _Place, network: Network, found: str) -> MediaError:
    return MediaError(
        f"{place.name}: {found}, at most {network.max_bytes:,} are fetched; shorten it or raise "
        "Policy.max_bytes"
    )
