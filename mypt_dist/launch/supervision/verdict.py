"""Is an end worth a restart, and which exit code does it have? Pure functions of the ranks' exit codes."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass

from mypt_dist.errors import HUNG, LostPeerError

BUG = 1
"""Exit code of Python after a traceback."""

LOST = LostPeerError.exit_code

MEANING = {
    BUG: "a bug, see its traceback",
    2: "bad configuration or input",
    3: "damaged data",
    4: "the loss or gradient is no longer finite",
    5: "a checkpoint could not be written",
    6: "no valid checkpoint",
    LOST: "lost another rank",
    8: "another process trains in the same folder",
    HUNG: "no progress, ended by its watchdog",
}


@dataclass(frozen=True, slots=True)
class Ending:
    """How the processes of a launch on this machine ended. A negative number is that of the signal that killed."""

    launcher: int
    ranks: Mapping[int, int | None]
    """Of every rank that began. None: it left no word, so a signal killed it, or it was ended from outside."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a supervisor makes of it."""

    restart: bool
    code: int
    """The exit code of the ranks, not the launcher's."""
    why: str


def judge(ending: Ending, stopped: int = 0) -> Verdict:
    """``stopped`` is the signal that the supervisor passed on, 0 for none: after it nothing is restarted.

    What a rank decided by itself, it would decide again: only a lost peer, a hang and a death without a word
    are worth a restart. A traceback beside such a death is taken for its consequence.
    """
    if not ending.ranks:
        return _without_ranks(ending.launcher, stopped)
    failed = {rank: code for rank, code in ending.ranks.items() if code != 0}
    if not failed:
        return Verdict(False, 0, "every rank is done")
    told = {rank: code for rank, code in failed.items() if code is not None and code > 0}
    silent = {rank: code for rank, code in failed.items() if rank not in told}
    harmless = {LOST, HUNG, BUG} if silent else {LOST, HUNG}
    decided = {rank: code for rank, code in told.items() if code not in harmless}
    if decided:
        # A signal is the least telling of all reasons.
        rank = min(decided, key=lambda rank: (decided[rank] >= 128, rank))
        return Verdict(False, decided[rank], f"rank {rank}: {meaning(decided[rank])}")
    if stopped:
        code = min(told.values(), default=128 + stopped)
        return Verdict(False, code, f"{_name(stopped)} came, and not every rank could save: {meaning(code)}")
    return _worth_it(ending.launcher, told, silent)


def meaning(code: int) -> str:
    """An exit code in words."""
    if code in MEANING:
        return f"{MEANING[code]} (exit code {code})"
    return f"stopped by {_name(code - 128)} (exit code {code})" if code > 128 else f"exit code {code}"


def _without_ranks(launcher: int, stopped: int) -> Verdict:
    if stopped:
        return Verdict(False, 128 + stopped, f"ended by {_name(stopped)} before a rank began")
    if launcher < 0:
        return Verdict(True, 128 - launcher, f"the launcher was killed by {_name(-launcher)} before a rank began")
    return Verdict(False, launcher, f"the launcher ended with exit code {launcher} before a rank began")


def _worth_it(launcher: int, told: Mapping[int, int], silent: Mapping[int, int | None]) -> Verdict:
    hung = [rank for rank, code in told.items() if code == HUNG]
    if hung:
        return Verdict(True, HUNG, f"rank {hung[0]}: {meaning(HUNG)}")
    if not silent:
        return Verdict(True, LOST, f"rank {min(told)}: {meaning(LOST)}")
    rank = min(silent)
    number = silent[rank]
    if number is None and launcher < 0:
        return Verdict(True, LOST, f"the launcher was killed by {_name(-launcher)}, its ranks with it")
    if number is None:
        return Verdict(True, LOST, f"rank {rank} died without a word: killed by a signal, or by the system for memory")
    return Verdict(True, 128 - number, f"rank {rank} was killed by {_name(-number)}")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
