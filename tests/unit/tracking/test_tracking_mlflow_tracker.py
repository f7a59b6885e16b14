"""The part in the training process: it starts the sender, never waits but at the end, and never raises."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tracking_fakes import Clock

from mypt_dist.config import validate
from mypt_dist.errors import ConfigError
from mypt_dist.lifeline import FOR_THE_RANK
from mypt_dist.tracking import TRACKERS, any_tracker
from mypt_dist.tracking.journal import Journal
from mypt_dist.tracking.mlflow_sender.__main__ import ParentProcess, ScrubbingFormatter, _patience
from mypt_dist.tracking.mlflow_sender.state import SenderState, read_state, write_state
from mypt_dist.tracking.mlflow_tracker import RESTART_S, MlflowConfig, MlflowTracker


def eventually(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 180
    while not holds():
        assert time.monotonic() < deadline, f"it never happened: {what}"
        time.sleep(0.05)


def test_mlflow_is_the_tracker_that_is_there() -> None:
    assert TRACKERS.names() == ["mlflow"]
    assert any_tracker() is MlflowConfig
    assert isinstance(MlflowConfig().build(), MlflowTracker)


def test_neither_torch_nor_mlflow_is_loaded_where_training_goes_on() -> None:
    script = """
import sys
from mypt_dist.tracking import TRACKERS
from mypt_dist.tracking.journal import Journal
from mypt_dist.tracking.system import SystemSampler
TRACKERS.names()
assert not {"mlflow", "torch", "requests"} & set(sys.modules), sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    "uri", ["http://host:5000", "https://host", "sqlite:///a.db", "postgresql://host/db", "databricks"]
)
def test_a_store_that_mlflow_knows_is_taken(uri: str) -> None:
    assert MlflowConfig(uri=uri).uri == uri


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("./mlruns", "use sqlite:///./mlruns/mlflow.db"),
        ("file:///data/mlruns/", "use sqlite:////data/mlruns/mlflow.db"),
        ("http://me:secret@host", "MLFLOW_TRACKING_PASSWORD"),
        ("postgresql://me:secret@host/db", "give the whole address in MLFLOW_TRACKING_URI"),
    ],
)
def test_a_store_that_cannot_work_is_refused_with_what_can(uri: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        validate(MlflowConfig, {"uri": uri}, "run.json")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "where"),
    [
        ("http://host:5000", "http://host:5000"),
        ("databricks", "databricks"),
        ("sqlite:////data/mlflow.db", "mlflow ui --backend-store-uri sqlite:////data/mlflow.db"),
    ],
)
def test_it_says_where_the_numbers_can_be_seen(uri: str, where: str) -> None:
    assert MlflowTracker(MlflowConfig(uri=uri)).where() == where


def test_no_secret_of_the_environment_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:canary@127.0.0.1:9/?key=canary")
    tracker = MlflowTracker(MlflowConfig(flush_timeout_s=0))
    assert tracker.where() == "http://127.0.0.1:9/"
    tracker.start(tmp_path, "demo", {})
    process = tracker._process
    assert process is not None
    eventually("the sender has its state", lambda: read_state(tmp_path) is not None)
    assert b"canary" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    assert "canary" not in (tracker.finish() or "")
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert not any("canary" in text for text in written)


@pytest.fixture
def hanging_server() -> Iterator[str]:
    """Accepts connections and never answers."""
    with closing(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        server.listen(16)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_hanging_server_costs_no_more_than_the_time_that_was_given(tmp_path: Path, hanging_server: str) -> None:
    tracker = MlflowTracker(MlflowConfig(uri=hanging_server, flush_timeout_s=0.2))
    journal = Journal(tmp_path)
    journal.event("start", params={}, tags={}, dataset=[], resumed_from_step=None)
    tracker.start(tmp_path, "demo", {})
    assert tracker.ids() == {}
    journal.log(1, {"train/loss": 1.0})
    journal.event("finish", status="finished", reason=None)
    journal.close()
    left = tracker.finish()
    assert left is not None
    assert left.startswith(f"MLflow at {hanging_server} has not got everything")
    assert left.endswith(f"mypt runs sync {tmp_path}")
    assert tracker._process is not None
    assert tracker._process.returncode == -signal.SIGKILL


def test_a_run_arrives_in_a_database_of_its_own_making(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default of a run on this machine, from start to end, with signals that are not for the sender."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run_dir = tmp_path / "runs" / "demo"
    tracker = MlflowTracker(MlflowConfig(flush_timeout_s=60))
    with Journal(run_dir) as journal:
        tracker.start(run_dir, "demo", {})
        journal.event("start", params={"a": 1}, tags={}, dataset=[], resumed_from_step=None)
        journal.log(1, {"train/loss": 1.0})
        eventually("the run is there", lambda: bool(tracker.ids()))
        process = tracker._process
        assert process is not None
        assert os.getsid(process.pid) != os.getsid(0)
        assert os.getpriority(os.PRIO_PROCESS, process.pid) > os.getpriority(os.PRIO_PROCESS, 0)
        for number in FOR_THE_RANK:
            process.send_signal(number)
        journal.event("finish", status="finished", reason=None)
    assert tracker.finish() is None
    state = read_state(run_dir)
    assert state is not None
    assert (state.points, state.ended, state.uri) == (1, "finished", f"sqlite:///{tmp_path}/mlflow.db")
    assert (tmp_path / "mlartifacts" / tracker.ids()["mlflow"] / "artifacts" / "config" / "params.json").is_file()
    assert sorted(path.name for path in run_dir.iterdir()) == ["events.jsonl", "metrics.jsonl", "tracking"]
    assert sorted(path.name for path in (run_dir / "tracking").iterdir()) == [
        "mlflow.json",
        "mlflow.log",
        "sender.lock",
    ]


def test_the_id_of_the_checkpoint_is_known_before_the_first_request(tmp_path: Path) -> None:
    tracker = MlflowTracker(MlflowConfig(uri="http://127.0.0.1:9", flush_timeout_s=0))
    tracker.start(tmp_path, "demo", {"mlflow": "abc"})
    eventually("the sender has its state", lambda: tracker.ids() == {"mlflow": "abc"})
    tracker.finish()


def test_a_sender_that_died_is_started_again_but_not_all_the_time(tmp_path: Path) -> None:
    clock = Clock()
    tracker = MlflowTracker(MlflowConfig(uri="http://127.0.0.1:9", flush_timeout_s=0), clock)
    tracker.start(tmp_path, "demo", {})
    first = tracker._process
    assert first is not None
    first.kill()
    first.wait()
    tracker.ids()
    assert tracker._process is first
    clock.tick(RESTART_S)
    tracker.ids()
    second = tracker._process
    assert second is not first
    clock.tick(RESTART_S)
    tracker.ids()
    assert tracker._process is second, "it is alive"
    tracker.finish()


def test_a_sender_that_cannot_be_started_is_no_reason_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "no python"))
    tracker = MlflowTracker(MlflowConfig(uri="http://127.0.0.1:9"))
    tracker.start(tmp_path, "demo", {})
    assert "cannot be started" in caplog.text
    assert "mypt runs sync" in (tracker.finish() or "")


