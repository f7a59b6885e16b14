"""What a check is, what it finds, and how it is kept from hanging."""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from mypt_dist.errors import MyptError

Status: TypeAlias = Literal["ok", "skip", "warn", "fail"]
ORDER: tuple[Status, ...] = ("ok", "skip", "warn", "fail")
"""From good to bad."""

LIMIT_S = 8.0
"""Whoever waits for a whole report has patience for some seconds per check; what takes longer here hangs in a run."""

LOADING_S = 60.0
"""Where torch is loaded first, which takes long from a network disk, or a model is traced."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one look found."""

    status: Status
    found: str
    advice: str = ""
    """What to do about it; empty if there is nothing to do."""


def ok(found: str) -> Result:
    """Nothing to do."""
    return Result("ok", found)


def skip(found: str) -> Result:
    """There was nothing to look at; ``found`` says why."""
    return Result("skip", found)


def warn(found: str, advice: str) -> Result:
    """A run would work, but worse than it could."""
    return Result("warn", found, advice)


def fail(found: str, advice: str) -> Result:
    """A run would not work."""
    return Result("fail", found, advice)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at."""

    name: str
    prevents: str
    """The trap that it warns of."""
    look: Callable[[], Result]
    limit_s: float = LIMIT_S


@dataclass(frozen=True, slots=True)
class Finding:
    """A line of the report."""

    name: str
    status: Status
    found: str
    prevents: str
    advice: str

    def to_json(self) -> dict[str, Any]:
        """For programs, and for other ranks."""
        return {name: getattr(self, name) for name in self.__slots__}


def examine(check: Check) -> Finding:
    """Look, for at most the check's limit. Whatever goes wrong while looking is a finding too."""
    results: list[Result] = []
    looking = threading.Thread(target=lambda: results.append(_look(check)), name=check.name, daemon=True)
    looking.start()
    looking.join(check.limit_s)
    result = results[0] if results else fail(f"no answer in {check.limit_s:g} s", "find out what hangs there")
    return Finding(check.name, result.status, result.found, check.prevents, result.advice)


def examine_all(checks: Iterable[Check]) -> list[Finding]:
    """One after the other: some measure speed."""
    return [examine(check) for check in checks]


def merged(reports: Sequence[Sequence[Finding]]) -> list[Finding]:
    """The worst finding of each name over the ranks' ``reports``, with the rank that has it."""
    found: dict[str, list[tuple[int, Finding]]] = {}
    for rank, report in enumerate(reports):
        for finding in report:
            found.setdefault(finding.name, []).append((rank, finding))
    return [_worst(entries, several=len(reports) > 1) for entries in found.values()]


def _worst(entries: Sequence[tuple[int, Finding]], *, several: bool) -> Finding:
    rank, worst = max(entries, key=lambda entry: (ORDER.index(entry[1].status), -entry[0]))
    if not several or worst.status in ("ok", "skip"):
        return worst
    found = f"rank {rank}: {worst.found}"
    return Finding(worst.name, worst.status, found, worst.prevents, worst.advice)


def _look(check: Check) -> Result:
    try:
        return check.look()
    except MyptError as error:
        return fail(str(error), "change what the message names")
    except Exception as error:  # noqa: BLE001 - a check that breaks must not take the others with it
        return fail(f"{type(error).__name__}: {error}", "look there: the check itself could not be made")
