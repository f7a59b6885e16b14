"""`mypt launch --supervise` with real ranks: what is killed comes back and ends as if nothing had been."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from supervised_runs import Supervisor, ended, kill, manifest, ranks_of, wait_for_another_checkpoint, wait_for_ranks

import mypt_dist
from mypt_dist.checkpoint import verify_checkpoint

pytestmark = pytest.mark.multiproc

STEPS = 60


@pytest.fixture
def run_file(run_mapping: dict[str, Any], tmp_path: Path) -> Path:
    """Long enough to be killed in the middle."""
    train = {**run_mapping["train"], "steps": STEPS, "save_every": 15, "eval_every": STEPS}
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**run_mapping, "train": train}))
    return path


@contextmanager
def killing(run_file: Path, **variables: str) -> Iterator[None]:
    """Such a rank dies as soon as it has begun, again and again."""
    over = threading.Event()

    def go_on() -> None:
        while not over.wait(0.05):
            for pid in ranks_of(run_file, **variables):
                kill(pid)

    killer = threading.Thread(target=go_on)
    killer.start()
    try:
        yield
    finally:
        over.set()
        killer.join()


def test_a_killed_rank_comes_back_and_the_run_ends_as_planned(
    run_file: Path, run_mapping: dict[str, Any], tmp_path: Path
) -> None:
    """That not a bit differs from a run that was left alone, the fault tests show."""
    train = {**run_mapping["train"], "steps": STEPS, "eval_every": STEPS, "save_every": STEPS}
    mypt_dist.train({**run_mapping, "train": train, "out": str(tmp_path / "alone")})
    supervisor = Supervisor(run_file)
    # Found before, since the run is over soon after its first checkpoint.
    (victim,) = wait_for_ranks(run_file, supervisor, RANK="1")
    wait_for_another_checkpoint(tmp_path / "run", supervisor)
    kill(victim)
    code, output = ended(supervisor)
    assert code == 0, output
    assert len(re.findall(r"supervisor: rank 1 died without a word.*; restart 1 of 3", output)) == 1, output
    assert "resuming at step" in output
    mine, alone = manifest(tmp_path / "run"), manifest(tmp_path / "alone")
    assert mine.step == alone.step == STEPS
    assert mine.order_hash == alone.order_hash


def test_a_mistake_of_the_user_is_not_repeated(run_file: Path, tmp_path: Path) -> None:
    code, output = ended(Supervisor(run_file, f"data.path={tmp_path / 'nowhere'}"))
    assert code == 2, output
    assert "supervisor: not restarted, rank 0: bad configuration or input (exit code 2)" in output
    assert output.count("nowhere") >= 2


def test_a_crash_loop_is_left(run_file: Path) -> None:
    with killing(run_file, RANK="1"):
        code, output = ended(Supervisor(run_file, "--max-restarts", "1"))
    assert code == 7, output
    assert "supervisor: given up after 1 restarts at step 0 without a new checkpoint" in output


def test_where_four_ranks_always_die_two_finish_with_the_same_batch(run_file: Path, tmp_path: Path) -> None:
    with killing(run_file, RANK="3", WORLD_SIZE="4"):
        code, output = ended(Supervisor(run_file, "--ranks", "4", "--min-ranks", "2", "--max-restarts", "0"))
    assert code == 0, output
    assert "going on with 2 ranks instead of 4" in output
    last = manifest(tmp_path / "run")
    assert (last.step, last.world_size) == (STEPS, 2)
    assert last.samples == STEPS * 8


def test_a_stop_is_passed_on_saved_and_reported(run_file: Path, tmp_path: Path) -> None:
    supervisor = Supervisor(run_file, "train.steps=100000", "train.save_every=10")
    wait_for_another_checkpoint(tmp_path / "run", supervisor)
    supervisor.terminate()
    code, output = ended(supervisor)
    assert code == 143, output
    assert "saved; the same command resumes" in output
    assert verify_checkpoint(tmp_path / "run") == []
    assert ranks_of(run_file) == []
