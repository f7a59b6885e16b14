"""Where a run's numbers go: always into its journal, and from there to the trackers of its run file.

The journal (`mypt_dist.tracking.journal`) is the truth. A tracker ships what stands in it, in a process of
its own, so that no server can stop training. A new one is a module here that registers a `TrackerConfig`.
"""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from mypt_dist.config import Component, Registry


class Tracker(Protocol):
    """One service that a run's journal is shipped to. Called on the main rank alone; never raises, never waits."""

    def start(self, run_dir: Path, name: str, known_ids: Mapping[str, str]) -> None:
        """Begin to ship the journal in ``run_dir``.

        ``name`` is the run's name for people. ``known_ids`` is what `ids` said when the checkpoint was saved
        that this run resumes from: the same record is continued.
        """
        ...

    def ids(self) -> dict[str, str]:
        """The record's id by service, such as ``{"mlflow": "5d0b…"}``; empty as long as there is none."""
        ...

    def where(self) -> str:
        """What to open or to run in order to see the numbers."""
        ...

    def finish(self) -> str | None:
        """Wait until everything is shipped, within the configured time. Called after the journal is closed.

        Returns None, or a sentence for the user: what is left unsent, and the command that sends it later.
        """
        ...


class TrackerConfig(Component):
    """What every tracker has: nothing, so far."""

    @abstractmethod
    def build(self) -> Tracker:
        """The tracker of one run."""


TRACKERS: Registry[TrackerConfig] = Registry("tracker", "mypt_dist.tracking")


def any_tracker() -> Any:
    """The annotation of a schema field that holds a tracker."""
    return TRACKERS.union()
