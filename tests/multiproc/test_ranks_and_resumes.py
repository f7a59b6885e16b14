"""The same run on 1, 2 and 4 ranks; and each interrupted wherever you like is the uninterrupted one, bit by bit."""

import json
from pathlib import Path
from typing import Any

import pytest
from engines import ENGINES
from finished_runs import losses, manifest, state_hashes

pytestmark = pytest.mark.multiproc

SCRIPT = Path(__file__).parent / "train_in_parts.py"

# Weights of more than the first gradient bucket (1 MiB), so that DDP lays its buckets out anew after the first step.
MODEL = {"type": "gpt", "context": 16, "n_layer": 3, "n_head": 4, "n_embd": 128, "dropout": 0.1}
STEPS = 10


def trained(mapping: dict[str, Any], forked: Any, tmp_path: Path, engine: str, *stops: int) -> Path:
    """Train under ``engine``, stopping and starting again at ``stops``; the run's folder."""
    out = tmp_path / f"stops-{'-'.join(map(str, stops))}"
    ranks, environment = ENGINES[engine]
    train = {**mapping["train"], "steps": STEPS, "micro_batch": 1}
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**mapping, "model": MODEL, "out": str(out), "train": train}))
    forked(ranks, str(SCRIPT), str(path), *map(str, stops), str(STEPS), **environment)
    return out


@pytest.mark.parametrize("engine", ["1", "DDP x2", "DDP x4", "FSDP2 x2", "FSDP2 x4", "ZeRO-2 x2", "ZeRO-3 x2"])
def test_an_interrupted_run_is_bit_identical_to_an_uninterrupted_one(
    engine: str, run_mapping: dict[str, Any], forked: Any, tmp_path: Path
) -> None:
    whole = trained(run_mapping, forked, tmp_path, engine)
    parts = trained(run_mapping, forked, tmp_path, engine, 1, 4, 9)
    assert manifest(whole, STEPS).world_size == ENGINES[engine][0]
    hashes = state_hashes(whole, STEPS)
    assert len([name for name in hashes if name.startswith("optimizer/exp_avg/")]) > 20
    assert state_hashes(parts, STEPS) == hashes
    assert manifest(parts, STEPS).order_hash == manifest(whole, STEPS).order_hash
    assert losses(parts) == losses(whole)


def test_ranks_change_neither_order_nor_losses(run_mapping: dict[str, Any], forked: Any, tmp_path: Path) -> None:
    run_mapping["train"]["steps"] = STEPS
    model = {**MODEL, "dropout": 0.0}
    runs = {}
    for ranks in (1, 2, 4):
        out = tmp_path / f"ranks-{ranks}"
        path = tmp_path / "run.json"
        path.write_text(json.dumps({**run_mapping, "model": model, "out": str(out)}))
        forked(ranks, str(SCRIPT), str(path), str(STEPS))
        runs[ranks] = out
    one = manifest(runs[1], STEPS)
    for ranks in (2, 4):
        assert manifest(runs[ranks], STEPS).order_hash == one.order_hash
        assert (manifest(runs[ranks], STEPS).samples, manifest(runs[ranks], STEPS).tokens) == (one.samples, one.tokens)
        assert losses(runs[ranks]) == pytest.approx(losses(runs[1]), rel=1e-5)
    vals = [losses(run, "val/loss") for run in runs.values()]
    assert vals[1] == pytest.approx(vals[0], rel=1e-5)
    assert vals[2] == pytest.approx(vals[0], rel=1e-5)


def test_four_ranks_then_two_then_one_keep_the_order(run_mapping: dict[str, Any], forked: Any, tmp_path: Path) -> None:
    out, path = tmp_path / "elastic", tmp_path / "run.json"
    mapping = {**run_mapping, "model": {**MODEL, "dropout": 0.0}, "train": {**run_mapping["train"], "steps": STEPS}}
    path.write_text(json.dumps({**mapping, "out": str(out)}))
    for ranks, stop in ((4, 3), (2, 7), (1, STEPS)):
        forked(ranks, str(SCRIPT), str(path), str(stop))
    assert [manifest(out, step).world_size for step in (3, 7, STEPS)] == [4, 2, 1]
    path.write_text(json.dumps({**mapping, "out": str(tmp_path / "whole")}))
    forked(1, str(SCRIPT), str(path), str(STEPS))
    assert manifest(out, STEPS).order_hash == manifest(tmp_path / "whole", STEPS).order_hash
    assert losses(out) == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)
