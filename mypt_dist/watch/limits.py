"""How long each phase of a run may last, for the rank that is in it and for those who wait for it."""

from dataclasses import dataclass
from typing import Final

PHASES: Final = (
    "start",
    "rendezvous",
    "data",
    "model",
    "restore",
    "loop",
    "evaluate",
    "save",
    "data_wait",
    "vote",
    "compute",
    "forward",
    "backward",
    "optimizer",
    "end",
)
"""In the order in which a rank comes through them. ``loop`` is what lies between the others: numbers, logs, signals."""

WAITING: Final = frozenset({"rendezvous", "vote"})
"""Phases in which a rank does nothing but wait for others."""

WORKING_SHARE: Final = 0.8
"""Of the time that peers wait. A rank at work is ended before them, so that the one that hangs writes the report."""

WAITING_SHARE: Final = 1.2
"""The peers' own time-out comes first; the watchdog is for the case that it does not come."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds that ranks wait for one another, by part of a run."""

    first_s: float
    step_s: float
    evaluate_s: float
    save_s: float

    def peers(self, phase: str, *, first: bool) -> float:
        """How long a collective begun in ``phase`` waits for others. ``first``: before the first step is done."""
        special = {"evaluate": self.evaluate_s, "save": self.save_s, "end": self.save_s}
        return special.get(phase, self.first_s if first else self.step_s)

    def own(self, phase: str, *, first: bool) -> float:
        """How long a rank itself may be in ``phase``."""
        return self.peers(phase, first=first) * (WAITING_SHARE if phase in WAITING else WORKING_SHARE)
