"""The process beside a rank: it looks, tells, and ends the rank that hangs. Started by `mypt_dist.watch.rank`.

Whatever may block, a disk or a full pipe, is done by threads of its own, so that the looking never stops.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from mypt_dist.errors import HUNG
from mypt_dist.lifeline import die_with_parent, is_readable, leave_stopping_to_the_rank
from mypt_dist.watch import flight_recorder, stacks
from mypt_dist.watch.board import Board, Position
from mypt_dist.watch.patience import Patience
from mypt_dist.watch.report import report
from mypt_dist.watch.statuses import HANGS, HEARTBEAT, publish, read_all, write_whole
from mypt_dist.watch.verdict import STOPPED, RankStatus, suspects

LOOK_S: Final = 1.0
"""At most so long between two looks."""
SETTLE_S: Final = 3.0
"""At most so long a report waits for what the guards of other ranks find at the same time."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a guard is told at its start, as JSON."""

    pid: int
    rank: int
    size: int
    host: str
    board: int
    """Descriptor; so are the next two."""
    stacks: int
    end: int
    """Where a byte tells the rank to end itself."""
    run_dir: str
    watch_dir: str
    grace_s: float
    heartbeat_s: float


class Guard:
    """Watches one rank until one of the two ends."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._board = Board(settings.board)
        self._run_dir, self._watch_dir = Path(settings.run_dir), Path(settings.watch_dir)
        self._patience = Patience(time.monotonic())
        self._told = self._beaten = float("-inf")
        self._teller: threading.Thread | None = None

    def run(self) -> None:
        """Return when the rank has ended, or was ended."""
        while not self._rank_left():
            position, now = self._board.read(), time.monotonic()
            if position.limit_s and self._patience.exhausted(position, now, forgive=self._rests()):
                self._end(position, self._patience.age(position, now))
                return
            self._tell(position, now)
        position = self._board.read()
        if position.phase == "end" and position.public and self._settings.rank == 0:
            self._quietly(lambda: self._beat(self._status(position, time.monotonic()), position, ended=True))

    def _rank_left(self) -> bool:
        """Wait until it is time to look again. The rank holds the other end of our input and never writes."""
        limit = self._board.read().limit_s or LOOK_S
        ready = is_readable(sys.stdin.fileno(), min(LOOK_S, max(limit / 20, 0.02)))
        return ready or os.getppid() != self._settings.pid

    def _rests(self) -> bool:
        """Whether somebody stopped a run of one rank, from a terminal or a debugger: nobody waits for it."""
        return self._settings.size == 1 and state_of(self._settings.pid) in STOPPED

    def _status(self, position: Position, now: float) -> RankStatus:
        settings = self._settings
        return RankStatus(
            rank=settings.rank,
            host=settings.host,
            pid=settings.pid,
            phase=position.phase,
            step=position.step,
            age_s=round(self._patience.age(position, now), 3),
            time=time.time(),
            state=state_of(settings.pid),
        )

    def _tell(self, position: Position, now: float) -> None:
        """Publish what the rank is at, every few seconds. While the disk takes its time, nothing new is told."""
        if not position.public or (self._teller is not None and self._teller.is_alive()):
            return
        status, actions = self._status(position, now), list[Callable[[], None]]()
        # All ranks together make some twelve files a second, unless that would be too late for a report.
        every_s = max(self._settings.heartbeat_s / 2, self._settings.size / 12)
        if now - self._told >= min(every_s, position.limit_s / 8):
            self._told = now
            actions.append(lambda: publish(self._watch_dir, status))
        if self._settings.rank == 0 and now - self._beaten >= self._settings.heartbeat_s:
            self._beaten = now
            actions.append(lambda: self._beat(status, position))
        if actions:
            self._teller = threading.Thread(target=self._quietly, args=actions, daemon=True)
            self._teller.start()

    def _beat(self, status: RankStatus, position: Position, *, ended: bool = False, hung: bool = False) -> None:
        beat = {
            "time": status.time,
            "utc": f"{datetime.fromtimestamp(status.time, UTC):%Y-%m-%d %H:%M:%S}",
            "step": status.step,
            "phase": status.phase,
            "phase_s": status.age_s,
            "limit_s": position.limit_s,
            "ended": ended,
            "hung": hung,
            "host": status.host,
            "pid": status.pid,
            "ranks": self._settings.size,
        }
        write_whole(self._run_dir / HEARTBEAT, json.dumps(beat) + "\n")

    def _quietly(self, *actions: Callable[[], None]) -> None:
        """What cannot be written is not: a full disk is no reason to stop looking."""
        for action in actions:
            try:
                action()
            except OSError:
                continue

    def _end(self, position: Position, age_s: float) -> None:
        """Write down what is known, then end the rank, whatever becomes of the writing."""
        writer = threading.Thread(target=self._quietly, args=[lambda: self._report(position, age_s)], daemon=True)
        writer.start()
        writer.join(self._settings.grace_s)
        if state_of(self._settings.pid) not in STOPPED:
            with suppress(OSError):
                os.write(self._settings.end, b"x")
            deadline = time.monotonic() + self._settings.grace_s
            while time.monotonic() < deadline:
                if os.getppid() != self._settings.pid:
                    return
                time.sleep(0.05)
        # It can run no Python: something holds the interpreter's lock, or it is stopped.
        if os.getppid() == self._settings.pid:
            os.kill(self._settings.pid, signal.SIGKILL)

    def _report(self, position: Position, age_s: float) -> None:
        settings = self._settings
        say(
            f"mypt: [rank {settings.rank}] hangs: {age_s:.0f} s in phase {position.phase} of step {position.step} on "
            f"{settings.host}, limit {position.limit_s:g} s; ending it with exit code {HUNG}"
        )
        status = self._status(position, time.monotonic())
        text = "" if status.state in STOPPED else stacks.ask(settings.pid, settings.stacks)
        where = stacks.innermost(text)
        status = replace(status, hung=True, at=where.at, collective=where.collective)
        recorded = flight_recorder.ask(settings.rank)
        # Before the run's folder is known to be ours, stderr is all there is.
        if not position.public or not self._keep_report(status, position, text, recorded):
            say(report(status, position.limit_s, [status], text, recorded))

    def _keep_report(self, status: RankStatus, position: Position, text: str, recorded: str) -> bool:
        """Write the report of all ranks into the run's folder, and say where. False where that cannot be."""
        settings = self._settings
        try:
            publish(self._watch_dir, status)
            if settings.rank == 0:
                self._beat(status, position, hung=True)
            time.sleep(min(SETTLE_S, settings.grace_s / 3))
            known = [other for other in read_all(self._watch_dir, settings.size) if other.rank != settings.rank]
            known.append(status)
            path = self._run_dir / HANGS / f"step-{position.step:08}-rank-{settings.rank:05}-{settings.pid}.txt"
            write_whole(path, report(status, position.limit_s, known, text, recorded))
        except OSError:
            return False
        for suspect in suspects(known) if len(known) > 1 else ():
            say(f"mypt: [rank {settings.rank}] the others wait for {suspect}{' at ' if suspect.at else ''}{suspect.at}")
        say(f"mypt: [rank {settings.rank}] see {path}")
        return True


def state_of(pid: int) -> str:
    """The kernel's letter for a process's main thread; empty where it does not tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def say(text: str) -> None:
    """A line, or several, on stderr at once. A closed terminal is no reason to stop."""
    with suppress(OSError):
        os.write(2, f"{text.rstrip()}\n".encode())


def main() -> None:
    """Run as ``python -m mypt_dist.watch.guard SETTINGS``."""
    settings = Settings(**json.loads(sys.argv[1]))
    # Meant for the rank, which tells us by its end.
    leave_stopping_to_the_rank()
    if die_with_parent() and os.getppid() == settings.pid:
        Guard(settings).run()
    # A thread that a dead disk holds must not keep this process.
    os._exit(0)


if __name__ == "__main__":
    main()
