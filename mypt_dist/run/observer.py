"""Who hears of a run's numbers: the console, and on the main rank the journal and whatever ships it."""

from collections.abc import Mapping

from mypt_dist.run.console import RunView
from mypt_dist.run.plan.watch import MemoryWatch
from mypt_dist.run.record import RunRecord
from mypt_dist.run.watching import RunWatch
from mypt_dist.training.state import TrainState


class RunObserver:
    """Passes what happens on. Journal and memory watch exist on the main rank alone."""

    def __init__(self, view: RunView, record: RunRecord, memory: MemoryWatch | None, watch: RunWatch) -> None:
        self._view, self._memory, self._watch = view, memory, watch
        self._journal, self._system = record.journal, record.system

    def stepped(self, state: TrainState) -> None:
        """One more update."""
        self._watch.stepped(state.step)
        self._view.stepped(state)
        if self._memory is not None:
            self._memory.stepped()

    def measured(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        """Numbers of this step. Non-finite ones are recorded too: they say why a run ended."""
        self._view.measured(state, metrics)
        if self._journal is not None:
            system = self._system.sample() if self._system is not None and "train/loss" in metrics else {}
            self._journal.log(state.step, {**metrics, **system})
