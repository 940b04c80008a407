"""Addresses are fetched from hosts on a list, at public addresses, within bytes and seconds."""

import ipaddress
import shutil
import socket
import ssl
import subprocess
import time

import numpy as np
import pytest

from tests.media import clips
from tests.media.servers import Resolver, answer, policy, serve
from watchword.errors import MediaError
from watchword.media import Policy, read_frames
from watchword.media.address import refusal, system_resolve
from watchword.media.gate import admit


def sends(data):
    return lambda line, request: line.sendall(data)


def test_a_clip_is_fetched_from_a_host_on_the_list(tmp_path):
    path = clips.write(tmp_path / "clip.mp4")
    resolve = Resolver(media_test="127.0.0.1")
    requests = []

    def respond(line, request):
        requests.append(request)
        line.sendall(answer(path.read_bytes()))

    with serve(respond) as port:
        clip = read_frames(f"http://media.test:{port}/clip.mp4?key=1", policy=policy(port, resolve))
    assert np.array_equal(clip.frames, read_frames(path).frames)
    assert resolve.asked == ["media.test"]
    assert requests[0].startswith(b"GET /clip.mp4?key=1 HTTP/1.1\r\n")
    assert f"Host: media.test:{port}".encode() in requests[0]


def test_a_name_is_resolved_once_and_that_address_is_used():
    resolve = Resolver(media_test=["127.0.0.1", "169.254.169.254"])
    with serve(sends(answer(b"abc"))) as port:
        media = admit(f"http://media.test:{port}/", policy(port, resolve))
    assert media.rewind().read() == b"abc"
    assert resolve.asked == ["media.test"]


NOT_PUBLIC = {
    "127.0.0.1": "loopback", "10.1.2.3": "private", "192.168.0.1": "private", "172.16.5.5": "private",
    "169.254.169.254": "link-local", "0.0.0.0": "unspecified", "100.64.0.1": "not public",
    "224.0.0.1": "multicast", "::1": "loopback", "fe80::1": "link-local", "fc00::1": "private",
}  # fmt: skip
# An old address inside a new one; Python's versions differ in how they call it.
INSIDE = ("::ffff:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "::127.0.0.1", "::7")


@pytest.mark.parametrize("address", [*NOT_PUBLIC, *INSIDE, "255.255.255.255", "240.0.0.1"])
def test_addresses_that_are_not_public_are_refused(address):
    why = NOT_PUBLIC.get(address, "(loopback|private|reserved|link-local)")
    with pytest.raises(
        MediaError, match=f"https://media.test: its address is {why}, and only public ones are connected to"
    ):
        admit("https://media.test/", Policy(hosts=("media.test",), resolve=lambda *_: [address]))


def test_networks_named_are_not_refused():
    assert refusal(ipaddress.ip_address("10.2.3.4"), ("10.2.0.0/16",)) is None
    assert refusal(ipaddress.ip_address("10.3.3.4"), ("10.2.0.0/16",)) == "private"


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:4700::1111"])
def test_public_addresses_are_not_refused(address):
    assert refusal(ipaddress.ip_address(address)) is None


def test_one_address_that_is_not_public_among_others_is_enough():
    both = Policy(hosts=("media.test",), resolve=lambda *_: ["93.184.216.34", "10.0.0.1"])
    with pytest.raises(MediaError, match="its address is private"):
        admit("https://media.test/", both)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://media.test/x", r"http://media.test: the scheme 'http', allowed are https"),
        ("file:///etc/passwd", r"file://: the scheme 'file', allowed are https"),
        ("gopher://media.test/x", "the scheme 'gopher'"),
        (
            "https://other.test/x",
            r"https://other.test: not one of the hosts allowed; add it to Policy.hosts",
        ),
        ("https://media.test:8443/x", r"https://media.test:8443: not one of the hosts"),
        ("https://cdn.test/", "not one of the hosts"),
        ("https://evil-cdn.test/", "not one of the hosts"),
        ("https://media.test.evil.test/", "not one of the hosts"),
        ("https://evil.test#@media.test/", "https://evil.test: not one of the hosts"),
        ("https://media.test@evil.test/", "https://evil.test: a name or password in the address"),
        ("https://me:secret@media.test/x", r"^https://media.test: a name or password in the address"),
        ("https://2130706433/", "not one of the hosts"),
        ("https://media.test/a b", "an address with spaces or signs beyond ASCII"),
        ("https://media.test\\@evil.test/", "an address with spaces or signs beyond ASCII"),
        ("https://mediа.test/", "an address with spaces or signs beyond ASCII"),
        ("https://media.test/\r\nX: y", "an address with spaces or signs beyond ASCII"),
        ("https://media.test:99999/", "no address"),
        ("https://[::1/", "no address"),
    ],
)
def test_addresses_that_are_not_allowed_are_refused_without_asking(address, message):
    resolve = Resolver()
    with pytest.raises(MediaError, match=message) as caught:
        admit(address, Policy(hosts=("media.test", "*.cdn.test"), resolve=resolve))
    assert resolve.asked == []
    assert "secret" not in str(caught.value)


