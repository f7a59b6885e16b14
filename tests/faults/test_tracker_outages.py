"""A tracking server that hangs, fails and comes back: training does not wait, nothing is lost, nothing is doubled.

One `mlflow server` is shared by all tests, and each has its own way to it.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from chaos_proxy import MODES, ChaosProxy
from counted import SOAK, count
from lives import ForkServer, write_run
from mlflow_server import Run, Server, assert_everything_is_there_once, eventually

from mypt_dist.checkpoint.process import start_of
from mypt_dist.errors import LockError
from mypt_dist.tracking.journal import Journal, read_events, read_metrics
from mypt_dist.tracking.mlflow_sender.payload import points
from mypt_dist.tracking.mlflow_sender.state import read_state, write_state
from mypt_dist.tracking.mlflow_sender.sync import sync

pytestmark = pytest.mark.multiproc

CALLS = 20_000 if SOAK else 4_000
"""Of the journal while the server hangs."""
ROUNDS = 5 if SOAK else 1
"""Through all ways of failing."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def proxy(server: Server) -> Iterator[ChaosProxy]:
    with ChaosProxy(int(server.uri.rpartition(":")[2])) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def ranks() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


def lost_and_doubled(server: Server, run_dir: Path) -> tuple[int, int]:
    """Points of the journal that the server does not have, and points that it has more often than once."""
    wanted = [(name, row["step"]) for row in read_metrics(run_dir) for name in row if name not in ("step", "time")]
    ((run_id, _),) = server.runs(run_dir.name)
    found = [(key, step) for key, step, _, _ in server.points(run_id)]
    return len(set(wanted) - set(found)), len(found) - len(set(found))


def milliseconds(journal: Journal, first: int, last: int) -> list[float]:
    """How long each of these calls kept the training thread, ascending."""
    times = []
    for step in range(first, last + 1):
        begun = time.perf_counter()
        journal.log(step, {"train/loss": 10 / step, "system/cpu_utilization_percentage": step % 100})
        times.append(1000 * (time.perf_counter() - begun))
    return sorted(times)


def test_a_server_that_fails_in_every_way_gets_everything_once(
    tmp_path: Path, server: Server, proxy: ChaosProxy
) -> None:
    proxy.mode = "lost"
    run = Run.begin(tmp_path / "proxied", server, uri=proxy.uri)
    run.train(1, 20)
    # Created, and nobody heard of it: a second one is made, and the first must go.
    eventually("an answer gets lost", lambda: run.state.error is not None)
    step, outages = 20, 1
    for mode in MODES * ROUNDS:
        proxy.mode = "pass"
        run.train(step + 1, step + 20)
        step += 20
        eventually("all is sent again", lambda step=step: run.arrived() == 2 * step and run.state.error is None)
        proxy.mode, outages = mode, outages + 1
        run.train(step + 1, step + 300)
        step += 300
        before = proxy.requests
        if mode in ("trickle", "cut"):
            # Slow is not wrong, and where an answer begins with 200 its missing end may be of no importance.
            eventually("it is being answered", lambda before=before: proxy.requests > before)
        else:
            eventually(f"the sender notices: {mode}", lambda: run.state.error is not None)
    proxy.mode = "pass"
    run.end()
    assert_everything_is_there_once(server, run.run_dir, step)
    lost, doubled = lost_and_doubled(server, run.run_dir)
    assert (lost, doubled) == (0, 0)
    count(
        "tracker outage: refused, hanging, reset, 500, cut, answered in vain, trickling",
        "everything is there once when the server is back",
        outages=outages,
        points=2 * step,
        lost=lost,
        doubled=doubled,
    )


