"""Signals, dead ranks, launchers: what happens to one rank must end well on all."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import launch_command
from engines import zero

from mypt_dist.checkpoint import open_checkpoint, verify_checkpoint

pytestmark = pytest.mark.multiproc

ROOT = Path(__file__).parents[2]


def endless(run_mapping: dict[str, Any], tmp_path: Path) -> Path:
    """A run that goes on until it is stopped."""
    train = {**run_mapping["train"], "steps": 100_000, "save_every": 50_000, "eval_every": 50_000}
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**run_mapping, "train": train}))
    return path


def start(run_file: Path, ranks: int) -> subprocess.Popen[str]:
    command = launch_command(ranks, "-m", "mypt_dist", "train", str(run_file))
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_steps(folder: Path, agent: subprocess.Popen[str], steps: int = 5) -> None:
    metrics = folder / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if metrics.exists() and metrics.read_text().count("train/loss") >= steps:
            return
        assert agent.poll() is None, agent.communicate()[0]
        time.sleep(0.1)
    agent.kill()
    raise AssertionError(f"no {steps} steps in two minutes")


def worker(agent: subprocess.Popen[str], rank: int) -> int:
    """Process id of a rank."""
    for pid in Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split():
        if f"\0RANK={rank}\0" in f"\0{Path(f'/proc/{pid}/environ').read_text()}":
            return int(pid)
    raise AssertionError(f"rank {rank} is not a child of the launcher")


def test_a_signal_to_one_rank_stops_all_at_one_step_with_a_checkpoint(
    run_mapping: dict[str, Any], tmp_path: Path, launch: Any
) -> None:
    path, folder = endless(run_mapping, tmp_path), tmp_path / "run"
    agent = start(path, 2)
    wait_for_steps(folder, agent)
    os.kill(worker(agent, 1), signal.SIGTERM)
    output = agent.communicate(timeout=60)[0]
    assert agent.returncode != 0
    assert len(re.findall(r"exitcode +: 143", output)) >= 1, output
    assert ", saved; the same command resumes" in output
    (checkpoint,) = (folder / "checkpoints").iterdir()
    assert verify_checkpoint(checkpoint) == []
    stopped = open_checkpoint(folder).manifest.step
    ended = json.loads((folder / "events.jsonl").read_text().splitlines()[-1])
    assert ended["status"] == "preempted"
    launch(2, "-m", "mypt_dist", "train", str(path), f"train.stop_after={stopped + 2}")
    assert open_checkpoint(folder).manifest.step == stopped + 2
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if "train/loss" in row]
    assert steps == list(range(1, stopped + 3)), "nothing lost, nothing twice"


def test_a_killed_rank_is_noticed_by_the_others(run_mapping: dict[str, Any], tmp_path: Path) -> None:
    agent = start(endless(run_mapping, tmp_path), 2)
    wait_for_steps(tmp_path / "run", agent)
    survivor = worker(agent, 0)
    os.kill(worker(agent, 1), signal.SIGKILL)
    output = agent.communicate(timeout=60)[0]
    assert agent.returncode != 0
    assert not Path(f"/proc/{survivor}").exists()
    # Either the rank tells its own story, or the launcher was faster and ended it.
    assert "mypt: another rank died or stopped answering" in output or "SIGTERM" in output, output


@pytest.mark.parametrize("ranks", ["2"])
def test_accelerate_launch_with_our_file_starts_connected_ranks(run_file: Path, tmp_path: Path, ranks: str) -> None:
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(ROOT / "launch/accelerate/cpu.yaml"),
    ]
    command += ["--num_processes", ranks, "-m", "mypt_dist", "train", str(run_file)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "ACCELERATE_USE_CPU": "true"}
    )
    assert done.returncode == 0, done.stderr
    assert open_checkpoint(tmp_path / "run").manifest.world_size == int(ranks)
    assert done.stderr.count("2 cpu ranks (ddp, fp32)") == 1


def test_zero_compiles_nothing_and_waits_for_no_lock_of_the_dead(run_file: Path, tmp_path: Path, launch: Any) -> None:
    folder = tmp_path / "extensions"
    lock = folder / "deepspeed_shm_comm/lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    launch(2, "-m", "mypt_dist", "train", str(run_file), **zero(1), TORCH_EXTENSIONS_DIR=str(folder))
    assert [file for file in folder.rglob("*") if file.is_file()] == [lock]