def test_hosts_below_a_name_are_allowed_by_a_star():
    with pytest.raises(MediaError, match=r"https://a\.cdn\.test: its address is private"):
        admit("https://a.cdn.test/", Policy(hosts=("*.cdn.test",), resolve=lambda *_: ["10.0.0.1"]))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("http://127.0.0.1/secret", "http://127.0.0.1: not one of the hosts"),
        ("http://169.254.169.254/latest/meta-data", "http://169.254.169.254: not one of the hosts"),
        ("file:///etc/passwd", "file://: the scheme 'file'"),
        ("http://inside.test:{port}/", "http://inside.test:.*: its address is private"),
    ],
)
def test_redirects_are_checked_like_the_first_address(target, message):
    resolve = Resolver(media_test="127.0.0.1", inside_test="10.0.0.1")
    port_of = {}

    def respond(line, request):
        line.sendall(answer(b"", "302 Found", Location=target.format(**port_of)))

    with serve(respond) as port:
        port_of["port"] = port
        allowed = policy(port, resolve, hosts=(f"media.test:{port}", f"inside.test:{port}"))
        with pytest.raises(MediaError, match=message):
            admit(f"http://media.test:{port}/", allowed)


def test_redirects_on_the_list_are_followed_a_few_times():
    resolve = Resolver(media_test="127.0.0.1")

    def respond(line, request):
        left = int(request.split()[1][1:])
        moved = answer(b"", "301 Moved", Location=f"/{left - 1}")
        line.sendall(moved if left else answer(b"there"))

    with serve(respond) as port:
        assert admit(f"http://media.test:{port}/3", policy(port, resolve)).rewind().read() == b"there"
        assert resolve.asked == ["media.test"] * 4
        with pytest.raises(
            MediaError, match=r"media.test:\d+: more than 3 redirects, the last to http://media"
        ):
            admit(f"http://media.test:{port}/4", policy(port, resolve))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (answer(b"", "404 Not Found"), "answered 404, where 200 was expected"),
        (answer(b"", "302 Found"), "answered 302, where 200 was expected"),
        (answer(b""), r"empty \(0 bytes\)"),
        (answer(b"x", Content_Encoding="gzip"), "a packed answer, which was not asked for"),
        (answer(bytes(2000)), "2,000 bytes, at most 1,000 are fetched"),
        (b"HTTP/1.0 200 OK\r\n\r\n" + bytes(2000), "more bytes than it may, at most 1,000 are fetched"),
        (answer(b"x" * 9, Content_Length="90"), "broke off after 9 of 90 bytes"),
        (b"hello there\r\n\r\n", r"the connection broke \(BadStatusLine\)"),
        (b"", r"the connection broke \(RemoteDisconnected\)"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200, r"the connection broke \(HTTPException\)"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000, r"the connection broke \(LineTooLong\)"),
    ],
)
def test_bad_answers_are_told(data, message):
    with serve(sends(data)) as port:
        allowed = policy(port, Resolver(media_test="127.0.0.1"), max_bytes=1000)
        with pytest.raises(MediaError, match=rf"^http://media.test:{port}: {message}"):
            admit(f"http://media.test:{port}/", allowed)


@pytest.mark.parametrize("part", ["status", "headers", "body", "nothing"])
def test_slow_servers_are_cut_off_at_the_deadline(part):
    begun = {
        "status": b"H", "headers": b"HTTP/1.1 200 OK\r\nA: ", "nothing": b"",
        "body": b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n",
    }[part]  # fmt: skip

    def drip(line, request):
        line.sendall(begun)
        for _ in range(200):
            time.sleep(0.05)
            if part != "nothing":
                line.sendall(b"x")

    with serve(drip) as port:
        start = time.monotonic()
        allowed = policy(port, Resolver(media_test="127.0.0.1"), fetch_seconds=0.5)
        with pytest.raises(MediaError, match=r"not all had come after 0.5 s; try again or raise"):
            admit(f"http://media.test:{port}/", allowed)
        assert time.monotonic() - start < 8  # the server would take 10


def test_resolvers_that_hang_or_fail_are_told():
    with pytest.raises(MediaError, match=r"https://media.test: not all had come after 0.2 s"):
        admit("https://media.test/", Policy(hosts=("media.test",), fetch_seconds=0.2,
                                            resolve=lambda *_: time.sleep(1)))  # fmt: skip
    for resolve in (Resolver(), lambda *_: []):
        with pytest.raises(MediaError, match=r"https://media\.test: no such host"):
            admit("https://media.test/", Policy(hosts=("media.test",), resolve=resolve))


def test_a_closed_port_is_told():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(MediaError, match=f"http://media.test:{port}: no connection; check the address"):
        admit(f"http://media.test:{port}/", policy(port, Resolver(media_test="127.0.0.1")))


def test_the_system_resolver_knows_this_machine():
    assert "127.0.0.1" in system_resolve("localhost", 80)


@pytest.fixture
def certificate(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here to make a certificate")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", tmp_path / "key", "-out", tmp_path / "cert", "-days", "2", "-subj", "/CN=media.test",
         "-addext", "subjectAltName=DNS:media.test"],
        check=True, capture_output=True,
    )  # fmt: skip
    return tmp_path


def test_certificates_are_checked_against_the_name(certificate):
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate / "cert", certificate / "key")
    trusting = ssl.create_default_context(cafile=certificate / "cert")
    resolve = Resolver(media_test="127.0.0.1", other_test="127.0.0.1")
    with serve(sends(answer(b"abc")), server) as port:
        allowed = policy(port, resolve, tls=trusting, hosts=(f"media.test:{port}", f"other.test:{port}"))
        assert admit(f"https://media.test:{port}/", allowed).rewind().read() == b"abc"
        with pytest.raises(MediaError, match=r"other.test:\d+: the connection broke \(Hostname mismatch"):
            admit(f"https://other.test:{port}/", allowed)
        with pytest.raises(MediaError, match=r"the connection broke \(self[- ]signed certificate\)"):
            admit(f"https://media.test:{port}/", policy(port, resolve))
