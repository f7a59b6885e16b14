"""Did something succeed on every rank? One collective tells all of them, and all raise the same error."""

import errno
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from mypt_dist.errors import LockError, MyptError
from mypt_dist.world import JSON, World

T = TypeVar("T")

FAILURES = (OSError, RuntimeError, ValueError, MemoryError, MyptError)
"""What can go wrong on one rank alone: disks, devices, wrong sizes, our own errors. A bug of another kind ends the
rank, and the others hear that from the collective."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong on one rank."""

    rank: int
    kind: str
    text: str
    errno: int = 0
    """What the system said, 0 where it was not the system."""


class NotAgreedError(Exception):
    """Something failed on at least one rank. Known, with the same ``failures``, on all of them."""

    def __init__(self, failures: list[Failure]) -> None:
        super().__init__("; ".join(f"rank {failure.rank}: {failure.text}" for failure in failures))
        self.failures = failures

    def as_error(self, kind: type[MyptError], what: str) -> MyptError:
        """The error a user sees. A lost lock stays a `LockError`: trying again would not help."""
        locked = any(failure.kind == LockError.__name__ for failure in self.failures)
        return (LockError if locked else kind)(f"{what}: {self}")


def done(told: JSON) -> dict[str, JSON]:
    """The reply of a rank that succeeded."""
    return {"told": told, "failure": None}


def failed(error: BaseException) -> dict[str, JSON]:
    """The reply of a rank that failed."""
    number = error.errno if isinstance(error, OSError) and error.errno else 0
    number = errno.ENOMEM if isinstance(error, MemoryError) else number
    text = str(error) or type(error).__name__
    return {"told": None, "failure": {"kind": type(error).__name__, "text": text, "errno": number}}


def failures_in(replies: Iterable[Mapping[str, JSON]]) -> list[Failure]:
    """Of the replies of all ranks, in rank order."""
    return [
        Failure(rank, str(found["kind"]), str(found["text"]), int(str(found["errno"])))
        for rank, reply in enumerate(replies)
        if isinstance(found := reply["failure"], dict)
    ]


def together(world: World, action: Callable[[], T], tell: Callable[[T], JSON]) -> tuple[T, list[JSON]]:
    """Do ``action`` on every rank; return this rank's result and what all ranks ``tell`` of theirs, in rank order.

    Raises `NotAgreedError` on every rank when it failed on any.
    """
    reply: dict[str, JSON]
    cause: BaseException | None = None
    try:
        mine = action()
        reply = done(tell(mine))
    except FAILURES as error:
        cause, reply = error, failed(error)
    replies = [reply for reply in world.all_gather(reply) if isinstance(reply, dict)]
    failures = failures_in(replies)
    if failures:
        raise NotAgreedError(failures) from cause
    return mine, [reply["told"] for reply in replies]


def first(world: World, action: Callable[[], JSON]) -> JSON:
    """Do ``action`` on rank 0 alone and return its result on every rank. Raises `NotAgreedError` on every rank."""
    return together(world, action if world.rank == 0 else lambda: None, tell=lambda result: result)[1][0]
