"""Whole runs on a GPU: every precision and engine that one GPU can show, resumed, moved to a CPU and back, stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import launch_command
from engines import FSDP2, zero
from finished_runs import losses, manifest, state_hashes

from mypt_dist.checkpoint import open_checkpoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.timeout(280),
]

STEPS = 12
MODEL = {"type": "llama", "context": 64, "n_layer": 3, "n_head": 4, "n_embd": 128, "dropout": 0.0}
ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}


ENGINES: dict[str, dict[str, str] | None] = {
    "single": None,
    "launched": {},
    "fsdp2": FSDP2,
    "zero1": zero(1),
    "zero2": zero(2),
    "zero3": zero(3),
}
"""Variables of a launch file; null: without a launcher. One rank each, over NCCL: it takes one rank a GPU."""


def run(mapping: Mapping[str, Any], engine: str = "single", **environment: str) -> Path:
    """Train; the run's folder."""
    out = Path(mapping["out"])
    path = out.with_suffix(".json")
    path.write_text(json.dumps(mapping))
    done = subprocess.run(
        command(path, engine),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(ENGINES[engine] or {}), **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def command(path: Path, engine: str) -> list[str]:
    train = ["-m", "mypt_dist", "train", str(path)]
    return [sys.executable, *train] if ENGINES[engine] is None else launch_command(1, *train)


def small(dataset: Path) -> dict[str, Any]:
    """A run file's settings, but for its folder."""
    train = {"steps": STEPS, "batch_size": 8, "micro_batch": 4, "log_every": 1, "eval_every": 3, "eval_windows": 10}
    return {
        "model": MODEL,
        "data": {"path": str(dataset)},
        "optimizer": {"type": "adamw", "lr": 1e-3},
        "train": {**train, "save_every": STEPS // 2},
        "checkpoints": {"keep_last": 9},
        "trackers": [],
    }


@pytest.fixture
def mapping(dataset: Path) -> dict[str, Any]:
    return small(dataset)


def changed(mapping: Mapping[str, Any], out: Path, **train: Any) -> dict[str, Any]:
    return {**mapping, "out": str(out), "train": {**mapping["train"], **train}}


@pytest.fixture(scope="module")
def host(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on a CPU, in fp32, that all others are compared with."""
    folder = tmp_path_factory.mktemp("host")
    return run(changed(small(dataset), folder / "run"), **ON_CPU)


@pytest.mark.parametrize("engine", list(ENGINES))
def test_losses_are_those_of_a_cpu(engine: str, host: Path, mapping: dict[str, Any], tmp_path: Path) -> None:
    card = run(changed(mapping, tmp_path / "gpu"), engine)
    assert losses(card) == pytest.approx(losses(host), rel=1e-4)
    assert losses(card, "val/loss") == pytest.approx(losses(host, "val/loss"), rel=1e-4)
    assert manifest(card, STEPS).order_hash == manifest(host, STEPS).order_hash


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("engine", "precision"),
    [
        ("single", "bf16"),
        ("single", "fp16"),
        ("single", "fp8"),
        ("fsdp2", "bf16"),
        ("fsdp2", "fp16"),
        ("fsdp2", "fp8"),
        ("zero2", "bf16"),
        ("zero2", "fp16"),
    ],
)
def test_lower_precision_stays_near(
    engine: str, precision: str, compiled: bool, host: Path, mapping: dict[str, Any], tmp_path: Path
) -> None:
    found = run(changed(mapping, tmp_path / "low", precision=precision, compile=compiled), engine)
    assert losses(found) == pytest.approx(losses(host), rel=3e-2 if precision == "fp8" else 1e-2)
    assert losses(found) != pytest.approx(losses(host), rel=1e-6), "another precision would not be noticed"


@pytest.mark.parametrize("compiled", [False, True])
def test_documents_apart_are_those_of_a_cpu(compiled: bool, mapping: dict[str, Any], tmp_path: Path) -> None:
    mapping["data"]["document_mask"] = True
    host = run(changed(mapping, tmp_path / "cpu"), **ON_CPU)
    card = run(changed(mapping, tmp_path / "gpu", compile=compiled))
    assert losses(card) == pytest.approx(losses(host), rel=1e-3)


@pytest.mark.parametrize(
    ("engine", "precision"),
    [
        ("single", "fp32"),
        ("single", "bf16"),
        ("single", "fp16"),
        ("fsdp2", "bf16"),
        ("zero2", "bf16"),
        ("zero3", "bf16"),
    ],
)
def test_an_interrupted_run_is_bit_identical(
    engine: str, precision: str, mapping: dict[str, Any], tmp_path: Path
) -> None:
    mapping["model"] = {**MODEL, "dropout": 0.1}
    settings = {"precision": precision, "deterministic": True}
    whole = run(changed(mapping, tmp_path / "whole", **settings), engine)
    for stop in (5, STEPS):
        parts = run(changed(mapping, tmp_path / "parts", **settings, stop_after=stop), engine)
    assert losses(parts) == losses(whole)
    assert state_hashes(parts, STEPS) == state_hashes(whole, STEPS)


def test_a_run_moves_from_gpu_to_cpu_and_back(host: Path, mapping: dict[str, Any], tmp_path: Path) -> None:
    run(changed(mapping, tmp_path / "moved", stop_after=4), "fsdp2")
    run(changed(mapping, tmp_path / "moved", stop_after=8), **ON_CPU)
    moved = run(changed(mapping, tmp_path / "moved"), "zero3")
    assert losses(moved) == pytest.approx(losses(host), rel=1e-4)
    assert manifest(moved, STEPS).order_hash == manifest(host, STEPS).order_hash


@pytest.mark.parametrize("engine", ["single", "fsdp2", "zero2"])
def test_memory_is_as_forecast(engine: str, mapping: dict[str, Any], tmp_path: Path) -> None:
    mapping["model"] = {"type": "gpt", "vocab_size": 50304, "context": 512, "n_layer": 6, "n_head": 8, "n_embd": 512}
    done = run(changed(mapping, tmp_path / "run", precision="bf16"), engine)
    memory = json.loads((done / f"checkpoints/step-{STEPS:08d}/manifest.json").read_text())["memory"]
    print(engine, memory)
    assert abs(memory["error"]) < 0.1


def test_a_signal_ends_in_a_checkpoint(mapping: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(changed(mapping, tmp_path / "run", steps=10**6, precision="bf16", save_every=10**5)))
    journal = tmp_path / "run/metrics.jsonl"
    with subprocess.Popen(command(path, "single")) as process:
        try:
            while process.poll() is None and not (journal.exists() and journal.stat().st_size):
                time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 143
        finally:
            process.kill()
    with open_checkpoint(tmp_path / "run") as checkpoint:
        assert checkpoint.manifest.step > 0


def test_the_doctor_finds_the_gpu() -> None:
    command = [sys.executable, "-m", "mypt_dist", "doctor", "--json"]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    print(json.dumps(told, indent=1))
    found = {check["name"]: check["status"] for check in told["checks"]}
    assert (found["cuda"], found["nccl"]) == ("ok", "ok")
