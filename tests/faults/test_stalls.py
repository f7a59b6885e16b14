"""A rank that stalls, anywhere and in any way: the right one is named, all end, and nothing waits for hours."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import launch_command
from counted import SOAK, count

from mypt_dist.errors import HUNG
from mypt_dist.watch.guard import state_of
from mypt_dist.watch.limits import PHASES

pytestmark = pytest.mark.multiproc

HERE = Path(__file__).parent
RANKS = 3
WAYS = ("sleep", "hold-the-lock", "stop")
STARTING = ("start", "rendezvous", "data", "model", "restore")
UNLOCKED = ("start", "rendezvous")
"""Phases in which the run's folder is not yet locked: a hang is told on stderr alone."""

ALIKE = ("vote", "end")
"""Phases in which the others wait as well: only their stacks differ, and these ranks have no real collectives."""

Drill = tuple[str, int, str]


def drills() -> list[Drill]:
    """(phase, rank, way): all in a soak, else some phases with the others drawn."""
    if SOAK:
        return [(phase, rank, way) for phase in PHASES for rank in range(RANKS) for way in WAYS]
    draw = random.Random(20)
    phases = ("rendezvous", "restore", "data_wait", "forward", "save")
    return [(phase, draw.randrange(RANKS), WAYS[number % 3]) for number, phase in enumerate(phases)]


def step_of(phase: str) -> int:
    """Between steps belongs to the next one."""
    return 0 if phase in STARTING else 5 if phase == "end" else 3


def begin(folder: Path, rank: int, ranks: int, drill: Drill, watched: str = "watched") -> "subprocess.Popen[str]":
    phase, victim, way = drill
    numbers = [str(rank), str(ranks), str(victim), phase, str(step_of(phase))]
    command = [sys.executable, str(HERE / "stalling_ranks.py"), str(folder), *numbers, way, watched]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def stall(folder: Path, drill: Drill) -> list[tuple[int, str]]:
    """(exit code, stderr) of every rank."""
    processes = [begin(folder, rank, RANKS, drill) for rank in range(RANKS)]
    return [(process.returncode, errors) for process in processes for _, errors in [process.communicate(timeout=120)]]


def named(folder: Path, drill: Drill, ends: list[tuple[int, str]]) -> bool:
    """Whether the victim's own report names it, its phase and its step, and lists it first."""
    phase, victim, _ = drill
    line = f"[rank {victim}] hangs: "
    if line not in ends[victim][1] or f"in phase {phase} of step {step_of(phase)} on " not in ends[victim][1]:
        return False
    if phase in UNLOCKED + ALIKE:
        return True
    (path,) = (folder / "hangs").glob(f"step-*-rank-{victim:05}-*.txt")
    rows = path.read_text().partition("\nrank  ")[2].splitlines()
    return rows[1].split()[0] == str(victim) and phase in rows[1]


@pytest.mark.timeout(3000 if SOAK else 300)
def test_the_rank_and_the_phase_that_stall_are_named_and_all_ranks_end(tmp_path: Path) -> None:
    right = ended = 0
    todo = drills()
    folders = [tmp_path / str(number) for number in range(len(todo))]
    # They mostly wait: two at a time.
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(stall, folders, todo))
    for folder, drill, ends in zip(folders, todo, outcomes, strict=True):
        # Who cannot run any Python is killed.
        assert ends[drill[1]][0] in ({HUNG} if drill[2] == "sleep" else {HUNG, -signal.SIGKILL}), (drill, ends)
        ended += sum(code != 0 for code, _ in ends)
        assert named(folder, drill, ends), (drill, ends)
        right += 1
    count(
        "stall of a random rank in each phase: sleep, interpreter lock held, SIGSTOP",
        "the right rank and phase are named, its exit code is 9 (or it is killed), the others end",
        stalls=len(todo),
        named=right,
        ranks_ended=ended,
    )
    assert ended == RANKS * len(todo)


def test_without_a_watchdog_a_stall_lasts_until_somebody_comes(tmp_path: Path) -> None:
    """The mutation twin: the same stall, twice as long as the limit, and nothing ends it."""
    drill = ("forward", 0, "sleep")
    rank = begin(tmp_path, 0, 1, drill, "unwatched")
    with pytest.raises(subprocess.TimeoutExpired):
        rank.communicate(timeout=8)
    rank.kill()
    assert "hangs" not in rank.communicate()[1]


