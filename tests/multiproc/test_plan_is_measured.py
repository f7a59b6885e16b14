"""What `mypt plan` says of memory, against what real ranks take; states alone: test_state_is_shared_out.py."""

import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
from engines import FSDP2

from mypt_dist.launch import EngineName, Topology
from mypt_dist.run.batching import batch_shape
from mypt_dist.run.config import RunConfig
from mypt_dist.run.plan.forecast import Forecast, Forecaster, Way

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(1200)]

SCRIPT = str(Path(__file__).parent / "plan_measure.py")
ENGINES: dict[EngineName, tuple[int, dict[str, str]]] = {"single": (1, {}), "fsdp2": (2, FSDP2)}


def forecast(config: RunConfig, engine: EngineName, ranks: int, base: int) -> Forecast:
    shape = batch_shape(config.train, config.model.context, 0, ranks)
    return Forecaster(config, "cpu", base=base)(Way(Topology(engine, ranks), shape.micro_batch, shape.micro_batches))


@pytest.mark.parametrize("preset", ["micro", "tiny", "llama-tiny"])
@pytest.mark.parametrize("engine", list(ENGINES))
def test_peaks_are_as_planned(preset: str, engine: EngineName, launch: Any, tmp_path: Path) -> None:
    path, (ranks, environment) = tmp_path / "run.json", ENGINES[engine]
    train = {"steps": 2, "batch_size": 8}
    path.write_text(json.dumps({"name": "x", "extends": preset, "data": {"path": "x"}, "train": train, "trackers": []}))
    config = RunConfig.load(path)
    totals = []
    for _ in range(3):
        told = json.loads(launch(ranks, SCRIPT, str(path), **environment).stdout.strip().splitlines()[-1])
        planned = forecast(config, engine, ranks, told["base"])
        assert planned.tensors == pytest.approx(told["tensors"], rel=0.02)
        # How a heap is filled differs from run to run; one in its middle is enough.
        totals.append(planned.total / told["process"])
        if abs(statistics.median(totals) - 1) <= 0.1:
            return
    assert statistics.median(totals) == pytest.approx(1, abs=0.1)


def test_a_run_says_how_far_its_forecast_was_off(run_mapping: dict[str, Any], launch: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    train = {**run_mapping["train"], "steps": 15, "save_every": 9}
    path.write_text(json.dumps({**run_mapping, "train": train}))
    told = launch(2, "-m", "mypt_dist", "train", str(path)).stderr
    assert len(re.findall(r"memory: predicted .* GiB, measured .* GiB \(error [+-][\d.]+ %\)", told)) == 1
    early, late = (
        json.loads((tmp_path / f"run/checkpoints/step-{step:08d}/manifest.json").read_text())["memory"]
        for step in (9, 15)
    )
    assert early is None, "before it was measured"
    assert late["error"] == pytest.approx(late["predicted_bytes"] / late["measured_bytes"] - 1, abs=1e-3)
