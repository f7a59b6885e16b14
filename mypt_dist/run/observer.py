"""Who hears of a run's numbers: the console, and on the main rank the journal and whatever ships it."""

import logging
from collections.abc import Callable, Mapping

from mypt_dist.run.console import RunView
from mypt_dist.run.plan.watch import MemoryWatch
from mypt_dist.run.record import RunRecord
from mypt_dist.run.watching import RunWatch
from mypt_dist.training.guard import Entry
from mypt_dist.training.state import TrainState

log = logging.getLogger(__name__)

Metrics = Callable[[], Mapping[str, float]]


class RunObserver:
    """Passes what happens on. Journal and memory watch exist on the main rank alone."""

    def __init__(
        self, view: RunView, record: RunRecord, memory: MemoryWatch | None, watch: RunWatch, more: Metrics
    ) -> None:
        """``more``: metrics to go with those of training."""
        self._view, self._memory, self._watch, self._more = view, memory, watch, more
        self._journal, self._system = record.journal, record.system

    def stepped(self, state: TrainState) -> None:
        """One more update."""
        self._watch.stepped(state.step)
        self._view.stepped(state)
        if self._memory is not None:
            self._memory.stepped()

    def noted(self, state: TrainState, entry: Entry) -> None:
        """An update was not made, or the run went back."""
        if self._journal is None:
            return
        samples = f"samples {entry.first:,} to {entry.end:,}"
        if entry.back_to is None:
            log.warning("step %d skipped, %s: %s", entry.step, samples, entry.reason)
            self._journal.event("skip", step=entry.step, reason=entry.reason)
        else:
            log.warning("went back from step %d to %d and passed over %s", entry.step, entry.back_to, samples)
            self._journal.event("rollback", step=entry.step, resumed_from_step=entry.back_to, reason=entry.reason)

    def measured(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        """Numbers of this step. Non-finite ones are recorded too: they say why a run ended."""
        metrics = {**metrics, **self._more()} if "train/loss" in metrics else metrics
        self._view.measured(state, metrics)
        if self._journal is not None:
            system = self._system.sample() if self._system is not None and "train/loss" in metrics else {}
            self._journal.log(state.step, {**metrics, **system})
