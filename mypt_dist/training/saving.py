"""What the loop asks of whoever saves: when, what, and what has become of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from mypt_dist.training.state import TrainState


class Saving(Protocol):
    """Saves that may still be under way when the loop goes on. All ranks call all of it alike."""

    def due(self, state: TrainState) -> bool:
        """Whether to save ``state``, besides the last one of a run. The same on all ranks."""
        ...

    def vote(self) -> Sequence[float]:
        """This rank's numbers for the step's sum over ranks. Always as many."""
        ...

    def heard(self, sums: Sequence[float]) -> None:
        """What all ranks' numbers add up to. May run collectives. Raises `SaveError` on all ranks alike."""
        ...

    def begin(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        """Save ``state``, or put it off. Raises `SaveError` on all ranks alike when too many saves have failed."""
        ...

    def finish(self, state: TrainState, metrics: Mapping[str, float]) -> Path:
        """Before the run ends: have ``state`` saved and safe; its folder. Raises `SaveError` on all ranks alike."""
        ...

    def roll_back(self, state: TrainState) -> TrainState:
        """Load the last healthy state, to go on behind ``state``'s samples. Raises `NumericError` if there is none."""
        ...