def run_file(run_mapping: dict[str, Any], tmp_path: Path, **watch: object) -> Path:
    limits = {"first_step_s": 120, "step_s": 60, "evaluate_s": 60, "save_s": 60, "grace_s": 3, "heartbeat_s": 1}
    train = {**run_mapping["train"], "steps": 100_000, "save_every": 50_000, "eval_every": 50_000}
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**run_mapping, "train": train, "watch": {**limits, **watch}}))
    return path


def start(run_file: Path, *stall: str) -> "subprocess.Popen[str]":
    driver = str(HERE / "stalling_train.py")
    command = launch_command(2, driver, str(run_file), *stall)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_real_rank_that_stalls_in_its_forward_pass_is_named_and_its_peer_ends(
    run_mapping: dict[str, Any], tmp_path: Path
) -> None:
    agent = start(run_file(run_mapping, tmp_path, step_s=10), "1", "forward", "4", "hold-the-lock")
    output = agent.communicate(timeout=200)[0]
    assert "[rank 1] hangs: 8 s in phase forward of step 4" in output, output
    assert re.search(r"exitcode +: (9|-9) ", output), output
    (path,) = (tmp_path / "run/hangs").glob("step-00000004-rank-00001-*.txt")
    assert "train_step" in path.read_text()
    assert "\n1 " in path.read_text().partition("\nrank  ")[2], "the first row"


def test_a_stopped_rank_is_missed_after_the_short_time_out_with_exit_code_7(
    run_mapping: dict[str, Any], tmp_path: Path
) -> None:
    """Also the mutation twin of the watchdog: without one nobody says which phase it was."""
    path = run_file(run_mapping, tmp_path, step_s=10, watchdog=False)
    agent = start(path, "1", "backward", "4", "stop")
    lines: list[str] = []
    with agent:
        assert agent.stdout is not None
        for line in agent.stdout:
            lines.append(line)
            if line.startswith("stalling process"):
                stopped, since = int(line.split()[-1]), time.monotonic()
            if "mypt: another rank died" in line:
                waited = time.monotonic() - since
            if "closing signal SIGTERM" in line:
                # The launcher has seen the other one end, and would give this one half a minute to obey.
                os.kill(stopped, signal.SIGKILL)
    output = "".join(lines)
    assert "Timed out waiting 10000ms" in output, output
    assert re.search(r"exitcode +: 7 ", output), output
    assert not (tmp_path / "run/hangs").exists()
    count(
        "SIGSTOP of one of two ranks, without watchdog",
        "the other ends with exit code 7 after watch.step_s",
        step_s=10,
        seconds=round(waited, 1),
    )


def test_when_the_launcher_is_killed_its_ranks_die_and_the_run_starts_again_at_once(
    run_mapping: dict[str, Any], tmp_path: Path
) -> None:
    path = run_file(run_mapping, tmp_path)
    agent = start(path, "0", "none", "0", "none")
    eventually(lambda: steps(tmp_path) >= 3, "three steps")
    ranks = [int(pid) for pid in Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()]
    since = time.monotonic()
    agent.kill()
    agent.wait()
    assert agent.stdout is not None
    agent.stdout.close()
    eventually(lambda: all(state_of(rank) in ("", "Z", "X") for rank in ranks), "the ranks live on")
    gone = time.monotonic() - since
    again = launch_command(2, "-m", "mypt_dist", "train", str(path), "train.stop_after=2")
    done = subprocess.run(again, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "took over the lock" in done.stderr
    count(
        "kill -9 of the launcher of two ranks",
        "no rank trains on, and the same command starts again at once",
        ranks=len(ranks),
        orphans=0,
        seconds=round(gone, 1),
    )


@pytest.mark.parametrize("phase", ["data_wait", "forward"] if SOAK else ["forward"])
def test_a_rank_that_is_slow_is_named_in_numbers_and_in_the_log(
    run_mapping: dict[str, Any], tmp_path: Path, phase: str
) -> None:
    path = run_file(run_mapping, tmp_path)
    output, _ = start(path, "1", phase, "every", "slow", "train.stop_after=6").communicate(timeout=200)
    assert output.count("rank 1 is slow; milliseconds per step, busiest first:\n") == 1, output
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    told = [row for row in rows if "time/slowest_rank" in row]
    assert [row["time/slowest_rank"] for row in told][1:] == [1.0] * 5, "the first one has the start in it"
    assert all(row["time/busy_ms_max"] > 200 for row in told)


def steps(folder: Path) -> int:
    metrics = folder / "run/metrics.jsonl"
    return metrics.read_text().count("train/loss") if metrics.exists() else 0


def eventually(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
