"""Which of the ranks that hang together is the one the others wait for? Pure functions of what each was at."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from mypt_dist.watch.limits import PHASES, WAITING

STOPPED: Final = ("T", "t")
"""States of the kernel: stopped by a signal or by a debugger."""
GONE: Final = "gone"
"""In place of the kernel's state: there is no such process any more."""


@dataclass(frozen=True, slots=True)
class RankStatus:
    """What one rank is at, as its guard tells."""

    rank: int
    host: str
    pid: int
    phase: str
    step: int
    age_s: float
    """How long it has been in this phase, when this was written."""
    time: float
    """When that was, in seconds since 1970 by the clock of its host. For people and for one host."""
    state: str = ""
    """The kernel's letter for its main thread: R, S, D, T."""
    hung: bool = False
    """Whether the limit of the phase is exceeded."""
    at: str = ""
    """The innermost frame of its main thread, once it was asked for."""
    collective: bool = False
    """Whether that frame belongs to a collective."""

    def __str__(self) -> str:
        state = {"T": ", stopped by a signal", "t": ", stopped by a debugger", "D": ", waiting for a disk"}
        told = ", process gone" if self.state == GONE else state.get(self.state, "")
        return f"rank {self.rank} on {self.host}: {self.phase}, step {self.step}, for {self.age_s:.0f} s{told}"


def ordered(statuses: Iterable[RankStatus]) -> list[RankStatus]:
    """The odd one first: gone or stopped, then at an older step, then not in a collective, then at an earlier phase."""
    return sorted(statuses, key=_suspicion)


def suspects(statuses: Sequence[RankStatus]) -> list[RankStatus]:
    """Those whom the others wait for; none if all are alike."""
    if not statuses:
        return []
    first, *_ = ranked = ordered(statuses)
    lead = _suspicion(first)[:-2]
    found = [status for status in ranked if _suspicion(status)[:-2] == lead]
    return [] if len(found) == len(ranked) and len(ranked) > 1 else found


def missing(statuses: Iterable[RankStatus], size: int) -> list[int]:
    """Ranks that nothing is known of."""
    return sorted(set(range(size)) - {status.rank for status in statuses})


def table(statuses: Iterable[RankStatus]) -> str:
    """All ranks, the odd one first."""
    header = ("rank", "host", "pid", "phase", "step", "age", "state", "at")
    rows = [
        (str(s.rank), s.host, str(s.pid), s.phase, str(s.step), f"{s.age_s:.1f} s", s.state, s.at)
        for s in ordered(statuses)
    ]
    return columns(header, rows)


def columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows under a header, each column as wide as it must be."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]
    return "\n".join(line.rstrip() for line in lines)


def _suspicion(status: RankStatus) -> tuple[bool, int, bool, int, float, int]:
    dead = status.state == GONE or status.state in STOPPED
    # What it was seen at outweighs what it said it was at.
    waits = status.collective if status.at else status.phase in WAITING
    order = PHASES.index(status.phase) if status.phase in PHASES else len(PHASES)
    return not dead, status.step, waits, order, -status.age_s, status.rank
