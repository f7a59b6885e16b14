"""How far is the journal shipped, and to which run? One small file, replaced whole, read after any crash."""

import json
import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Final

from pydantic import ConfigDict, Field, ValidationError

from mypt_dist.config import Config

FOLDER: Final = "tracking"
LOG: Final = "mlflow.log"
LOCK: Final = "sender.lock"


class SenderState(Config):
    """What the sender knows, in ``tracking/mlflow.json``. It is written after what it says has happened."""

    # What a later version adds must not cost an earlier one the run's identity.
    model_config = ConfigDict(extra="ignore")

    run_uid: str = Field(default_factory=lambda: uuid.uuid4().hex)
    """The run's own id, a tag in MLflow: found again even if the answer to its creation was lost."""
    uri: str = ""
    """The store, without user, password and query."""
    experiment: str = ""
    run_name: str = ""
    run_id: str | None = None
    """MLflow's id of the run."""
    metrics: int = 0
    """Bytes of ``metrics.jsonl`` that are shipped."""
    events: int = 0
    """Bytes of ``events.jsonl`` that are shipped."""
    starts: int = 0
    """``start`` events that are shipped."""
    resumes: int = 0
    """How often the run was resumed, as its tag says."""
    resumes_before: int = 0
    """How often it had been resumed before this journal began."""
    ended: str | None = None
    """What the last ``finish`` event said; None while the run goes on."""
    last_time: int = 0
    """Milliseconds since 1970 of the last line shipped: the run's last sign of life."""
    points: int = 0
    """Metric values sent."""
    skipped: tuple[str, ...] = ()
    """Files that the store would not take."""
    error: str | None = None
    """Why the last request failed; None when it did not."""

    def from_the_beginning(self) -> "SenderState":
        """The same run with nothing shipped."""
        return self.model_copy(
            update={
                "metrics": 0, "events": 0, "starts": 0, "resumes": self.resumes_before,
                "ended": None, "points": 0, "skipped": (),
            }
        )  # fmt: skip


def state_path(run_dir: Path) -> Path:
    """Where the state of a run's sender is."""
    return run_dir / FOLDER / "mlflow.json"


def read_state(run_dir: Path) -> SenderState | None:
    """The state of the sender of a run; None where there is none or it is no state."""
    try:
        return SenderState.model_validate_json(state_path(run_dir).read_bytes())
    except (OSError, ValidationError):
        return None


def write_state(run_dir: Path, state: SenderState) -> None:
    """Replace the state as a whole and durably. Raises OSError."""
    path = state_path(run_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(json.dumps(state.model_dump(mode="json"), indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        with suppress(FileNotFoundError):
            aside.unlink()
