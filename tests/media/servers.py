"""Servers on this machine alone, that answer as badly as they are told to."""

import socket
import threading
from contextlib import contextmanager

from watchword.media import Policy


def answer(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """A whole HTTP answer."""
    fields = {
        "Content-Length": str(len(body)),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@contextmanager
def serve(respond, tls=None):
    """Answer connections with `respond(line, request)`; gives the port. Lines are closed at the end."""
    listener = socket.create_server(("127.0.0.1", 0))
    lines, stop = [], threading.Event()

    def one(line):
        try:
            if tls is not None:
                line = tls.wrap_socket(line, server_side=True)
                lines.append(line)
            request = b""
            while b"\r\n\r\n" not in request and (more := line.recv(4096)):
                request += more
            respond(line, request)
        except OSError:
            pass  # the other side had enough
        finally:
            line.close()

    def accept():
        while not stop.is_set():
            try:
                line, _ = listener.accept()
            except OSError:
                return
            lines.append(line)
            threading.Thread(target=one, args=(line,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        stop.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for line in lines:
            line.close()
        thread.join(5)


class Resolver:
    """Names and addresses as a test wants them, and a list of what was asked."""

    def __init__(self, **answers):
        self.answers = {name.replace("_", "."): value for name, value in answers.items()}
        self.asked = []

    def __call__(self, host, port):
        self.asked.append(host)
        found = self.answers[host]
        return [found.pop(0)] if isinstance(found, list) else [found]


def policy(port, resolve, host="media.test", **more):
    """What allows one host on one port of this machine."""
    given = {
        "hosts": (f"{host}:{port}",), "schemes": ("http", "https"), "networks": ("127.0.0.1/32",),
        "fetch_seconds": 5.0, "resolve": resolve,
    }  # fmt: skip
    return Policy(**{**given, **more})
