"""A supervised run whose ranks and launcher are killed again and again ends as one that was left alone."""

import json
import random
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from counted import SOAK, count
from supervised_runs import (
    Supervisor,
    ended,
    kill,
    launcher_of,
    manifest,
    ranks_of,
    wait_for_another_checkpoint,
    wait_for_ranks,
)

from mypt_dist.checkpoint import verify_checkpoint

pytestmark = pytest.mark.multiproc

DEADLY = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS)

PLANNED = [("launcher", signal.SIGKILL)]
"""What the quick part does: what no other test does."""

SOAKED = 40
"""Kills of the long part, at random."""


def victims() -> list[tuple[str, signal.Signals]]:
    draw = random.Random(7)
    drawn = [(draw.choice(("rank 0", "rank 1", "launcher")), draw.choice(DEADLY)) for _ in range(SOAKED)]
    return drawn if SOAK else PLANNED


@pytest.mark.timeout(3600 if SOAK else 300)
def test_the_end_is_that_of_a_run_that_was_left_alone(run_mapping: dict[str, Any], tmp_path: Path, launch: Any) -> None:
    kills = victims()
    train = {**run_mapping["train"], "steps": 100_000, "save_every": 5, "eval_every": 50_000}
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**run_mapping, "train": train, "checkpoints": {"keep_last": 2}}))
    supervisor = Supervisor(path)
    for who, number in kills:
        wait_for_another_checkpoint(tmp_path / "run", supervisor)
        for pid in launcher_of(path) if who == "launcher" else ranks_of(path, RANK=who[-1]):
            kill(pid, number)
    wait_for_ranks(path, supervisor)
    wait_for_another_checkpoint(tmp_path / "run", supervisor)
    supervisor.terminate()
    code, output = ended(supervisor)
    assert code == 143, output
    mine = manifest(tmp_path / "run")
    there = [f"out={tmp_path / 'alone'}", f"train.stop_after={mine.step}", f"train.save_every={mine.step}"]
    launch(2, "-m", "mypt_dist", "train", str(path), *there, ACCELERATE_USE_CPU="true")
    alone = manifest(tmp_path / "alone")
    restarts = len(re.findall(r"supervisor: .*; restart 1 of 3", output))
    assert verify_checkpoint(tmp_path / "run") == []
    assert (mine.step, mine.order_hash) == (alone.step, alone.order_hash)
    tensors = [name for name in mine.files if name.endswith(".safetensors")]
    assert [mine.files[name] for name in tensors] == [alone.files[name] for name in tensors]
    assert restarts >= len(PLANNED)
    count(
        "ranks and launcher of a supervised run are killed (SIGKILL, SIGSEGV, SIGABRT, SIGBUS), again and again",
        "resumed by itself each time; weights, moments and order of data bit for bit those of a run left alone",
        kills=len(kills),
        restarts=restarts,
        bits_that_differ=0,
    )
