"""A real `mlflow server` that is not there, dies and comes back: nothing is lost, nothing is doubled.

The tests share one server, whose start is the slow part. In their order it is started twice: it is down for the
first test, which starts it, and is killed and started again by the second.
"""

import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow_server import Run, Server, assert_everything_is_there_once, eventually

from mypt_dist.tracking.journal import Journal
from mypt_dist.tracking.mlflow_sender.sync import sync

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


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
from mlflow_server import Run, Server
server = Server.__new__(Server)
server.uri = sys.argv[1]
run = Run.begin(Path(sys.argv[2]), server)
run.train(1, 50)
time.sleep(600)
"""


def test_a_trainer_that_is_killed_leaves_a_killed_run_which_a_resume_continues(tmp_path: Path, server: Server) -> None:
    server.start()
    run_dir = tmp_path / "mortal"
    trainer = subprocess.Popen(
        [sys.executable, "-c", TRAINER, server.uri, str(run_dir), str(Path(__file__).parents[1])]
    )
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
