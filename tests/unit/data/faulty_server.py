"""A web server on this machine that does what it is told, however wrong."""

import http.server
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

CONTENT = b"".join(b"line %06d of a corpus\n" % i for i in range(20_000))
OTHER = CONTENT.replace(b"corpus", b"CORPUS")
HALF = len(CONTENT) // 2
ETAG = '"v1"'

Behaviour = Callable[["Request", int], None]
"""Answers a request; the number counts those for the same path, from 0."""


class Request(http.server.BaseHTTPRequestHandler):
    """A request, and ways to answer it."""

    protocol_version = "HTTP/1.1"
    wfile: Any

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self.close_connection = True
        server: Any = self.server
        path = self.path.partition("?")[0]
        number = len(server.asked.setdefault(path, []))
        server.asked[path].append(dict(self.headers))
        # Whoever asked may be gone, or be kept waiting until the test is over.
        with suppress(OSError):
            server.behaviours[path](self, number)

    @property
    def begin(self) -> int:
        """What ``Range`` asks for, if ``If-Range`` fits."""
        match = re.match(r"bytes=(\d+)-$", self.headers.get("Range", ""))
        return int(match[1]) if match else 0

    def head(self, status: int, **headers: object) -> None:
        self.wfile.write(f"HTTP/1.1 {status} Whatever\r\n".encode())
        for name, value in headers.items():
            self.wfile.write(f"{name.replace('_', '-')}: {value}\r\n".encode())
        self.wfile.write(b"Connection: close\r\n\r\n")

    def answer(self, body: bytes, status: int = 200, length: int | None = None, **headers: object) -> None:
        self.head(status, Content_Length=len(body) if length is None else length, **headers)
        self.wfile.write(body)

    def part(self, content: bytes, etag: str, sent: int | None = None, **headers: object) -> None:
        """What was asked for, but no more than ``sent`` bytes of it."""
        begin = self.begin if self.headers.get("If-Range", etag) == etag else 0
        if begin:
            headers["Content_Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        rest = content[begin:]
        self.answer(rest[:sent], 206 if begin else 200, len(rest), ETag=etag, **headers)

    def drip(self, pieces: Iterator[bytes], every_s: float = 0.05) -> None:
        for piece in pieces:
            self.wfile.write(piece)
            self.wfile.flush()
            time.sleep(every_s)


@dataclass
class FaultyServer:
    port: int
    behaviours: dict[str, Behaviour]
    asked: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    """The headers of the requests for each path."""

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, path: str) -> str:
        return f"http://{self.host}{path}"


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[FaultyServer]:
    """A server; what it does for a path is set in ``behaviours``."""
    httpd: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Request)
    if tls:
        httpd.socket = tls.wrap_socket(httpd.socket, server_side=True)
    httpd.daemon_threads = True
    httpd.block_on_close = False
    httpd.handle_error = lambda *_: None
    server = FaultyServer(httpd.server_address[1], {})
    httpd.behaviours, httpd.asked = server.behaviours, server.asked
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()