def test_training_does_not_wait_for_a_server_that_hangs(tmp_path: Path, server: Server) -> None:
    run = Run.begin(tmp_path / "unhurried", server)
    run.train(1, 10)
    eventually("the first points arrive", lambda: run.arrived() == 20)
    server.stop()
    try:
        times = milliseconds(run.journal, 11, 10 + CALLS // 2)
        eventually("the sender waits in vain", lambda: run.state.error is not None)
        times = sorted(times + milliseconds(run.journal, 11 + CALLS // 2, 10 + CALLS))
        assert run.tracker.ids()
    finally:
        server.stop(go_on=True)
    run.end()
    assert_everything_is_there_once(server, run.run_dir, 10 + CALLS)
    lost, doubled = lost_and_doubled(server, run.run_dir)
    # Of a noisy machine: the figure is told, not asserted. What this rules out is a request in the training thread.
    assert times[len(times) // 2] < 100
    count(
        "tracker outage: the server is stopped (SIGSTOP)",
        "the training thread is not kept: p99 of a call below 5 ms",
        calls=CALLS,
        lost=lost,
        doubled=doubled,
        p50_ms=round(times[len(times) // 2], 3),
        p99_ms=round(times[len(times) * 99 // 100], 3),
        max_ms=round(times[-1], 1),
    )


TRAINER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from mlflow_server import Run, Server
server = Server.__new__(Server)
server.uri = sys.argv[1]
run = Run.begin(Path(sys.argv[2]), server)
run.train(1, 50)
print(run.tracker._process.pid, flush=True)
time.sleep(600)
"""


def test_what_was_appended_and_not_sent_before_kill_9_is_sent_later(
    tmp_path: Path, server: Server, proxy: ChaosProxy
) -> None:
    proxy.mode = "hang"
    run_dir = tmp_path / "cut-short"
    command = [sys.executable, "-c", TRAINER, proxy.uri, str(run_dir), str(Path(__file__).parents[1])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        sender = int(trainer.stdout.readline())
        eventually("the sender asks", lambda: proxy.requests > 0)
        trainer.kill()
        os.kill(sender, signal.SIGKILL)
    eventually("the sender is dead", lambda: start_of(sender) is None)
    assert server.runs("cut-short") == []
    proxy.mode = "pass"
    reports = []

    def sent() -> bool:
        # A program that the sender has started may outlive it for a moment, and its lock with it.
        with suppress(LockError):
            reports.append(sync(run_dir))
        return bool(reports)

    eventually("the lock is free", sent)
    (report,) = reports
    assert (report.complete, report.points, report.status) == (True, 100, "killed")
    assert_everything_is_there_once(server, run_dir, 50, "KILLED")


def test_time_stamps_are_what_keeps_points_from_being_doubled(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "again"
    with Journal(run_dir) as journal:
        journal.event("start", params={}, tags={}, dataset=[], resumed_from_step=None)
        milliseconds(journal, 1, 10)
        journal.event("finish", status="finished", reason=None)
    sync(run_dir, server.uri)

    def send_all_again() -> tuple[int, int]:
        state = read_state(run_dir)
        assert state is not None
        write_state(run_dir, state.from_the_beginning())
        assert sync(run_dir).points == 20
        return lost_and_doubled(server, run_dir)

    assert send_all_again() == (0, 0)
    monkeypatch.setattr(
        "mypt_dist.tracking.mlflow_sender.redone.points", lambda row: points({**row, "time": row["time"] + 1})
    )
    assert send_all_again() == (0, 20)


def test_a_full_disk_costs_neither_the_run_nor_its_exit_code(
    tmp_path: Path, server: Server, ranks: ForkServer, run_mapping: dict[str, Any]
) -> None:
    patient, long = (write_run(run_mapping, tmp_path, name, steps=12, save_every=12) for name in ("patient", "long"))
    life = ranks.start(patient, inject={0: "journal_disk_full:3:9:10000"})
    assert life.wait() == [0]
    assert "training goes on" in life.said()
    assert [row["step"] for row in read_metrics(patient.with_suffix(""))] == list(range(1, 13))

    assert ranks.start(long, inject={0: "journal_disk_full:3:9:2"}).wait() == [0]
    run_dir = long.with_suffix("")
    steps = [row["step"] for row in read_metrics(run_dir)]
    assert steps[:3] == [1, 2, 3]
    assert steps[-4:] == [9, 10, 11, 12], "the newest are kept"
    finish = read_events(run_dir)[-1]
    assert (finish["status"], finish["lines_lost"] > 0) == ("finished", True)
    for folder in (patient.with_suffix(""), run_dir):
        assert sync(folder, server.uri).complete
        assert lost_and_doubled(server, folder) == (0, 0)
    count(
        "tracker outage: no room for the journal",
        "lines wait in memory, the oldest are dropped and counted where too many wait; the exit code is the run's own",
        runs=2,
        steps_without_room=6,
        dropped_of_a_short_queue=finish["lines_lost"],
        dropped_otherwise=0,
    )


ENDS: list[tuple[str, dict[int, str], list[str], int, str, str]] = [
    ("all steps done", {}, [], 0, "finished", "FINISHED"),
    ("stopped early", {}, ["train.stop_after=3"], 0, "stopped", "FINISHED"),
    ("SIGTERM", {0: "at_step:3:signal:SIGTERM"}, [], 143, "preempted", "KILLED"),
    ("SIGINT", {0: "at_step:3:signal:SIGINT"}, [], 130, "killed", "KILLED"),
    ("a bug", {0: "at_step:3:raise:RuntimeError"}, [], 1, "failed", "FAILED"),
    ("bad data", {0: "at_step:3:raise:DataError"}, [], 3, "failed", "FAILED"),
    ("no finite loss", {0: "at_step:3:raise:NumericError"}, [], 4, "failed", "FAILED"),
    ("no checkpoint", {0: "at_step:3:raise:SaveError"}, [], 5, "failed", "FAILED"),
    ("a lost peer", {1: "at_step:3:signal:SIGKILL"}, [], 7, "failed", "FAILED"),
    ("ended by the watchdog", {0: "at_step:3:exit:9"}, [], 9, "killed", "KILLED"),
    ("kill -9", {0: "at_step:3:signal:SIGKILL"}, [], -9, "killed", "KILLED"),
]
"""What happens, to which rank, with which settings; the exit code of rank 0, the run's own status, MLflow's."""


def test_every_end_of_a_run_has_its_true_status(
    tmp_path: Path, server: Server, ranks: ForkServer, run_mapping: dict[str, Any]
) -> None:
    for number, (what, faults, overrides, code, status, of_mlflow) in enumerate(ENDS):
        file = write_run(run_mapping, tmp_path, f"end-{number}", steps=4, save_every=4)
        life = ranks.start(file, *overrides, ranks=2 if 1 in faults else 1, inject=faults)
        assert life.wait()[0] == code, f"{what}: {life.said()}"
        report = sync(file.with_suffix(""), server.uri)
        assert (report.complete, report.status) == (True, status), what
        ((run_id, found),) = server.runs(f"end-{number}")
        assert (found, server.tags(run_id)["mypt.status"]) == (of_mlflow, status), what
    codes = {code for *_, code, _, _ in ENDS}
    count("every end of a run", "its true status in the journal and in MLflow", ends=len(ENDS), exit_codes=len(codes))
