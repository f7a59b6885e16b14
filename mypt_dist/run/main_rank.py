"""Something only rank 0 does, with an outcome that every rank shares; and who speaks before ranks know each other."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mypt_dist import errors
from mypt_dist.errors import MyptError
from mypt_dist.world import JSON, World


def on_main(world: World, action: Callable[[], JSON]) -> JSON:
    """Do ``action`` on rank 0 and return its result on every rank. If it raises a `MyptError`, every rank raises it."""
    result: dict[str, JSON] = {}
    if world.rank == 0:
        try:
            result = {"value": action()}
        except MyptError as error:
            if world.size == 1:
                raise
            result = {"error": type(error).__name__, "message": str(error)}
    shared = world.all_gather(result)[0]
    assert isinstance(shared, dict), "rank 0 sent a dict"
    if "error" in shared:
        raise getattr(errors, str(shared["error"]), MyptError)(str(shared["message"]))
    return shared["value"]


@contextmanager
def before_ranks_meet() -> Iterator[None]:
    """What is raised in here is told by the first rank of each machine, since rank 0 may know nothing of it.

    Files differ between machines, if at all, not between the ranks of one.
    """
    try:
        yield
    except MyptError as error:
        error.local = os.environ.get("LOCAL_RANK", "0") == "0"
        raise
