"""`mypt rehearse` for real: two virtual nodes, three starts, and not a process or a folder left."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mypt_dist.run.rehearse.household import MARK, members
from mypt_dist.run.rehearse.perform import NAMES

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(900)]


def start(tmp_path: Path, *arguments: str) -> "subprocess.Popen[str]":
    """`mypt rehearse`, whose temporary folder is below ``tmp_path``."""
    (tmp_path / "tmp").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "mypt_dist", "rehearse", str(tmp_path / "run.json"), *arguments]
    environ = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)


def told(tmp_path: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and report."""
    process = start(tmp_path, *arguments, "--json")
    out, err = process.communicate(timeout=800)
    assert out, err
    return process.returncode, json.loads(out)


def left_over(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "tmp").iterdir() if path.name.startswith("mypt-rehearsal-")]


def marked() -> list[str]:
    """Tokens of rehearsals that live."""
    values = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            values += [text for text in path.read_text(errors="replace").split("\0") if text.startswith(f"{MARK}=")]
        except OSError:
            continue
    return sorted({value.partition("=")[2].partition(":")[0] for value in values})


def test_a_sound_run_passes_every_stage_on_two_virtual_nodes(run_mapping: dict[str, Any], tmp_path: Path) -> None:
    trackers = [{"type": "mlflow", "uri": "http://mlflow.example"}]
    (tmp_path / "run.json").write_text(json.dumps({**run_mapping, "trackers": trackers}))
    code, report = told(tmp_path, "--nodes", "2", "--ranks", "2")
    verdicts = {stage["stage"]: stage["verdict"] for stage in report["stages"]}
    assert verdicts == dict.fromkeys(NAMES, "passed"), json.dumps(report["stages"], indent=1)
    assert (code, report["ok"]) == (0, True)
    assert report["resumed_on"] == {"ranks": 1, "nodes": 1}
    assert report["changes"]["train.steps"]["real"] == 6
    assert not (tmp_path / "run").exists(), "the real run's folder is not touched"
    assert left_over(tmp_path) == []


def test_a_learning_rate_that_makes_the_loss_infinite_is_found(run_mapping: dict[str, Any], tmp_path: Path) -> None:
    run_mapping["optimizer"]["lr"] = 1e30
    (tmp_path / "run.json").write_text(json.dumps(run_mapping))
    code, report = told(tmp_path, "--nodes", "1", "--ranks", "1", "--only", "steps")
    (stage,) = report["stages"]
    assert (code, stage["verdict"]) == (2, "failed")
    assert "lower optimizer.lr" in stage["findings"][0]["remedy"]


def test_a_rehearsal_that_is_interrupted_leaves_nothing(run_mapping: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(run_mapping))
    before = set(marked())
    process = start(tmp_path, "--nodes", "1", "--ranks", "1", "--only", "launch")
    while not (mine := set(marked()) - before):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "nothing was left behind" in err
    assert all(members(token) == [] for token in mine)
    assert left_over(tmp_path) == []