def test_a_sender_that_dies_at_once_is_no_reason_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_state(tmp_path, SenderState(error="the last thing it said"))
    monkeypatch.setattr("sys.executable", "/bin/false")
    tracker = MlflowTracker(MlflowConfig(uri="http://127.0.0.1:9"))
    real = subprocess.Popen

    def stillborn(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        process: subprocess.Popen[bytes] = real(*args, **kwargs)
        process.wait()
        return process

    monkeypatch.setattr("subprocess.Popen", stillborn)
    tracker.start(tmp_path, "demo", {})
    assert "(the last thing it said)" in (tracker.finish() or "")


def test_a_tracker_that_was_never_started_has_nothing_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tracker = MlflowTracker(MlflowConfig())
    assert tracker.finish() is None
    assert tracker.ids() == {}


class TestParent:
    def test_it_is_done_when_it_closes_the_pipe(self, tmp_path: Path) -> None:
        read, write = os.pipe()
        parent = ParentProcess(tmp_path, os.getppid(), read)
        assert not parent.is_done()
        os.write(write, b"not the end")
        assert not parent.is_done()
        os.close(write)
        assert parent.is_done()
        parent.wait(0.001)
        assert parent.is_done()
        assert not parent.has_successor()
        os.close(read)

    def test_it_is_done_when_another_process_is_our_parent(self, tmp_path: Path) -> None:
        """Even while a child of it holds the pipe open."""
        read, write = os.pipe()
        parent = ParentProcess(tmp_path, os.getppid() + 1, read)
        assert parent.is_done()
        assert not parent.has_successor()
        with Journal(tmp_path):
            assert parent.has_successor()
        os.close(read)
        os.close(write)

    def test_the_wait_for_the_sender_before_us_ends_some_time_after_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("mypt_dist.tracking.mlflow_sender.__main__.POLL_S", 0.001)
        read, write = os.pipe()
        clock = Clock()
        wait = _patience(ParentProcess(tmp_path, os.getppid(), read), 10, clock)
        assert wait()
        clock.tick(1000)
        assert wait()
        os.close(write)
        assert wait()
        clock.tick(9)
        assert wait()
        clock.tick(1)
        assert not wait()
        os.close(read)


def test_no_secret_of_a_url_reaches_the_senders_log() -> None:
    record = logging.makeLogRecord({"msg": "no answer from %s", "args": ("http://me:canary@host/?k=canary",)})
    error = ValueError("postgresql://me:canary@host/db")
    record.exc_info = (ValueError, error, None)
    text = ScrubbingFormatter("%(message)s").format(record)
    assert "canary" not in text
    assert "no answer from http://host/" in text


def test_the_senders_settings_are_one_line_of_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sync` and a person can tell from the state what was asked for."""
    tracker = MlflowTracker(MlflowConfig(uri="http://127.0.0.1:9", experiment="e", run_name="r", flush_timeout_s=0))
    (tmp_path / "events.jsonl").write_text("{}\n")
    tracker.start(tmp_path, "the run's name", {})
    assert tracker._settings is not None
    settings = json.loads(tracker._settings.model_dump_json())
    assert settings | {"trainer_pid": 0} == {
        "uri": "http://127.0.0.1:9", "experiment": "e", "run_name": "r", "known_run_id": None,
        "trainer_pid": 0, "drain_s": 0.0, "events_before": 3,
    }  # fmt: skip
    assert settings["trainer_pid"] == os.getpid()
    tracker.finish()
