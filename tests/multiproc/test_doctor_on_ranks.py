"""`mypt doctor` on several ranks: what only they can find out, told once."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.multiproc


def test_ranks_compare_folder_clocks_and_bandwidth(run_file: Path, launch: Any) -> None:
    # torchrun takes --run for a short form of its own options, wherever it stands.
    done = launch(2, "-m", "mypt_dist", "doctor", "--run-file", str(run_file), "--json", ACCELERATE_USE_CPU="true")
    report = json.loads(done.stdout)
    by_name = {check["name"]: check for check in report["checks"]}
    assert report["ranks"] == 2
    assert [by_name[name]["status"] for name in ("ranks", "same folder", "clocks")] == ["ok"] * 3
    assert "by gloo, 2 ranks" in by_name["bandwidth"]["found"]
    assert by_name["port"]["status"] == "skip"


def test_what_one_rank_finds_all_end_with(run_file: Path, tmp_path: Path) -> None:
    """By `mypt launch --doctor`: a dataset that is missing."""
    command = [sys.executable, "-m", "mypt_dist", "launch", "cpu", str(run_file), f"data.path={tmp_path / 'none'}"]
    done = subprocess.run([*command, "--doctor"], check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode != 0
    assert "fail  data" in done.stdout
    assert done.stdout.count("to do:") >= 1
    assert done.stdout.count("ok    python") == 1, "rank 0 speaks for all"
