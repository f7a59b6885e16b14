"""When is it too long? A decision on numbers, which forgives the time in which the whole machine stood still."""

from typing import Final

from mypt_dist.watch.board import Position

FROZEN_S: Final = 3.0
"""A guard looks every second. One that did not look for so long was itself held up: so was its rank, perhaps."""


class Patience:
    """Looks at positions one after the other."""

    def __init__(self, now: float) -> None:
        """``now``: seconds of the monotonic clock, as ever here."""
        self._looked, self._changes, self._forgiven = now, -1, 0.0

    def exhausted(self, position: Position, now: float, *, forgive: bool = False) -> bool:
        """Whether the rank is at ``position`` for longer than its limit. ``forgive``: the time since the last look."""
        gap, self._looked = now - self._looked, now
        if position.changes != self._changes:
            # Never judged at first sight: it may have been read while it was being written.
            self._changes, self._forgiven = position.changes, 0.0
            return False
        if forgive or gap > FROZEN_S:
            # A container or a laptop that was stopped, a machine that swapped: nobody's fault.
            self._forgiven += gap
        return self.age(position, now) > position.limit_s

    def age(self, position: Position, now: float) -> float:
        """How long the rank has been there, without the time that is forgiven."""
        return max(now - position.since - self._forgiven, 0.0)
