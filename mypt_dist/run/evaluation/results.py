"""What becomes of a measurement: a file beside the checkpoints, a row of the run's journal, a point in MLflow."""

import math
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mypt_dist.checkpoint import RunLock
from mypt_dist.errors import LockError
from mypt_dist.run.folders import CHECKPOINTS, evaluations_of, keep_evaluation
from mypt_dist.run.provenance import code_version
from mypt_dist.tracking.journal import EVENTS, Journal, read_events
from mypt_dist.tracking.mlflow_sender.state import read_state
from mypt_dist.tracking.mlflow_tracker import sync

PATIENCE_S = 20.0
"""How long a store that does not answer is waited for."""


def run_of(checkpoint: Path) -> Path | None:
    """The run's folder that a checkpoint lies in; None for one that was copied elsewhere."""
    return checkpoint.parent.parent if checkpoint.parent.name == CHECKPOINTS else None


def name_of(text: str) -> str:
    """What a result is called, and its file: ``text`` without what no file should be called."""
    kept = re.sub(r"[^a-zA-Z0-9._-]+", "-", text).strip("-._")
    return kept[:59].rstrip(".") or "evaluation"


def record(run: Path, step: int, name: str, result: Mapping[str, Any]) -> Path:
    """Keep ``result``, which has ``kind`` and ``metrics``, as evaluation ``name`` of the checkpoint at ``step``."""
    # JSON knows no number that is not finite.
    metrics = {key: value if math.isfinite(value) else None for key, value in result["metrics"].items()}
    known = {"name": name, "step": step, "time": int(time.time() * 1000), "code": code_version()}
    return keep_evaluation(run, step, name, {**known, **result, "metrics": metrics})


def journalled(run: Path) -> int:
    """Write into the run's journal what evaluations are not in it yet, and how many those were.

    A run without a journal gets none. Raises `LockError` while the run trains: two cannot write one journal.
    """
    if not (run / EVENTS).is_file():
        return 0
    told = {(event.get("path"), event.get("made")) for event in read_events(run)}
    due = [one for one in evaluations_of(run) if (one["file"], one.get("time")) not in told]
    if not due:
        return 0
    with RunLock(run), Journal(run) as journal:
        for one in sorted(due, key=lambda one: int(one["step"])):
            metrics = {f"eval/{one['name']}/{key}": value for key, value in one["metrics"].items() if value is not None}
            journal.log(int(one["step"]), metrics)
            journal.event("artifact", path=one["file"], made=one.get("time"))
    return len(due)


def told_trackers(run: Path) -> str | None:
    """Send the journal where the run itself sent it; a sentence for the user if that was not possible, or in vain."""
    try:
        journalled(run)
        if read_state(run) is None:
            return None
        report = sync(run, timeout_s=PATIENCE_S)
    except LockError:
        return "the run is at work: its journal, and MLflow, get the result with the first mypt eval after its end"
    return None if report.complete else f"MLflow has not got it yet ({report.error}): mypt runs sync {run}"
