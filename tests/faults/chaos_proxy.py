"""A way to a server on which all sorts of things happen to requests and answers."""

import socket
import struct
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

MODES = ("refuse", "hang", "reset", "500", "cut", "lost", "trickle")
"""What can be done to a request: the connection is refused; it is taken and never answered; reset; answered with an
error; done, and the answer ends in its middle; done, and there is no answer; done, and answered drop by drop."""


class ChaosProxy:
    """Listens on ``uri`` and passes everything on to the server on ``port``, as long as `mode` is ``pass``."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._mode = "pass"
        self.requests = 0
        self._held: list[socket.socket] = []
        self._listener = self._listen(0)
        self._port = self._listener.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"

    @property
    def mode(self) -> str:
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        if self._mode == "refuse":
            self._listener = self._listen(self._port)
        self._mode = mode
        if mode == "refuse":
            # Wakes the thread that waits in accept, which closing alone would not.
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._mode != "refuse":
            self.mode = "refuse"
        for connection in self._held:
            connection.close()

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port), reuse_port=False)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=self._handle, args=(connection,), daemon=True).start()

    def _handle(self, connection: socket.socket) -> None:
        with suppress(OSError):
            request = _request(connection)
            mode = self._mode
            self.requests += bool(request)
            if mode == "hang":
                self._held.append(connection)
                return
            if mode == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif mode == "500":
                connection.sendall(b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\nConnection: close\r\n\r\noops")
            elif request:
                self._answer(connection, self._ask(request), mode)
            connection.close()

    def _ask(self, request: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self._upstream), timeout=60) as server:
            server.sendall(request)
            answer = b""
            while more := server.recv(1 << 16):
                answer += more
            return answer

    def _answer(self, connection: socket.socket, answer: bytes, mode: str) -> None:
        if mode == "trickle":
            for start in range(0, len(answer), 16):
                connection.sendall(answer[start : start + 16])
                time.sleep(0.02)
        elif mode == "cut":
            connection.sendall(answer[: len(answer) // 2])
        elif mode != "lost":
            connection.sendall(answer)


def _request(connection: socket.socket) -> bytes:
    """One whole request, made to be the only one of its connection; empty if none came."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(1 << 16)
        if not more:
            return b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    lengths = [int(line.partition(b":")[2]) for line in lines if line.lower().startswith(b"content-length:")]
    while len(body) < sum(lengths):
        body += connection.recv(1 << 16)
    return b"\r\n".join([*lines, b"Connection: close"]) + b"\r\n\r\n" + body
