"""A rank's end of the pipes to its writer, which is started when it is first needed, and anew when it has died."""

import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import time
from typing import Protocol, cast

from mypt_dist.checkpoint.host_buffer import HostBuffer
from mypt_dist.checkpoint.orders import Order, Setup, to_line
from mypt_dist.lifeline import is_readable
from mypt_dist.world import JSON

log = logging.getLogger(__name__)

PIPE_BYTES = 1 << 20
"""Room for an order, so that giving it need not wait for the writer to read. The most that Linux gives to anybody."""

CLOSE_S = 2.0
"""How long an idle writer may take to end."""

Answer = dict[str, JSON]


class Writer(Protocol):
    """Who writes for a rank. One order at a time."""

    def room(self, size: int) -> memoryview:
        """Memory for ``size`` bytes, which orders refer to. Raises OSError, MemoryError."""
        ...

    def order(self, order: Order) -> None:
        """Have it done. Raises OSError, and ValueError for a number JSON does not have."""
        ...

    def answer(self, wait_s: float = 0.0) -> Answer | None:
        """What became of the order, once known; waits for it at most so long. That the writer died is an answer."""
        ...

    def kill(self) -> None:
        """End it, whatever it does."""
        ...

    def close(self) -> None:
        """Let it end, and give the memory back."""
        ...


class WriterProcess:
    """Runs `mypt_dist.checkpoint.writer`. ``setup`` is completed with this process and the shared memory."""

    def __init__(self, setup: Setup) -> None:
        self._memory = HostBuffer()
        self._setup = setup
        self._process: subprocess.Popen[bytes] | None = None
        self._received = bytearray()

    @property
    def pid(self) -> int | None:
        """Of the running writer."""
        return self._process.pid if self._process is not None else None

    def room(self, size: int) -> memoryview:
        return self._memory.room(size)

    def order(self, order: Order) -> None:
        if self._process is None or self._process.poll() is not None:
            self._start()
        self._send(to_line(order))

    def answer(self, wait_s: float = 0.0) -> Answer | None:
        deadline = time.monotonic() + wait_s
        while True:
            line, newline, rest = self._received.partition(b"\n")
            if newline:
                self._received = bytearray(rest)
                return cast("Answer", json.loads(line))
            left = max(0.0, deadline - time.monotonic())
            if not self._is_readable(left):
                return None
            data = os.read(self._output(), PIPE_BYTES)
            if not data:
                return self._died()
            self._received += data

    def kill(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        try:
            self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            # In a call to a disk that hangs it dies as soon as that returns: nothing is written any more.
            log.warning("the process that writes checkpoints (%d) hangs in a call to the disk", self._process.pid)
            self._process = None
        else:
            self._forget()

    def close(self) -> None:
        if self._process is not None:
            self._hang_up()
            try:
                self._process.wait(CLOSE_S)
            except subprocess.TimeoutExpired:
                self.kill()
            else:
                self._forget()
        self._memory.close()

    def _start(self) -> None:
        self._forget()
        if self._memory.descriptor < 0:
            self._memory.room(1)
        process = subprocess.Popen(
            [sys.executable, "-m", "mypt_dist.checkpoint.writer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(self._memory.descriptor,),
            # A session of its own: Ctrl-C is for the ranks, who decide what becomes of a save.
            start_new_session=True,
        )
        self._process, self._received = process, bytearray()
        known = {"parent": os.getpid(), "descriptor": self._memory.descriptor}
        assert process.stdin is not None, "it is a pipe"
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            try:
                fcntl.fcntl(process.stdin.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            except OSError as error:
                log.debug("the writer's pipe stays small: %s", error)
        self._send(to_line(self._setup.model_copy(update=known)))

    def _send(self, line: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()

    def _output(self) -> int:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def _is_readable(self, wait_s: float) -> bool:
        return is_readable(self._output(), wait_s)

    def _died(self) -> Answer:
        assert self._process is not None
        code = self._process.wait()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self._forget()
        text = f"the process that writes checkpoints ended ({how})"
        return {"told": None, "failure": {"kind": "WriterDied", "text": text, "errno": 0}}

    def _hang_up(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            log.debug("the writer is gone already")

    def _forget(self) -> None:
        if self._process is None:
            return
        self._hang_up()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None
