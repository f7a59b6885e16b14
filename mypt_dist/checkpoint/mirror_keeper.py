"""The process that keeps a mirror: ``python -m mypt_dist.checkpoint.mirror_keeper``, started by `MirrorProcess`.

It looks every few seconds whether there is a checkpoint that the mirror lacks, so nobody has to tell it, and one that
died is made up for by the next. Nothing it meets reaches the run: it logs, notes it in a file, and tries again later.
"""

import json
import logging
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from mypt_dist.checkpoint.mirror import Mirror
from mypt_dist.checkpoint.mirror_process import Order
from mypt_dist.checkpoint.mirror_target import MirrorTarget
from mypt_dist.config import Config
from mypt_dist.lifeline import die_with_parent, is_readable, leave_stopping_to_the_rank

log = logging.getLogger(__name__)

STATE = "mirror.json"
"""In the run's folder: what the mirror did last."""
NICENESS = 15
"""Training comes first, then saving."""
POLL_S, LONGEST_S = 5.0, 300.0
"""Seconds between two looks, and at most while they fail: an object store that is down is down for minutes."""


class State(Config):
    """Content of the state file."""

    mirror: str
    newest: int | None = None
    """Step of the newest copy that this process made."""
    copied: int = 0
    failures: int = 0
    """In a row."""
    error: str | None = None
    """Of the last look, if it failed."""
    looked: str = ""
    """When, UTC. For people."""


def look(catch_up: Callable[[], list[int]], state: State) -> State:
    """One look at what the mirror lacks; how it went."""
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    try:
        copied = catch_up()
    except Exception as error:  # noqa: BLE001 - libraries of object stores raise anything
        text = f"{type(error).__name__}: {error}"
        log.warning("the mirror %s was not brought up to date: %s", state.mirror, text)
        return state.model_copy(update={"failures": state.failures + 1, "error": text, "looked": now})
    newest = max(copied, default=state.newest)
    total = state.copied + len(copied)
    return state.model_copy(update={"newest": newest, "copied": total, "failures": 0, "error": None, "looked": now})


def wait_s(failures: int) -> float:
    """Seconds until the next look."""
    return min(POLL_S * 2.0**failures, LONGEST_S)


def note(path: Path, state: State) -> None:
    """Replace the state file; without one the mirror works as well."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(json.dumps(state.model_dump(), indent=1) + "\n")
        aside.replace(path)
    except OSError as error:
        log.warning("%s was not written: %s", path, error)


def keep(order: Order, ended: Callable[[float], bool]) -> None:
    """Look until ``ended`` of so many seconds says so, then once more."""
    mirror = Mirror(order.root, MirrorTarget(order.mirror), order.retention)
    state, last = State(mirror=order.mirror), False
    while True:
        state = look(mirror.catch_up, state)
        note(order.root.parent / STATE, state)
        if last:
            return
        last = ended(wait_s(state.failures))


def main() -> None:
    """Keep the mirror until the run hangs up; die when it dies."""
    order = Order.model_validate_json(sys.stdin.buffer.readline())
    if not die_with_parent(parent=order.parent):
        return
    leave_stopping_to_the_rank()
    os.nice(NICENESS)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    keep(order, lambda seconds: is_readable(sys.stdin.fileno(), seconds))


if __name__ == "__main__":
    main()
