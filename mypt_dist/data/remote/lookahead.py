"""A thread that follows training and keeps what comes next: fetched, and held while it is near."""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from mypt_dist.data.loader import BatchShape
from mypt_dist.data.order import BLOCK, Order
from mypt_dist.data.remote.fetcher import Fetcher
from mypt_dist.data.remote.plan import Layout, in_order_of_use, part_of_rank
from mypt_dist.data.remote.shard import RemoteShard

log = logging.getLogger(__name__)

FAR = 1 << 16
"""Samples that are looked ahead at most."""
LOOK_S = 0.5
"""Between two looks at what has come."""


@dataclass(frozen=True, slots=True)
class Reach:
    """How far to look."""

    near: int = 1
    """Steps whose shards are wanted in any case."""
    budget: int | None = None
    """Bytes of shards that are wanted at once. None: there is room for all."""
    pinned: Sequence[RemoteShard] = ()
    """Wanted all the time."""


class Lookahead:
    """For one rank. Nothing it meets reaches training: what is missing is fetched when it is read, then."""

    def __init__(
        self,
        order: Order,
        shape: BatchShape,
        shards: Sequence[Sequence[RemoteShard]],
        fetcher: Fetcher,
        reach: Reach,
    ) -> None:
        """``shards``: by source of the order, none for one that is local."""
        self._order, self._shape, self._shards, self._fetcher = order, shape, shards, fetcher
        self._near, self._budget, self._pinned = reach.near, reach.budget, reach.pinned
        self._ends = [Layout.of([shard.entry for shard in source]).ends if source else None for source in shards]
        self._changed = threading.Condition()
        self._position = 0
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="lookahead", daemon=True)

    def fill(self, position: int) -> None:
        """Have what the steps from sample ``position`` on read first. Raises `DataError` where it cannot be had."""
        first = self._touched(position, self._near)
        missing = [shard.wanted for shard in first if not self._fetcher.cache.has(shard.wanted.sha256)]
        if missing:
            size = sum(wanted.bytes for wanted in missing) / 1e6
            log.info("fetching %d of the %d shards that the first steps read: %.1f MB", len(missing), len(first), size)
        self._want(self._upcoming(position))
        for shard in first:
            shard.hold()

    def at(self, position: int) -> None:
        """Training is at sample ``position``. Returns at once."""
        with self._changed:
            self._position = position
            if self._thread.ident is None and not self._is_over:
                self._thread.start()
            self._changed.notify_all()

    def close(self) -> None:
        """Stop looking ahead."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(1)

    def _run(self) -> None:
        planned: int | None = None
        upcoming: list[RemoteShard] = []
        while not self._is_over:
            try:
                position = self._position
                # With room for all, one plan is enough. Else what is behind must make way for what a step waits for.
                if planned is None or (self._budget is not None and planned != position):
                    planned, upcoming = position, self._upcoming(position)
                    self._release_all_but(upcoming)
                    self._want(upcoming)
                for shard in upcoming:
                    if not shard.is_held:
                        shard.hold_if_here()
            except Exception as error:  # noqa: BLE001 - whoever reads the shard hears of it
                log.warning("looking ahead: %s", error)
            with self._changed:
                if not self._is_over:
                    self._changed.wait(LOOK_S)

    def _upcoming(self, position: int) -> list[RemoteShard]:
        """What is read from sample ``position`` on: by the next steps, and then as far as the budget goes."""
        per_step = self._shape.per_step
        found = dict.fromkeys(self._touched(position, self._near))
        total, size = sum(len(source) for source in self._shards), sum(shard.entry.bytes for shard in found)
        steps = max(1, BLOCK // per_step)
        for first in range(position + self._near * per_step, position + FAR, steps * per_step):
            if len(found) == total:
                break
            for shard in self._touched(first, steps):
                size += 0 if shard in found else shard.entry.bytes
                if self._budget is not None and size > self._budget:
                    return [*found, *self._pinned]
                found[shard] = None
        if self._budget is None:
            # What comes up rarely, such as the short last shard of a split: then there is nothing more to plan.
            found |= dict.fromkeys(shard for source in self._shards for shard in source)
        return [*found, *self._pinned]

    def _touched(self, position: int, steps: int) -> list[RemoteShard]:
        shape = self._shape
        end = self._order.course.end
        if end:
            steps = min(steps, (end.sample - position) // shape.per_step)
        if steps <= 0:
            return []
        samples = self._order.samples(position, steps * shape.per_step)
        mine = part_of_rank(samples, shape.per_step, shape.rank, shape.ranks)
        keys = in_order_of_use(mine, shape.context + 1, self._ends)
        return [self._shards[source][shard] for source, shard in keys]

    def _release_all_but(self, upcoming: Sequence[RemoteShard]) -> None:
        if self._budget is None:
            return
        kept = set(upcoming)
        for shard in (shard for source in self._shards for shard in source):
            if shard not in kept:
                shard.release()

    def _want(self, upcoming: Sequence[RemoteShard]) -> None:
        self._fetcher.want([shard.wanted for shard in upcoming if not shard.is_held])
