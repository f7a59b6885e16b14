"""The shipped job script on a real Slurm of two nodes: preempted, warned, put back, and as exact as if left alone."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from counted import count
from hosts import NEEDS_ROOT
from lives import ForkServer, eventually, final, lost_work, steps_done, write_run
from slurm import Job, Slurm, two_node_slurm

from mypt_dist.checkpoint import verify_checkpoint
from mypt_dist.tracking.journal import read_events

pytestmark = [NEEDS_ROOT, pytest.mark.cluster, pytest.mark.timeout(900)]

SCRIPT = Path(__file__).parents[2] / "launch/slurm/train.sbatch"

STAND_IN = """\
#!/bin/bash
# Says what it was told, and ends as it is told.
trap 'echo heard SIGTERM; exit 143' TERM
echo "started again ${SLURM_RESTART_COUNT:-0} times"
for _ in $(seq "$TENTHS"); do sleep 0.1; done
exit 9
"""
"""For ``mypt``, where only the script's decisions matter."""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with two_node_slurm(tmp_path_factory.mktemp("slurm")) as slurm:
        yield slurm


def submit(slurm: Slurm, run_file: Path, *options: str, **environment: str) -> Job:
    """The script as it is shipped. A node here has one GPU, and computes on its processor nevertheless."""
    variables = {"RUNFILE": str(run_file), "TARGET": "cpu", "RUN": str(run_file.with_suffix("")), "VENV": sys.prefix}
    command = ["--gpus-per-node=1", *options, str(SCRIPT)]
    return slurm.submit(*command, log=run_file.with_suffix(".log"), environment={**variables, **environment})


def let_it_train(job: Job, run: Path, steps: int, restarts: int) -> None:
    """``steps`` further ones, in the attempt after so many restarts."""
    job.wait_for("RUNNING", restarts)
    before = steps_done(run)
    eventually(f"it trains\n{job.told()}", lambda: steps_done(run) >= before + steps)


def time_is_nearly_up(job: Job) -> None:
    """Move the time limit to a few minutes from now: Slurm looks every 30 seconds whom it has to warn."""
    hours, minutes, _ = job.told()["RunTime"].split(":")
    job.update(f"TimeLimit={60 * int(hours) + int(minutes) + 4}")


def mlflow_runs(database: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)) as store:
        return store.execute("SELECT name, status FROM runs").fetchall()


def test_a_job_that_is_preempted_and_runs_out_of_time_ends_as_if_left_alone(
    run_mapping: dict[str, Any], tmp_path: Path, slurm: Slurm
) -> None:
    endless = {"steps": 100_000, "save_every": 50_000, "eval_every": 50_000, "log_every": 10}
    constant = {"schedule": {"shape": "constant"}}
    tracker = {"type": "mlflow", "uri": f"sqlite:///{tmp_path}/mlflow.db"}
    watched = {**run_mapping, "trackers": [tracker], "name": "queued"}
    file = write_run(watched, tmp_path, "queued", **endless, **constant)
    run = file.with_suffix("")
    job = submit(slurm, file)

    let_it_train(job, run, 20, restarts=0)
    slurm.ask("scontrol", "requeue", job.number)

    let_it_train(job, run, 20, restarts=1)
    time_is_nearly_up(job)
    job.wait_for("PENDING", 2)
    job.update("TimeLimit=60")
    end = steps_done(run) + 20
    write_run(watched, tmp_path, "queued", **{**endless, **constant, "steps": end})

    done = job.wait_for("COMPLETED", 2)
    assert done["ExitCode"] == "0:0"
    assert "host-[0-1]" in done["NodeList"]
    assert verify_checkpoint(run / f"checkpoints/step-{end:08}") == []
    assert lost_work(run) == [0, 0]
    ends = [event["status"] for event in read_events(run) if event["kind"] == "finish"]
    assert ends == ["preempted", "preempted", "finished"]
    assert "put back into the queue" in job.said()
    # On a machine that has no time, MLflow may not have got everything before the job ended.
    subprocess.run([sys.executable, "-m", "mypt_dist", "runs", "sync", str(run)], check=True)
    assert mlflow_runs(tmp_path / "mlflow.db") == [("queued", "FINISHED")]

    alone = write_run(run_mapping, tmp_path, "alone", **{**endless, **constant, "steps": end})
    with ForkServer() as server:
        assert server.start(alone, ranks=2).wait() == [0, 0]
    assert final(run) == final(alone.with_suffix(""))
    count(
        "Slurm: a job on two nodes is requeued by `scontrol requeue`, and by the warning before its time limit",
        "saved, put back, continued and finished as one MLflow run; bit-identical to a run that was left alone",
        restarts=int(done["Restarts"]),
        steps_done_again=0,
        mlflow_runs=1,
        differing=0,
    )


def test_a_mistake_fails_the_job_and_is_not_tried_again(
    run_mapping: dict[str, Any], tmp_path: Path, slurm: Slurm
) -> None:
    file = write_run(run_mapping, tmp_path, "wrong", stepz=3)
    job = submit(slurm, file)
    assert job.wait_for("FAILED")["ExitCode"] == "2:0"
    assert "train.stepz" in job.said()
    assert not file.with_suffix("").exists()


def test_a_crash_loop_ends_and_a_cancelled_job_stays_so(tmp_path: Path, slurm: Slurm) -> None:
    """Side by side, each on a node of its own."""
    program = tmp_path / "environment/bin/mypt"
    program.parent.mkdir(parents=True)
    program.write_text(STAND_IN)
    program.chmod(0o755)
    venv = str(tmp_path / "environment")
    crashing = submit(slurm, tmp_path / "crashing.json", "--nodes=1", VENV=venv, TENTHS="1")
    cancelled = submit(slurm, tmp_path / "cancelled.json", "--nodes=1", VENV=venv, TENTHS="3000")
    eventually("it has started", lambda: "started" in cancelled.said())
    slurm.ask("scancel", cancelled.number)
    assert cancelled.wait_for("CANCELLED")["Restarts"] == "0"
    assert "heard SIGTERM" in cancelled.said()

    assert crashing.wait_for("FAILED", restarts=2)["ExitCode"] == "9:0"
    assert crashing.said().count("started again") == 3
    assert "3 starts in a row without a new checkpoint, given up; exit codes: 9 9 9" in crashing.said()
