"""A signal to any rank, or a file in the run's folder, at any moment: all ranks stop at one step, saved."""

import json
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from counted import SOAK, count
from lives import ColdLife, ForkServer, Life, eventually, steps_done, write_run

from mypt_dist.checkpoint import open_checkpoint, verify_checkpoint
from mypt_dist.checkpoint.lock import LOCK
from mypt_dist.tracking.journal import read_events

pytestmark = pytest.mark.multiproc

STATUS = {"SIGTERM": "preempted", "SIGINT": "killed", "SIGUSR1": "preempted", "SIGHUP": "killed"}
"""What the journal says of a run that a signal ended."""

ENDLESS = {"steps": 100_000, "save_every": 50_000, "eval_every": 50_000}
"""It goes on until it is stopped."""
DRILLS = 100 if SOAK else 8
LAUNCHER_DRILLS = 8 if SOAK else 1


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


def wait_for_a_moment(life: Life, folder: Path, moments: random.Random) -> None:
    """From when the program listens, before its first step, up to its 30th."""
    until = moments.randint(-8, 30)
    if until > 0:
        eventually("the next steps", lambda: steps_done(folder) >= until or life.ended())
    else:
        eventually("it starts", lambda: (folder / LOCK).exists() or life.ended())
    time.sleep(moments.uniform(0, 0.03))


def assert_stopped_by(name: str, life: Life, folder: Path) -> int:
    """All ranks have, at one step, with a verified checkpoint and a true record; the step."""
    codes = life.wait()
    assert set(codes) == {128 + signal.Signals[name]}, f"{name}: {codes}\n{life.said()}"
    return assert_saved(folder, STATUS[name], life)


def assert_saved(folder: Path, status: str, life: Life) -> int:
    step = 0
    if steps_done(folder):
        with open_checkpoint(folder) as checkpoint:
            step = int(checkpoint.manifest.step)
        assert verify_checkpoint(folder / f"checkpoints/step-{step:08}") == []
    else:
        assert not list((folder / "checkpoints").glob("step-*")), "before the first step there is nothing to save"
    assert steps_done(folder) == step, "no rank went on, and no step is lost"
    (finish,) = [event for event in read_events(folder) if event["kind"] == "finish"]
    assert finish["status"] == status, life.said()
    return step


def assert_nothing_lost_and_nothing_twice(folder: Path, last: int) -> None:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "train/loss" in row] == list(range(1, last + 1))


def drill(name: str, number: int, mapping: dict[str, Any], path: Path, server: ForkServer) -> None:
    """Stop a run of 2 or 4 ranks, see that it is stopped as it should be, and let it go on for two steps."""
    moments = random.Random(number)
    ranks = 4 if number % 5 == 4 else 2
    file = write_run(mapping, path, f"drill-{number}", **ENDLESS)
    folder = file.with_suffix("")
    life = server.start(file, ranks=ranks)
    wait_for_a_moment(life, folder, moments)
    life.send(signal.Signals[name], moments.randrange(ranks))
    stopped = assert_stopped_by(name, life, folder)
    assert set(server.start(file, f"train.stop_after={stopped + 2}", ranks=ranks).wait()) == {0}
    assert_nothing_lost_and_nothing_twice(folder, stopped + 2)


@pytest.mark.timeout(3600 if SOAK else 600)
def test_a_signal_to_any_rank_at_any_moment_stops_all_at_one_step(
    run_mapping: dict[str, Any], tmp_path: Path, server: ForkServer
) -> None:
    signals = list(STATUS)
    for number in range(DRILLS):
        drill(signals[number % len(signals)], number, run_mapping, tmp_path, server)
    count(
        "preemption: a signal to one rank",
        "all ranks stop at one step with a verified checkpoint, exit with 128 + signal, and go on later",
        drills=DRILLS,
        signals=len(signals),
        steps_lost=0,
        steps_done_twice=0,
    )


@pytest.mark.timeout(3600 if SOAK else 600)
def test_a_signal_to_the_launcher_stops_all_ranks_saved(run_mapping: dict[str, Any], tmp_path: Path) -> None:
    signals = ["SIGTERM", "SIGINT"]
    drills = 0
    for number in range(LAUNCHER_DRILLS):
        for name in signals:
            file = write_run(
                run_mapping, tmp_path, f"{name}-{number}", steps=10_000, save_every=10_000, eval_every=9999
            )
            folder = file.with_suffix("")
            life = ColdLife.begin(file, 2)
            eventually("its first steps", lambda folder=folder: steps_done(folder) >= 3)  # type: ignore[misc]
            life.send(signal.Signals[name], 0)
            assert life.wait() != [0], "the launcher has codes of its own"
            step = assert_saved(folder, STATUS[name], life)
            assert_nothing_lost_and_nothing_twice(folder, step)
            drills += 1
    count(
        "preemption: a signal to the launcher",
        "all ranks stop at one step with a verified checkpoint",
        drills=drills,
        signals=len(signals),
        steps_lost=0,
        steps_done_twice=0,
    )


def test_a_rank_that_is_deaf_is_found_out(run_mapping: dict[str, Any], tmp_path: Path, server: ForkServer) -> None:
    file = write_run(run_mapping, tmp_path, "deaf", steps=12, save_every=50, eval_every=50)
    life = server.start(file, ranks=2, inject={1: "without_ears"})
    wait_for_a_moment(life, file.with_suffix(""), random.Random(0))
    life.send(signal.SIGTERM, 1)
    with pytest.raises(AssertionError, match=r"SIGTERM: \[0, 0\]"):
        assert_stopped_by("SIGTERM", life, file.with_suffix(""))


def save_now(mapping: dict[str, Any], path: Path, server: ForkServer) -> None:
    """The run saves, removes the file and goes on."""
    file = write_run(mapping, path, "saving", **ENDLESS)
    folder = file.with_suffix("")
    life = server.start(file, ranks=2)
    wait_for_a_moment(life, folder, random.Random(0))
    (folder / "SAVE_NOW").touch()
    eventually("it is saved", lambda: any((folder / "checkpoints").glob("step-*[0-9]")))
    eventually("the file is gone", lambda: not (folder / "SAVE_NOW").exists())
    life.send(signal.SIGTERM, 1)
    stopped = assert_stopped_by("SIGTERM", life, folder)
    saves = [event["step"] for event in read_events(folder) if event["kind"] == "checkpoint"]
    assert (len(saves), saves[-1]) == (2, stopped)
    assert_nothing_lost_and_nothing_twice(folder, stopped)


def stop(mapping: dict[str, Any], path: Path, server: ForkServer) -> None:
    """The run saves and ends with 0, and its next start does not stop because of the same file."""
    file = write_run(mapping, path, "stopping", **ENDLESS)
    folder = file.with_suffix("")
    life = server.start(file, ranks=2)
    wait_for_a_moment(life, folder, random.Random(0))
    (folder / "STOP").touch()
    assert life.wait() == [0, 0]
    stopped = assert_saved(folder, "stopped", life)
    assert set(server.start(file, f"train.stop_after={stopped + 2}", ranks=2).wait()) == {0}
    assert_nothing_lost_and_nothing_twice(folder, stopped + 2)


def test_a_file_in_the_run_folder_is_obeyed_by_all_ranks(
    run_mapping: dict[str, Any], tmp_path: Path, server: ForkServer
) -> None:
    for obeyed in (save_now, stop):
        obeyed(run_mapping, tmp_path, server)
