"""Saves in the background under real ranks: the same bytes, agreement on failures, nothing left of the dead."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from counted import SOAK
from engines import ENGINES

from mypt_dist.checkpoint import open_checkpoint, verify_checkpoint
from mypt_dist.checkpoint.process import start_of
from mypt_dist.tracking.journal import read_events, read_metrics

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(900)]

SCRIPT = Path(__file__).parent / "train_with_dying_writers.py"
STEPS = 12
MANY = 3000
"""Steps of a few milliseconds, for some saves to come and go; a writer takes a moment to start."""


def write_run(mapping: dict[str, Any], tmp_path: Path, out: str, *, steps: int = STEPS, **checkpoints: Any) -> Path:
    train = {
        **mapping["train"],
        "steps": steps,
        "save_every": 5 if steps == STEPS else 200,
        "eval_every": steps,
        "log_every": steps,
    }
    path = tmp_path / f"{out}.json"
    keep = {"keep_last": 99, **checkpoints}
    path.write_text(json.dumps({**mapping, "out": str(tmp_path / out), "train": train, "checkpoints": keep}))
    return path


def tensors(checkpoint: Path) -> dict[str, bytes]:
    return {str(path.relative_to(checkpoint)): path.read_bytes() for path in checkpoint.rglob("*.safetensors")}


def saved_steps(run: Path) -> list[int]:
    return [event["step"] for event in read_events(run) if event["kind"] == "checkpoint"]


def test_a_killed_writer_of_one_rank_drops_the_save_on_both_and_the_next_one_commits(
    run_mapping: dict[str, Any], forked: Any, tmp_path: Path
) -> None:
    run_file = write_run(run_mapping, tmp_path, "run", steps=MANY)
    done = forked(2, str(SCRIPT), str(run_file), "once", str(tmp_path))
    assert (
        "step 200 was not saved: rank 1: the process that writes checkpoints ended (killed by SIGKILL)" in done.stdout
    )
    steps = saved_steps(tmp_path / "run")
    assert 200 not in steps
    assert len(steps) >= 2
    assert steps[-1] == MANY
    failures = [row["checkpoint/failures"] for row in read_metrics(tmp_path / "run") if "checkpoint/failures" in row]
    assert failures == [1]
    assert verify_checkpoint(tmp_path / "run") == []
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == [f"step-{n:08}" for n in steps]


def test_writers_that_always_die_end_the_run_on_all_ranks_with_exit_code_5(
    run_mapping: dict[str, Any], launch: Any, tmp_path: Path
) -> None:
    run_file = write_run(run_mapping, tmp_path, "run", steps=MANY, max_failures=2)
    done = launch(2, str(SCRIPT), str(run_file), "always", str(tmp_path), check=False)
    assert done.returncode != 0
    for rank in (0, 1):
        assert f"rank {rank}: the checkpoint of step" in done.stderr, done.stderr
    assert done.stderr.count("2 in a row have failed (checkpoints.max_failures)") >= 2
    assert "exitcode  : 5" in done.stderr
    assert list((tmp_path / "run/checkpoints").iterdir()) == []


def test_a_rank_killed_during_a_save_takes_its_writer_along_and_nothing_is_committed(
    run_mapping: dict[str, Any], launch: Any, forked: Any, tmp_path: Path
) -> None:
    run_file = write_run(run_mapping, tmp_path, "run", steps=MANY)
    launch(2, str(SCRIPT), str(run_file), "rank-killed", str(tmp_path), check=False)
    for rank in (0, 1):
        assert start_of(int((tmp_path / f"writer-{rank}").read_text())) is None, "no writer outlives its rank"
    left = [path.name for path in (tmp_path / "run/checkpoints").iterdir()]
    assert left == [name for name in left if ".partial-" in name], "nothing was committed"
    forked(2, "-m", "mypt_dist", "train", str(run_file), f"train.stop_after={STEPS}")
    with open_checkpoint(tmp_path / "run") as found:
        assert found.manifest.step == STEPS
    assert not [path for path in (tmp_path / "run/checkpoints").iterdir() if "partial" in path.name]


@pytest.mark.parametrize("engine", ["1", "DDP x2", "FSDP2 x2"] if SOAK else ["FSDP2 x2"])
def test_a_background_checkpoint_is_a_blocking_one_byte_for_byte_and_a_run_that_died_resumes_from_it(
    engine: str, run_mapping: dict[str, Any], forked: Any, tmp_path: Path
) -> None:
    ranks, environment = ENGINES[engine]
    for out, background in (("background", True), ("blocking", False)):
        run_file = write_run(run_mapping, tmp_path, out, background=background)
        forked(ranks, "-m", "mypt_dist", "train", str(run_file), **environment)
        assert saved_steps(tmp_path / out) == [5, 10, 12] or background
    ours, theirs = tmp_path / "background/checkpoints", tmp_path / "blocking/checkpoints"
    assert saved_steps(tmp_path / "background")[0] == 5
    assert 12 in saved_steps(tmp_path / "background")
    for step in saved_steps(tmp_path / "background"):
        if (theirs / f"step-{step:08}").exists():
            assert tensors(ours / f"step-{step:08}") == tensors(theirs / f"step-{step:08}")
    # From the one that was written while training went on.
    uninterrupted = tensors(ours / "step-00000012")
    for path in ours.iterdir():
        if path.name != "step-00000005":
            shutil.rmtree(path)
    forked(ranks, "-m", "mypt_dist", "train", str(tmp_path / "background.json"), **environment)
    assert tensors(ours / "step-00000012") == uninterrupted
