"""NaN on one rank, a storm of them, a flipped bit: all ranks decide alike, and what is healthy is not lost."""

import json
from pathlib import Path
from typing import Any

import pytest
from counted import SOAK, count
from engines import ENGINES

from mypt_dist.checkpoint import list_checkpoints, open_checkpoint, verify_checkpoint

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(900)]

AT_ONCE = {"background": False, "keep_last": 9}
"""Which checkpoint is the last healthy one must not depend on how long the one before takes to write."""
SCRIPT = str(Path(__file__).parent / "poisoned.py")
QUICK = ["DDP x2", "FSDP2 x2", "ZeRO-1 x2", "ZeRO-3 x2"]


def poisoned(forked: Any, mapping: dict[str, Any], folder: Path, ranks: int, *how: str, **environment: str) -> Any:
    """What every rank told, and what was printed."""
    path = folder / "run.json"
    path.write_text(json.dumps(mapping))
    done = forked(ranks, SCRIPT, str(folder), str(path), *how, **environment)
    return [json.loads((folder / f"told-{rank}.json").read_text()) for rank in range(ranks)], done.stdout


@pytest.mark.parametrize("engine", [*QUICK, "HSDP 2x2", "ZeRO-2 x2"] if SOAK else QUICK)
def test_a_nan_on_one_rank_is_skipped_by_all_and_changes_no_bit(
    engine: str, run_mapping: dict[str, Any], forked: Any, tmp_path: Path
) -> None:
    ranks, environment = ENGINES[engine]
    told, printed = poisoned(forked, run_mapping, tmp_path, ranks, "1", "3", **environment)
    assert [rank["code"] for rank in told] == [0] * ranks
    expected = [{"call": call, "skipped": call == 3, "changed": call != 3} for call in range(1, 7)]
    assert [rank["updates"] for rank in told] == [expected] * ranks
    assert printed.count("step 3 skipped, samples 16 to 24: the gradient norm is nan") == 1
    manifest = open_checkpoint(tmp_path / "run").manifest
    assert (manifest.step, manifest.samples, manifest.healthy) == (6, 48, True)
    assert [(entry["step"], entry["back_to"]) for entry in manifest.skipped] == [(3, None)]
    count(f"NaN on one of the ranks, {engine}", "skipped by all, no bit changed", ranks=ranks, bits_changed=0)


def test_a_storm_of_nans_ends_in_the_last_healthy_checkpoint_and_passes_over_its_samples(
    run_mapping: dict[str, Any], forked: Any, tmp_path: Path
) -> None:
    train = {**run_mapping["train"], "steps": 12, "save_every": 2, "guard": {"max_skips": 5}}
    mapping = {**run_mapping, "train": train, "checkpoints": {**AT_ONCE, "keep_last": 2, "keep_best": None}}
    told, printed = poisoned(forked, mapping, tmp_path, 2, "0", "5,6,7,8,9")
    assert [rank["code"] for rank in told] == [0, 0]
    assert [update["call"] for update in told[1]["updates"] if update["skipped"]] == [5, 6, 7, 8, 9]
    assert "went back from step 9 to 4 and passed over samples 32 to 72" in printed
    checkpoint = open_checkpoint(tmp_path / "run")
    assert (checkpoint.manifest.step, checkpoint.manifest.samples) == (12, 72 + 8 * 8)
    assert [entry["back_to"] for entry in checkpoint.manifest.skipped] == [None] * 5 + [4]
    assert all(verify_checkpoint(summary.folder) == [] for summary in list_checkpoints(tmp_path / "run"))
    events = [json.loads(line) for line in (tmp_path / "run/events.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["kind"] == "rollback"] == [9]
    count("a storm of NaNs", "back to the last healthy checkpoint, its samples passed over", updates_skipped=5, lost=0)


def test_a_resume_replays_the_ledger(run_mapping: dict[str, Any], forked: Any, tmp_path: Path) -> None:
    train = {**run_mapping["train"], "steps": 12, "save_every": 2, "guard": {"max_skips": 2}, "stop_after": 5}
    mapping = {**run_mapping, "train": train, "checkpoints": AT_ONCE}
    poisoned(forked, mapping, tmp_path, 2, "0", "3,4")
    back, first = (open_checkpoint(tmp_path / f"run/checkpoints/step-{step:08d}").manifest for step in (2, 5))
    assert (back.step, back.samples) == (2, 32), "an interruption right after going back does not meet them again"
    assert (first.step, first.samples) == (5, 56), "two steps, two that taught nothing, three more"
    poisoned(forked, {**mapping, "train": {**train, "stop_after": 7}}, tmp_path, 2, "0", "99")
    second = open_checkpoint(tmp_path / "run").manifest
    assert (second.step, second.samples) == (7, 72)
    assert second.skipped == first.skipped == back.skipped != ()


def test_a_flipped_bit_in_one_ranks_weights_is_found_before_it_is_saved(
    run_mapping: dict[str, Any], forked: Any, tmp_path: Path
) -> None:
    mapping = {**run_mapping, "train": {**run_mapping["train"], "batch_size": 9}}
    told, printed = poisoned(forked, mapping, tmp_path, 3, "1", "5", "flip")
    assert [rank["code"] for rank in told] == [4, 4, 4]
    assert "step 6: the weights of rank 1 differs from ranks 0, 2" in printed
    assert [summary.step for summary in list_checkpoints(tmp_path / "run")] == [3]
    count("a bit flipped in one rank's weights", "the rank named, nothing saved", flips=1, saved=0)
