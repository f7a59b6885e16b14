"""The catalogue of mistakes that are found without starting a rank: pure functions from a case to findings.

A check is called as its function, and its docstring's first line is its line in the catalogue of the docs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from mypt_dist.run.rehearse.case import Case
from mypt_dist.run.rehearse.checks import batch, data, folder, launching, nodes, parts, schedule
from mypt_dist.run.rehearse.facts import NodeFacts
from mypt_dist.run.rehearse.findings import Finding

S = TypeVar("S")
Check = Callable[[S], Iterator[Finding]]

CHECKS: tuple[Check[Case], ...] = (
    *launching.CHECKS,
    *batch.CHECKS,
    *schedule.CHECKS,
    *parts.CHECKS,
    *data.CHECKS,
    *folder.CHECKS,
)
NODE_CHECKS: tuple[Check[Sequence[NodeFacts]], ...] = nodes.CHECKS


def findings(case: Case) -> list[Finding]:
    """Everything that the catalogue finds in the configuration and around it."""
    return _run(CHECKS, case)


def node_findings(facts: Sequence[NodeFacts]) -> list[Finding]:
    """Everything in which the nodes do not agree."""
    return _run(NODE_CHECKS, facts)


def catalogue() -> list[tuple[str, str, str]]:
    """Name, what it catches, and the stage that calls it."""
    stages = [("plan", check) for check in CHECKS] + [("nodes", check) for check in NODE_CHECKS]
    return [(name_of(check), (check.__doc__ or "").strip().splitlines()[0], stage) for stage, check in stages]


def name_of(check: Callable[..., object]) -> str:
    """``micro_batch`` -> ``micro-batch``."""
    return str(check.__name__).replace("_", "-")


def _run(checks: Sequence[Check[S]], subject: S) -> list[Finding]:
    return [replace(finding, check=name_of(check)) for check in checks for finding in check(subject)]
