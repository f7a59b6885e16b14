"""A run whose folder is lost goes on from its mirror; an object store behind a real server is a mirror too."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from object_store import ObjectStore

import mypt_dist
from mypt_dist.checkpoint import Mirror, MirrorTarget, Retention, open_checkpoint, verify_checkpoint
from mypt_dist.cli import main

pytestmark = pytest.mark.e2e


def mypt(*arguments: str) -> int:
    """The command line in this process: how it ended."""
    try:
        return main(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)


def test_a_run_whose_folder_is_lost_goes_on_from_its_mirror(
    run_mapping: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror, out = tmp_path / "mirror", tmp_path / "run"
    kept = {"checkpoints": {"keep_last": 2, "mirror": str(mirror)}}
    mypt_dist.train({**run_mapping, **kept})
    assert verify_checkpoint(mirror) == []
    assert json.loads((out / "mirror.json").read_text())["newest"] == 6
    sha256 = open_checkpoint(out).manifest.sha256

    assert mypt("ckpt", "pull", str(mirror), "--out", str(tmp_path / "pulled")) == 0
    assert "step-00000006: every byte is as it was written" in capsys.readouterr().out
    assert open_checkpoint(tmp_path / "pulled").manifest.sha256 == sha256
    assert mypt("ckpt", "pull", str(mirror), "--out", str(tmp_path / "pulled"), "--step", "5") == 6

    shutil.rmtree(out)
    mypt_dist.train({**run_mapping, **kept, "train": {**run_mapping["train"], "steps": 9}})
    assert open_checkpoint(out).manifest.step == 9
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "train/loss" in row] == [7, 8, 9]


def test_an_object_store_is_a_mirror(object_store: ObjectStore, tmp_path: Path) -> None:
    from checkpoint_doubles import quick_disk, random_state, read_whole, same, save_alone

    bucket = object_store.bucket("mirrors") + "/run"
    root, rules = tmp_path / "checkpoints", Retention(keep_last=2, keep_best=None)
    keeper = Mirror(root, MirrorTarget(bucket), rules, quick_disk())
    for step in (1, 2, 3):
        save_alone(root, step)
        assert keeper.catch_up() == [step]
    assert MirrorTarget(bucket).names() == ["step-00000002", "step-00000003"]
    MirrorTarget(bucket).write("step-00000003/tokenizer.json", [b"changed--------!"])
    pulled = Mirror(tmp_path / "new", MirrorTarget(bucket), rules, quick_disk()).pull()
    assert pulled is not None
    with open_checkpoint(pulled) as found:
        assert found.manifest.step == 2
        assert same(read_whole(found), random_state(2))
    assert os.environ["AWS_ENDPOINT_URL"].startswith("http://127.0.0.1")
