"""How long collectives wait, changed while a run goes on: the one place that knows how torch keeps that."""

from datetime import timedelta

import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d


def set_timeout(seconds: float) -> None:
    """For collectives that this rank begins from now on, in every group that it is in; those under way keep theirs.

    gloo raises in the rank when the time is over. NCCL cannot: its own thread ends the process with SIGABRT.
    """
    if not dist.is_initialized():
        return
    timeout = timedelta(seconds=seconds)
    # Every group has a time-out of its own, and sharding engines make groups that nobody else sees.
    for group in list(c10d._world.pg_map):
        if not c10d._rank_not_in_group(group):
            c10d._set_pg_timeout(timeout, group)
