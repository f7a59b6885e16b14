"""Conversations with masks of any length: any number of ranks learns the same from them."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from chat_files import conversations, prepared

from mypt_dist.run import build
from mypt_dist.run.config import RunConfig
from mypt_dist.tracking.journal import read_metrics

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(600)]

NAMES = ("train/loss", "train/grad_norm", "train/bpb", "val/loss", "train/tokens")


def test_two_ranks_learn_from_ragged_masks_what_one_process_learns(
    forked: Any, memory: Path, run_mapping: dict[str, Any]
) -> None:
    # Rows of a few tokens to learn beside rows of many, with weights of their own.
    values = conversations(30, longest=3) + conversations(8, 1, longest=60)
    report = prepared(memory, values, val_fraction=0.2, too_long="truncate", weights={"close": 0.3, "end": 2.0})
    assert report.rows["val"]
    run_mapping["data"] = {"path": str(memory / "chat")}
    run_mapping["model"] |= {"context": 255, "dropout": 0.0}
    run_mapping["train"] |= {"steps": 4, "batch_size": 4, "eval_every": 2, "save_every": 4}
    found = []
    for ranks, accumulation in ((1, 1), (2, 1), (2, 2)):
        out = memory / f"run-{ranks}-{accumulation}"
        mapping = {**run_mapping, "out": str(out), "train": {**run_mapping["train"]}}
        mapping["train"]["micro_batch"] = 4 // ranks // accumulation
        if ranks == 1:
            build.train(RunConfig.model_validate(mapping))
        else:
            path = memory / f"{ranks}-{accumulation}.json"
            path.write_text(json.dumps(mapping))
            forked(ranks, "-m", "mypt_dist", "train", str(path))
        found.append(read_metrics(RunConfig.model_validate(mapping).folder))
    for other in found[1:]:
        for name in NAMES:
            one, two = ([row[name] for row in rows if name in row] for rows in (found[0], other))
            assert one
            assert two == pytest.approx(one, rel=1e-5), name
    targets = [row["train/tokens"] for row in found[0] if "train/tokens" in row]
    assert len({after - before for before, after in pairwise(targets)}) > 1, "steps learn different counts"
