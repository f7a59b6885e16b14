"""Who hears of a run's numbers: the console, and on the main rank the journal and whatever ships it."""

from collections.abc import Mapping

from mypt_dist.run.console import RunView
from mypt_dist.tracking.journal import Journal
from mypt_dist.tracking.system import SystemSampler
from mypt_dist.training.state import TrainState


class RunObserver:
    """Passes what happens on. The journal exists on the main rank alone."""

    def __init__(self, view: RunView, journal: Journal | None, system: SystemSampler | None) -> None:
        self._view, self._journal, self._system = view, journal, system

    def stepped(self, state: TrainState) -> None:
        """One more update."""
        self._view.stepped(state)

    def measured(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        """Numbers of this step. Non-finite ones are recorded too: they say why a run ended."""
        self._view.measured(state, metrics)
        if self._journal is not None:
            system = self._system.sample() if self._system is not None and "train/loss" in metrics else {}
            self._journal.log(state.step, {**metrics, **system})
