"""At which steps a run saves: at fixed ones, or as often as pays off; later when busy, sooner after a failure."""

import math
from dataclasses import dataclass

FIRST_AUTO = 100
"""Steps to the first save of ``auto``, when nothing is measured yet: enough for the speed of training to settle."""

RETRY_SHARE = 10
"""A failed save is tried again after this part of an interval, then after twice as long, and so on."""


def best_interval_s(stall_s: float, duration_s: float, mtbf_s: float) -> float:
    """Seconds of training between saves that lose the least time to saving and to failures together.

    The optimum of Young (1974) and Daly (2006), ``sqrt(2 C M)``: C is what a save costs training, ``stall_s``, and M
    the mean time between failures. Never less than a save takes until it is safe: only one is written at a time.
    """
    return max(math.sqrt(2 * stall_s * mtbf_s), duration_s)


def in_steps(interval_s: float, step_s: float) -> int:
    """The same in whole steps, at least one."""
    return max(1, round(interval_s / max(step_s, 1e-9)))


@dataclass
class Cadence:
    """When the next save is due. All ranks tell it the same, so that all get the same answer."""

    every: int | None
    """Steps; None for ``auto``."""
    last: int = 0
    """Step of the newest checkpoint, or of the start."""
    failures: int = 0
    """In a row."""
    interval: int = 0
    """Steps between saves at present."""
    ephemeral_every: int | None = None
    """Steps at whose multiples is saved in between."""
    _overdue: bool = False
    _retry_at: int = 0
    _lasting: bool = True
    """The save under way is not an ephemeral one."""
    _owed: bool = False
    """Nor is one that was put off or has failed."""

    def __post_init__(self) -> None:
        self.interval = self.every or FIRST_AUTO

    def due(self, step: int, *, busy: bool) -> bool:
        """Whether to save after ``step``. ``busy``: one is being written; one that is put off comes right after it."""
        if self._retry_at:
            return step >= self._retry_at and not busy
        between = self.ephemeral_every is not None and step % self.ephemeral_every == 0
        return self._is_regular(step) or between or (self._overdue and not busy)

    def is_ephemeral(self, step: int) -> bool:
        """Whether a save of ``step`` that is due is one in between."""
        return self.ephemeral_every is not None and not self._owed and not self._is_regular(step)

    def begun(self, step: int) -> None:
        """A save of this step is under way."""
        self._lasting = not self.is_ephemeral(step)
        self._overdue, self._retry_at, self._owed = False, 0, False
        self.last = step if self._lasting else self.last

    def went_back(self, step: int) -> None:
        """The run goes on from an earlier step."""
        self.last, self._overdue, self._retry_at = step, False, 0

    def put_off(self, step: int) -> None:
        """A save could not begin because one is being written."""
        lasting = not self.is_ephemeral(step)
        self._overdue, self._owed = True, self._owed or lasting
        self.last = step if lasting else self.last

    def failed(self, step: int) -> int:
        """A save failed. Returns the step of the next try."""
        self.failures += 1
        self._owed = self._owed or self._lasting
        self._retry_at = step + max(1, self.interval // RETRY_SHARE) * 2 ** (self.failures - 1)
        return self._retry_at

    def saved(self) -> None:
        """A save is safe."""
        self.failures = 0

    def adapt(self, interval: int) -> None:
        """``auto``: save so often from now on, in steps."""
        if self.every is None:
            self.interval = interval

    def _is_regular(self, step: int) -> bool:
        return step % self.every == 0 if self.every else step - self.last >= self.interval
