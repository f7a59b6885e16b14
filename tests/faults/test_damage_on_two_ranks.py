"""A damaged block that one of two ranks meets: it ends both at one step, or both skip the same windows."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counted import count

from mypt_dist.checkpoint import open_checkpoint
from mypt_dist.data.blocks import BLOCK_BYTES
from mypt_dist.data.prepare import PrepareSettings, prepare

pytestmark = pytest.mark.multiproc


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight blocks."""
    folder = tmp_path_factory.mktemp("whole")
    text = folder / "text.txt"
    text.write_bytes(np.random.default_rng(0).integers(97, 123, 4_300_000, dtype=np.uint8).tobytes())
    prepare([text], folder / "data", PrepareSettings(tokenizer="byte", val_fraction=0.02))
    return folder / "data"


@pytest.fixture(scope="module")
def damaged(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with one byte of block 3 changed."""
    import shutil

    folder = tmp_path_factory.mktemp("damaged") / "data"
    shutil.copytree(whole, folder)
    with (folder / "train/shard-00000.bin").open("r+b") as file:
        file.seek(3 * BLOCK_BYTES + 1)
        file.write(b"\xff")
    return folder


def run_file(tmp_path: Path, name: str, data: Path, **settings: Any) -> Path:
    mapping = {
        "name": name,
        "out": str(tmp_path / name),
        "model": {"type": "gpt", "context": 16, "n_layer": 1, "n_head": 1, "n_embd": 8},
        "data": {"path": str(data), **settings},
        "train": {"steps": 6, "batch_size": 8, "log_every": 1, "save_every": 3, "eval_windows": 4},
        "checkpoints": {"keep_last": 9},
        "trackers": [],
    }
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(mapping))
    return path


def alone(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mypt_dist", "train", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)


def test_damage_ends_both_ranks_at_one_step_with_one_message(damaged: Path, tmp_path: Path, launch: Any) -> None:
    path = run_file(tmp_path, "fails", damaged)
    done = launch(2, "-m", "mypt_dist", "train", str(path), check=False)
    assert done.returncode != 0
    output = done.stdout + done.stderr
    told = [line for line in output.splitlines() if line.startswith("mypt: step ")]
    assert len(told) == 1, output
    assert "shard-00000.bin: block 3 (bytes 3,145,728 to 4,194,303) is damaged" in told[0]
    # Nobody was told that a peer had died: both ended with what was found.
    assert "died or stopped answering" not in output
    ours = output.split("torch/distributed/run.py")[0]
    assert "Traceback" not in ours.replace('Traceback (most recent call last):\n  File "<frozen runpy>"', "")
    single = alone(str(run_file(tmp_path, "alone", damaged)))
    assert single.returncode == 3
    assert (
        single.stderr.splitlines()[-1].split(" on rank")[0].split(":")[1] == told[0].split(" on rank")[0].split(":")[1]
    )


def facts(folder: Path) -> tuple[Any, ...]:
    with open_checkpoint(folder) as checkpoint:
        manifest = checkpoint.manifest
    return manifest.step, manifest.samples, manifest.tokens, manifest.order_hash, manifest.data["damage"]


def test_both_ranks_skip_the_same_windows_and_a_resume_does_too(
    whole: Path, damaged: Path, tmp_path: Path, forked: Any
) -> None:
    skip = {"on_damage": "skip", "max_damaged": 0.3}
    two = run_file(tmp_path, "two", damaged, **skip)
    forked(2, "-m", "mypt_dist", "train", str(two))
    assert alone(str(run_file(tmp_path, "one", damaged, **skip))).returncode == 0
    resumed = run_file(tmp_path, "resumed", damaged, **skip, reader="pread")
    assert alone(str(resumed), "train.stop_after=3").returncode == 0
    forked(2, "-m", "mypt_dist", "train", str(resumed))
    assert alone(str(run_file(tmp_path, "whole", whole))).returncode == 0
    step, samples, tokens, order_hash, damage = facts(tmp_path / "two")
    assert facts(tmp_path / "one") == facts(tmp_path / "resumed") == (step, samples, tokens, order_hash, damage)
    assert damage["blocks"] == ["main:train/shard-00000.bin:3"]
    assert 0 < damage["skipped_windows"] < 48
    assert facts(tmp_path / "whole")[:4] == (step, samples, tokens + 16 * damage["skipped_windows"], order_hash)
    events = [json.loads(line) for line in (tmp_path / "two/events.jsonl").read_text().splitlines()]
    (told,) = [event for event in events if event["kind"] == "damage"]
    assert told["blocks"] == damage["blocks"]
    rows = [json.loads(line) for line in (tmp_path / "two/metrics.jsonl").read_text().splitlines()]
    assert [row["data/skipped_windows"] for row in rows if "train/loss" in row][-1] == damage["skipped_windows"]
    count(
        "a damaged block, skipped",
        "the same windows skipped on 1 and 2 ranks and over a resume; order and audit hash unchanged",
        windows=damage["skipped_windows"],
        differences=0,
    )


def test_too_much_damage_ends_a_run_that_skips(damaged: Path, tmp_path: Path) -> None:
    done = alone(str(run_file(tmp_path, "much", damaged, on_damage="skip")))
    assert done.returncode == 3
    assert "1 of 9 blocks are damaged, more than data.max_damaged (0.01) allows" in done.stderr, done.stderr
