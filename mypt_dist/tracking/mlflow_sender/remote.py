"""What does the sender ask of a tracking server, and in which three ways can that fail?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from mypt_dist.tracking.mlflow_sender.payload import Dataset, Point

RUN_UID: Final = "mypt.run_uid"
"""The tag that holds a run's own id."""


class Unreachable(Exception):
    """The server did not answer, or not as a healthy one: the same request may succeed later."""


class Refused(Exception):
    """The server understood this one request and will never take it."""


class RunGone(Exception):
    """The run does not exist in this store, or it was deleted."""


@dataclass(frozen=True, slots=True)
class RemoteRun:
    """What the server knows of a run."""

    run_id: str
    status: str
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    is_empty: bool = False
    """Nothing was ever logged to it."""


class Remote(Protocol):
    """A tracking server. Every call may raise `Unreachable`, those on a run also `RunGone`."""

    def find(self, run_uid: str) -> list[RemoteRun]:
        """Living runs of the experiment that carry this id as the tag `RUN_UID`, oldest first."""
        ...

    def get(self, run_id: str) -> RemoteRun:
        """The run, if it lives."""
        ...

    def create(self, name: str, tags: Mapping[str, str], start_time: int) -> str:
        """A new run in the experiment, which is created where it is missing; returns the run's id."""
        ...

    def delete(self, run_id: str) -> None: ...

    def log_points(self, run_id: str, points: Sequence[Point]) -> None:
        """At most `MAX_POINTS`, all or none. Raises `Refused`."""
        ...

    def log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """One batch. Raises `Refused`."""
        ...

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """One batch. Raises `Refused`."""
        ...

    def log_datasets(self, run_id: str, datasets: Sequence[Dataset]) -> None:
        """Raises `Refused`."""
        ...

    def log_file(self, run_id: str, path: Path, folder: str) -> None:
        """``folder`` is relative to the run's artifacts; empty is their top. Raises `Refused`."""
        ...

    def log_text(self, run_id: str, text: str, file: str) -> None:
        """``file`` is relative to the run's artifacts. Raises `Refused`."""
        ...

    def reopen(self, run_id: str) -> None:
        """The run goes on."""
        ...

    def close(self, run_id: str, status: str, end_time: int) -> None:
        """``status`` is FINISHED, FAILED or KILLED; the time is in milliseconds since 1970."""
        ...
