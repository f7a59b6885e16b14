"""`mypt launch`, for real: what ranks learn, however they share the model, is what one process learns."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from finished_runs import losses

from mypt_dist.checkpoint import open_checkpoint

pytestmark = pytest.mark.multiproc

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Start:
    """``start("cpu", run_file, …)``: the process that `mypt launch` has become."""

    def popen(*arguments: str | Path, **environment: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "mypt_dist", "launch", *map(str, arguments)]
        environ = os.environ | environment
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ)

    return popen


@pytest.fixture(scope="module")
def expected(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[float]]:
    """A run file, and the losses of one process."""
    import mypt_dist

    mapping = {
        "name": "launched",
        "model": {"type": "gpt", "context": 16, "n_layer": 2, "n_head": 2, "n_embd": 32},
        "data": {"path": str(dataset)},
        "train": {"steps": 3, "batch_size": 8, "micro_batch": 2, "log_every": 1, "eval_windows": 8},
        "trackers": [],
    }
    out = tmp_path_factory.mktemp("reference") / "run"
    mypt_dist.train({**mapping, "out": str(out)})
    return mapping, losses(out)


def run_file(mapping: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**mapping, "out": str(tmp_path / "run")}))
    return path


def finish(*launchers: "subprocess.Popen[str]") -> None:
    for launcher in launchers:
        output, _ = launcher.communicate(timeout=240)
        assert launcher.returncode == 0, output


def check(tmp_path: Path, ranks: int, reference: list[float]) -> None:
    assert losses(tmp_path / "run") == pytest.approx(reference, rel=1e-5)
    with open_checkpoint(tmp_path / "run/checkpoints/step-00000003") as checkpoint:
        assert checkpoint.manifest.world_size == ranks


@pytest.mark.parametrize("target", ["fsdp2", "deepspeed/zero3"])
def test_a_target_for_gpus_learns_the_same_on_cpus(
    target: str, start: Start, expected: tuple[dict[str, Any], list[float]], tmp_path: Path
) -> None:
    mapping, reference = expected
    finish(start(target, run_file(mapping, tmp_path), "--cpu", "--ranks", "2"))
    check(tmp_path, 2, reference)


@pytest.fixture
def port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_launchers_on_two_machines_make_one_run(
    start: Start, expected: tuple[dict[str, Any], list[float]], port: str, tmp_path: Path
) -> None:
    mapping, reference = expected
    path = run_file(mapping, tmp_path)
    there = ["--nodes", "2", "--ranks", "2", "--address", "127.0.0.1", "--port", port]
    finish(*(start("cpu", path, *there, "--node-rank", str(node)) for node in (0, 1)))
    check(tmp_path, 2, reference)


def test_launchers_of_a_scheduler_make_one_run_without_being_told(
    start: Start, expected: tuple[dict[str, Any], list[float]], port: str, tmp_path: Path
) -> None:
    """Kubeflow Trainer, whose variables torchrun reads too."""
    mapping, reference = expected
    path = run_file(mapping, tmp_path)
    told = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "1", "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": port}
    finish(*(start("cpu", path, **told, PET_NODE_RANK=str(node)) for node in (0, 1)))
    check(tmp_path, 2, reference)
