"""Start, wait, judge, start again: on fewer ranks if it must be."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from mypt_dist.launch.command import Command
from mypt_dist.launch.supervision.child import Stop, attempt
from mypt_dist.launch.supervision.patience import Failures, Patience
from mypt_dist.launch.supervision.verdict import Ending, Verdict, judge

log = logging.getLogger(__name__)


def _never_fewer(most: int) -> int | None:
    return None


def _unknown() -> int | None:
    return None


@dataclass(frozen=True, slots=True)
class Job:
    """What is supervised on this machine."""

    command: Callable[[int], Command]
    """That starts so many ranks."""
    ranks: int
    newest_step: Callable[[], int]
    """Of the committed checkpoints, 0 for none."""
    patience: Patience = field(default_factory=Patience)
    at_most: Callable[[int], int | None] = _never_fewer
    """The largest allowed number of ranks that is not above the given one. None: there is none."""
    devices: Callable[[], int | None] = _unknown
    """That are there now. None: as many as are asked for."""
    attempt: Callable[[Command, Stop], Ending] = field(default=attempt)


def supervise(job: Job) -> int:
    """Run ``job`` until it is done, stopped or hopeless. Returns the exit code of its ranks."""
    with Stop().listening() as stop:
        failures = Failures(job.newest_step())
        ranks = _present(job, job.ranks)
        while ranks is not None:
            verdict = judge(job.attempt(job.command(ranks), stop), stop.first)
            if stop.second:
                return 128 + stop.second
            if not verdict.restart:
                _say_why_not(verdict)
                return verdict.code
            failures = failures.and_another(job.newest_step())
            ranks, failures = _next(job, ranks, failures, verdict)
            if ranks is None:
                return verdict.code
            stop.wait(job.patience.wait_s(max(failures.count, 1)))
            if stop.first:
                return 128 + stop.first
        log.error("supervisor: too few devices are there to begin with")
        return 2


def _next(job: Job, ranks: int, failures: Failures, verdict: Verdict) -> tuple[int | None, Failures]:
    """On how many ranks to go on, None for not at all."""
    lasting = failures.count > job.patience.restarts
    wanted = job.at_most(ranks - 1) if lasting else ranks
    if wanted is None:
        log.error(
            "supervisor: given up after %d restarts at step %d without a new checkpoint; %s",
            job.patience.restarts,
            failures.step,
            verdict.why,
        )
        return None, failures
    left = _present(job, wanted)
    if left is None:
        return None, failures
    if left != ranks:
        failures = replace(failures, count=0)
        log.warning("supervisor: %s; going on with %d ranks instead of %d", verdict.why, left, ranks)
        return left, failures
    log.warning(
        "supervisor: %s; restart %d of %d in %g s, from step %d",
        verdict.why,
        failures.count,
        job.patience.restarts,
        job.patience.wait_s(failures.count),
        failures.step,
    )
    return left, failures


def _present(job: Job, ranks: int) -> int | None:
    """``ranks``, or the largest allowed number if fewer devices are there now."""
    devices = job.devices()
    if devices is None or devices >= ranks:
        return ranks
    left = job.at_most(devices)
    if left is None:
        log.error("supervisor: %d devices are left, and no allowed number of ranks fits them", devices)
    return left


def _say_why_not(verdict: Verdict) -> None:
    if verdict.code:
        log.warning("supervisor: not restarted, %s", verdict.why)
