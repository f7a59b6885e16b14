"""``mypt plan`` as a user sees it."""

import json
import subprocess
import sys
from pathlib import Path

MYPT = [sys.executable, "-m", "mypt_dist", "plan"]


def plan(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*MYPT, *arguments], capture_output=True, text=True, check=False)


def test_a_plan_tells_memory_and_batches_and_starts_nothing(run_file: Path, tmp_path: Path) -> None:
    done = plan(str(run_file), "--target", "fsdp2", "--ranks", "2")
    assert done.returncode == 0, done.stderr
    assert "fsdp2 on 2 GPU ranks" in done.stdout
    assert "8 windows of 16 tokens" in done.stdout
    assert not (tmp_path / "run").exists()
    told = json.loads(plan(str(run_file), "--target", "fsdp2", "--ranks", "2", "--json").stdout)
    assert told["topology"]["engine"] == "fsdp2"
    assert told["memory"]["total"] == told["memory"]["tensors"] + told["memory"]["process"]


def test_too_little_memory_and_impossible_batches_end_with_2(run_file: Path) -> None:
    small = plan(str(run_file), "--target", "ddp", "--ranks", "2", "--memory", "0.5")
    assert small.returncode == 2
    uneven = plan(str(run_file), "--target", "ddp", "--ranks", "3")
    assert uneven.returncode == 2
    assert "train.batch_size 8 cannot be shared by 3 ranks" in uneven.stderr
    assert "Traceback" not in small.stderr + uneven.stderr
