"""A real `mlflow server` that is not there, dies and comes back: nothing is lost, nothing is doubled.

The tests share one server, whose start is the slow part. In their order it is started twice: it is down for the
first test, which starts it, and is killed and started again by the second.
"""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mypt_dist.tracking.journal import Journal, read_metrics
from mypt_dist.tracking.mlflow_sender.state import SenderState, read_state
from mypt_dist.tracking.mlflow_sender.sync import sync
from mypt_dist.tracking.mlflow_tracker import MlflowConfig, MlflowTracker

pytestmark = pytest.mark.e2e


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


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


@dataclass
class Run:
    """A run as the trainer makes one, in this process."""

    run_dir: Path
    server: Server
    tracker: MlflowTracker
    journal: Journal

    @classmethod
    def begin(cls, run_dir: Path, server: Server, resumed_from: int | None = None) -> "Run":
        tracker = MlflowTracker(MlflowConfig(uri=server.uri, flush_timeout_s=90))
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


def test_a_server_that_is_down_at_the_start_gets_everything_later(tmp_path: Path, server: Server) -> None:
    server.kill()
    run = Run.begin(tmp_path / "patient", server)
    run.train(1, 300)
    eventually("the sender has tried in vain", lambda: "refused" in (run.state.error or ""))
    assert run.tracker.ids() == {}
    server.start()
    run.train(301, 600)
    (run.run_dir / "manifest.json").write_text('{"step": 600}')
    run.journal.event("checkpoint", step=600, manifest="manifest.json")
    run.end()
    run_id = assert_everything_is_there_once(server, run.run_dir, 600)
    assert run.tracker.ids() == {"mlflow": run_id}
    assert dict(server.ask("SELECT key, value FROM params WHERE run_uuid = ?", run_id))["model.layers"] == "2"
    tags = server.tags(run_id)
    assert (tags["mypt.status"], tags["world_size"], tags["mypt.checkpoint.last"]) == ("finished", "1", "600")
    assert server.ask("SELECT name, digest FROM datasets") == [("stdlib", "d" * 32)]
    with urllib.request.urlopen(
        f"{server.uri}/get-artifact?path=manifest.json&run_uuid={run_id}", timeout=30
    ) as answer:
        assert answer.read() == b'{"step": 600}'


def test_a_server_that_is_killed_in_the_middle_gets_every_point_once(tmp_path: Path, server: Server) -> None:
    server.start()
    run = Run.begin(tmp_path / "restless", server)
    run.train(1, 100)
    eventually("the first points arrive", lambda: run.arrived() > 0)
    run.train(101, 5000)
    eventually("it is in the middle of sending", lambda: run.arrived() > 1000)
    server.kill()
    run.train(5001, 5100)
    eventually("the sender has noticed", lambda: run.state.error is not None)
    server.start()
    run.train(5101, 5200)
    run.end()
    assert_everything_is_there_once(server, run.run_dir, 5200)


TRAINER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_mlflow_server import Run, Server
server = Server.__new__(Server)
server.uri = sys.argv[1]
run = Run.begin(Path(sys.argv[2]), server)
run.train(1, 50)
time.sleep(600)
"""


def test_a_trainer_that_is_killed_leaves_a_killed_run_which_a_resume_continues(tmp_path: Path, server: Server) -> None:
    server.start()
    run_dir = tmp_path / "mortal"
    trainer = subprocess.Popen([sys.executable, "-c", TRAINER, server.uri, str(run_dir), str(Path(__file__).parent)])
    eventually(
        "the points arrive",
        lambda: bool(server.runs("mortal")) and len(server.points(server.runs("mortal")[0][0])) == 100,
    )
    assert server.runs("mortal")[0][1] == "RUNNING"
    trainer.kill()
    trainer.wait()
    eventually("the sender reports the end", lambda: server.runs("mortal")[0][1] == "KILLED")
    ((run_id, _),) = server.runs("mortal")
    assert server.tags(run_id)["mypt.status"] == "killed"

    run = Run.begin(run_dir, server, resumed_from=40)
    run.train(41, 45)
    eventually("the run is running again", lambda: server.runs("mortal")[0][1] == "RUNNING")
    run.train(46, 60)
    run.end()
    assert assert_everything_is_there_once(server, run_dir, 60) == run_id
    tags = server.tags(run_id)
    assert (tags["mypt.resume_count"], tags["resume.1.from_step"], tags["resume.1.resumed"]) == ("1", "40", "40")
    assert tags["resume.1.steps_done_again"] == "41-50"


SUICIDE = """
import os, signal, sys
from pathlib import Path
from mypt_dist.tracking.mlflow_sender import ship, sync
real = ship.write_state
def write_state(run_dir, state):
    if state.points:
        os.kill(os.getpid(), signal.SIGKILL)
    real(run_dir, state)
ship.write_state = write_state
sync.sync(Path(sys.argv[1]), sys.argv[2])
"""


def test_a_sender_killed_between_sending_and_noting_it_doubles_nothing(tmp_path: Path, server: Server) -> None:
    server.start()
    run = Run.begin(tmp_path / "forgetful", server)
    assert run.tracker._process is not None
    run.tracker._process.kill()
    run.tracker._process.wait()
    run.train(1, 1500)
    killed = subprocess.run([sys.executable, "-c", SUICIDE, str(run.run_dir), server.uri], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (run.state.points, run.state.metrics) == (0, 0)
    assert run.arrived() == 1000, "sent, and not noted"
    run.end("failed")
    assert_everything_is_there_once(server, run.run_dir, 1500, "FAILED")


def test_a_foreground_sync_finishes_what_a_run_left(tmp_path: Path, server: Server) -> None:
    server.start()
    run_dir = tmp_path / "offline"
    with Journal(run_dir) as journal:
        journal.event("start", params={}, tags={}, dataset=[], resumed_from_step=None)
        for step in range(1, 11):
            journal.log(step, {"train/loss": 10 / step, "system/cpu_utilization_percentage": 1.0})
    report = sync(run_dir, server.uri)
    assert (report.points, report.complete, report.status, report.error) == (20, True, "killed", None)
    assert assert_everything_is_there_once(server, run_dir, 10, "KILLED") == report.run_id
    assert sync(run_dir).points == 0
