"""A real `mlflow server` on this machine, and a run that reports to it."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mypt_dist.tracking.journal import Journal, read_metrics
from mypt_dist.tracking.mlflow_sender.state import SenderState, read_state
from mypt_dist.tracking.mlflow_tracker import MlflowConfig, MlflowTracker


def eventually(what: str, holds: Callable[[], bool], seconds: float = 120) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"it never happened: {what}"
        time.sleep(0.1)


class Server:
    """`mlflow server` on this machine, and the database behind it."""

    def __init__(self, folder: Path) -> None:
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{port}"
        self._folder = folder
        self._command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/artifacts"),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Unless it runs."""
        if self._process is not None:
            return
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self._folder / "server.log").open("ab") as output:
            self._process = subprocess.Popen(
                self._command, stdout=output, stderr=output, env=os.environ | quiet, start_new_session=True
            )
        eventually("the server answers", self._answers)

    def kill(self) -> None:
        """kill -9, with its workers."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def stop(self, *, go_on: bool = False) -> None:
        """SIGSTOP: it hangs as a whole, connections are still accepted by the kernel; or let it go on."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGCONT if go_on else signal.SIGSTOP)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def ask(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(f"file:{self._folder}/mlflow.db?mode=ro", uri=True, timeout=30)) as database:
            return database.execute(query, values).fetchall()

    def runs(self, name: str) -> list[tuple[str, str]]:
        """Id and status of the living runs of that name."""
        query = "SELECT run_uuid, status FROM runs WHERE name = ? AND lifecycle_stage = 'active'"
        return self.ask(query, name)  # type: ignore[return-value]

    def points(self, run_id: str) -> list[tuple[str, int, float, int]]:
        """Name, step, value and time of every point, in the order in which they arrived."""
        query = "SELECT key, step, value, timestamp FROM metrics WHERE run_uuid = ? ORDER BY rowid"
        return self.ask(query, run_id)  # type: ignore[return-value]

    def tags(self, run_id: str) -> dict[str, str]:
        return dict(self.ask("SELECT key, value FROM tags WHERE run_uuid = ?", run_id))


@dataclass
class Run:
    """A run as the trainer makes one, in this process."""

    run_dir: Path
    server: Server
    tracker: MlflowTracker
    journal: Journal

    @classmethod
    def begin(cls, run_dir: Path, server: Server, resumed_from: int | None = None, uri: str = "") -> "Run":
        """``uri`` is another way to the same server."""
        tracker = MlflowTracker(MlflowConfig(uri=uri or server.uri, flush_timeout_s=90))
        journal = Journal(run_dir)
        tracker.start(run_dir, run_dir.name, {})
        tags = {"world_size": "1", "mlflow.source.git.commit": "0123abc"}
        dataset = [{"name": "stdlib", "fingerprint": "d" * 64, "path": "data/stdlib", "context": "train"}]
        params = {"model": {"layers": 2}, "resumed": resumed_from}
        journal.event("start", params=params, tags=tags, dataset=dataset, resumed_from_step=resumed_from)
        return cls(run_dir, server, tracker, journal)

    def train(self, first: int, last: int) -> None:
        for step in range(first, last + 1):
            self.journal.log(step, {"train/loss": 10 / step, "system/cpu_utilization_percentage": step % 100})

    def end(self, status: str = "finished") -> None:
        self.journal.event("finish", status=status, reason=None)
        self.journal.close()
        assert self.tracker.finish() is None

    @property
    def state(self) -> SenderState:
        return read_state(self.run_dir) or SenderState()

    def arrived(self) -> int:
        (run,) = self.server.runs(self.run_dir.name) or [("", "")]
        return len(self.server.points(run[0]))


def assert_everything_is_there_once(server: Server, run_dir: Path, steps: int, status: str = "FINISHED") -> str:
    ((run_id, found),) = server.runs(run_dir.name)
    points = server.points(run_id)
    journal = {row["step"]: row for row in read_metrics(run_dir)}
    assert [step for key, step, _, _ in points if key == "train/loss"] == list(range(1, steps + 1))
    assert len(points) == 2 * steps
    assert all(journal[step][key] == value for key, step, value, _ in points)
    assert found == status
    return run_id
