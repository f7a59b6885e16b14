"""A run under watch: its phases are told to the watchdog, and decide how long ranks wait for one another."""

import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from mypt_dist.errors import LostPeerError
from mypt_dist.launch.topology import promised_ranks
from mypt_dist.watch.config import WatchConfig
from mypt_dist.watch.guard import state_of
from mypt_dist.watch.limits import Limits
from mypt_dist.watch.orphans import die_with_launcher
from mypt_dist.watch.rank import Watch
from mypt_dist.watch.statuses import read_all, watch_folder, with_the_dead
from mypt_dist.watch.verdict import RankStatus, suspects

log = logging.getLogger(__name__)


class RunWatch:
    """Of one rank, from the first line of a run to its last."""

    def __init__(self, config: WatchConfig, folder: Path, environ: Mapping[str, str]) -> None:
        self._folder, self._environ = folder, environ
        self._rank, self._ranks = int(environ.get("RANK", "0")), promised_ranks(environ)
        self._limits = Limits(config.first_step_s, config.step_s, config.evaluate_s, config.save_s)
        self._own: dict[str, float] = {}
        self._peers: dict[str, float] = {}
        self._waits_s = config.first_step_s
        self._first = True
        self.step = 0
        """The one in progress; 0 before the loop."""
        self._watch: Watch | None = None
        if config.watchdog and sys.platform == "linux":
            self._watch = Watch(folder, self._rank, self._ranks, grace_s=config.grace_s, heartbeat_s=config.heartbeat_s)
        self.let_wait: Callable[[float], None] = lambda seconds: None
        """`Engine.let_wait`, once there is an engine."""

    def __enter__(self) -> Self:
        die_with_launcher(self._environ)
        if self._watch is not None:
            self._watch.start()
        self.enter("start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watch is not None:
            self._watch.stop()

    def enter(self, phase: str) -> None:
        """This rank is at ``phase`` from now on. Some microseconds at most: called several times a step."""
        if phase not in self._own:
            self._own[phase] = self._limits.own(phase, first=self._first)
            self._peers[phase] = self._limits.peers(phase, first=self._first)
        if self._watch is not None:
            self._watch.enter(phase, self.step, self._own[phase])
        waits_s = self._peers[phase]
        if waits_s != self._waits_s:
            self._waits_s = waits_s
            self.let_wait(waits_s)

    def stepped(self, step: int) -> None:
        """``step`` is done."""
        if self._first:
            # Other limits hold from here on.
            self._first = False
            self._own, self._peers = {}, {}
        self.step = step + 1
        self.enter("loop")

    def publish(self) -> None:
        """The run's folder is ours."""
        if self._watch is not None:
            self._watch.publish()

    def forget_others(self) -> None:
        """Rank 0, once the folder is ours: what an earlier start left there is not of this one."""
        if self._watch is not None:
            self._watch.forget_others()

    @contextmanager
    def training(self, step: int) -> Iterator[None]:
        """From ``step`` on the loop runs. Who is missing, if somebody is, stands in the error."""
        self.step = step + 1
        self.enter("loop")
        try:
            yield
        except LostPeerError as error:
            lost = self._lost()
            told = LostPeerError("; ".join([str(error), *map(str, lost)]))
            # Rank 0 speaks for all, unless it is the one that is missing.
            told.local = error.local or any(status.rank == 0 for status in lost)
            raise told from error
        finally:
            self.enter("end")

    def _lost(self) -> list[RankStatus]:
        """Those that the others' guards, or the kernel, say are missing; none where nothing is known."""
        if self._watch is None:
            return []
        host = socket.gethostname()
        others = [s for s in read_all(watch_folder(self._folder), self._ranks) if s.rank != self._rank]
        others = with_the_dead(others, host, lambda pid: state_of(pid) not in ("", "Z", "X"))
        if len(others) <= 1:
            return others
        here = RankStatus(self._rank, host, os.getpid(), "vote", self.step, 0.0, time.time())
        return [status for status in suspects([*others, here]) if status.rank != self._rank]
