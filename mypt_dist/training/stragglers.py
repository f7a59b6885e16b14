"""Which rank do the others wait for in every step? Their times side by side, at every log point."""

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from mypt_dist.world import JSON, World

log = logging.getLogger(__name__)

TABLE_EVERY_S = 60.0
"""A slow rank stays slow: once a minute is enough for the log. The metrics have every log point."""

WORTH = 0.05
"""Of the step's time. A rank that is slower by less than that, however many times, costs nobody anything."""

COLUMNS = ("step", "busy", "data_wait", "vote", "forward", "backward", "optimizer")


class RankTimes(NamedTuple):
    """Of one rank since the last log point, in milliseconds per step."""

    step: float
    busy: float
    """Neither in the vote nor in backward, where a rank waits for others: reading, forward, optimizer, the loop."""
    data_wait: float = 0.0
    vote: float = 0.0
    forward: float = 0.0
    backward: float = 0.0
    optimizer: float = 0.0


class Stragglers:
    """Compares the ranks. Costs one gathering of some 100 bytes from each rank at every log point."""

    def __init__(self, world: World, factor: float, clock: Callable[[], float] = time.monotonic) -> None:
        """``factor``: how many times busier than the median of the others is slow."""
        self._world, self._factor, self._clock = world, factor, clock
        self._told = float("-inf")
        self._suspect: int | None = None

    def compare(self, speed: Mapping[str, float]) -> dict[str, float]:
        """Metrics over all ranks from each rank's own, and a table in the log if one is slow; a collective."""
        if self._world.size == 1:
            return {}
        mine: list[JSON] = [round(value, 3) for value in times_of(speed)]
        ranks = [RankTimes(*row) for row in self._world.all_gather(mine)]  # type: ignore[misc]  # rows as sent above
        # Once may be chance, and the first time is the start.
        before, self._suspect = self._suspect, slow_rank(ranks, self._factor)
        if self._suspect is not None and self._suspect == before:
            self._tell(self._suspect, ranks)
        steps, busy = [rank.step for rank in ranks], [rank.busy for rank in ranks]
        return {
            "time/step_ms_max": max(steps),
            "time/step_ms_min": min(steps),
            "time/busy_ms_max": max(busy),
            "time/busy_ms_min": min(busy),
            "time/slowest_rank": float(busy.index(max(busy))),
        }

    def _tell(self, slow: int, ranks: Sequence[RankTimes]) -> None:
        if self._world.rank == 0 and self._clock() - self._told >= TABLE_EVERY_S:
            self._told = self._clock()
            log.warning("rank %d is slow; milliseconds per step, busiest first:\n%s", slow, table(ranks))


def times_of(speed: Mapping[str, float]) -> RankTimes:
    """A rank's times from its own metrics."""
    part = {name: speed.get(f"time/{name}_ms", 0.0) for name in COLUMNS if name != "busy"}
    return RankTimes(busy=max(part["step"] - part["vote"] - part["backward"], 0.0), **part)


def slow_rank(ranks: Sequence[RankTimes], factor: float) -> int | None:
    """The busiest rank, if it is ``factor`` times busier than the median of the others and the step feels it."""
    busy = [rank.busy for rank in ranks]
    slowest = busy.index(max(busy))
    others = busy[:slowest] + busy[slowest + 1 :]
    if not others:
        return None
    usual = statistics.median(others)
    felt = busy[slowest] - usual > WORTH * ranks[slowest].step
    return slowest if felt and busy[slowest] > factor * usual else None


def table(ranks: Sequence[RankTimes]) -> str:
    """All ranks, the busiest first."""
    order = sorted(range(len(ranks)), key=lambda rank: -ranks[rank].busy)
    header = " ".join(name.rjust(10) for name in ("rank", *COLUMNS))
    rows = [" ".join([f"{rank:10}", *(f"{getattr(ranks[rank], name):10.1f}" for name in COLUMNS)]) for rank in order]
    return "\n".join([header, *rows])
