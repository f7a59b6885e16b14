"""System calls of the whole program fail or kill it while it saves, whatever library makes them."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from counted import SOAK, count

from mypt_dist.checkpoint import open_checkpoint, verify_checkpoint

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not shutil.which("strace"), reason="needs strace"),
    pytest.mark.timeout(3000),
]

CALLS = "mkdir,fsync,rename,unlink,rmdir"
FAULTS = ["signal=SIGKILL", "error=ENOSPC", "error=EIO"]
POINTS = 60 if SOAK else 12
ENDED_WELL = {0, 2, 5, 128 + signal.SIGKILL, -signal.SIGKILL}
"""Exit codes: done in spite of it, the run's folder can not be used, saving failed, killed."""


def train(run_file: Path, trace: Path, *inject: str) -> subprocess.CompletedProcess[str]:
    """The command line under strace."""
    command = ["strace", "-f", "-y", "--seccomp-bpf", "-o", str(trace), "-e", f"trace={CALLS}"]
    command += [part for fault in inject for part in ("-e", f"inject={fault}")]
    command += [sys.executable, "-m", "mypt_dist", "train", str(run_file)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def calls_on(trace: Path, folder: Path) -> list[tuple[str, int]]:
    """Which calls touched ``folder``: (name, how many of this name its thread had made), each once."""
    made: Counter[tuple[str, str]] = Counter()
    found = {}
    for line in trace.read_text().splitlines():
        match = re.match(r"(\d+) +(\w+)\(", line)
        if not match:
            continue
        made[match[1], match[2]] += 1
        if str(folder) in line:
            found[match[2], made[match[1], match[2]]] = None
    return list(found)


def test_a_call_that_fails_or_kills_the_program_while_it_saves_loses_nothing(
    run_mapping: dict[str, Any], tmp_path: Path
) -> None:
    mapping = {**run_mapping, "checkpoints": {"keep_last": 2, "keep_best": None}}
    early, late, run = tmp_path / "early.json", tmp_path / "late.json", tmp_path / "run"
    for path, steps in ((early, 4), (late, 5)):
        changed = {**run_mapping["train"], "save_every": 2, "stop_after": steps}
        path.write_text(json.dumps({**mapping, "train": changed}))
    assert train(early, tmp_path / "trace").returncode == 0
    before = shutil.copytree(run, tmp_path / "before")
    assert train(late, tmp_path / "trace").returncode == 0
    calls = calls_on(tmp_path / "trace", run / "checkpoints")
    assert len(calls) > 5
    # Each call with another fault than the one before it; with all points, with every fault.
    points = [(call, FAULTS[(n + turn) % len(FAULTS)]) for turn in range(3) for n, call in enumerate(calls)][:POINTS]
    struck = 0
    for (name, number), fault in points:
        shutil.rmtree(run)
        shutil.copytree(before, run)
        done = train(late, tmp_path / "trace", f"{name}:{fault}:when={number}")
        struck += "INJECTED" in (text := (tmp_path / "trace").read_text()) or "killed by SIGKILL" in text
        place = f"{fault} at {name} {number}"
        told = done.stdout + done.stderr
        assert done.returncode in ENDED_WELL, f"{place}: {told}"
        assert "Traceback" not in told, f"{place}: {told}"
        with open_checkpoint(run) as found:
            step = found.manifest.step
        assert step >= (5 if re.search(r"step 5 +saved", told) else 4), place
        whole = [path for path in (run / "checkpoints").iterdir() if re.fullmatch(r"step-\d{8}", path.name)]
        assert [verify_checkpoint(path) for path in whole] == [[]] * len(whole), place
        assert len(whole) >= 2, place
    count(
        "a system call of the whole program fails or kills it while it saves (strace)",
        "the last acknowledged checkpoint is loaded; exit code 0, 2, 5 or that of the signal",
        points=len(points),
        struck=struck,
        lost=0,
    )
    assert struck >= len(points) // 2
