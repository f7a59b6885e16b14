"""``mypt launch --supervise``: stay, and start again what is worth it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypt_dist.launch.plan import Launch, Place
    from mypt_dist.run.config import RunConfig


@dataclass(frozen=True, slots=True)
class Limits:
    """What the command line says of restarts."""

    restarts: int | None = None
    min_ranks: int | None = None


def supervised(launch: "Launch", place: "Place", config: "RunConfig", arguments: Sequence[str], limits: Limits) -> int:
    """Run ``launch``, whose limits were checked, to its end. Returns the exit code of its ranks."""
    from mypt_dist import log
    from mypt_dist.launch.command import command
    from mypt_dist.launch.plan import plan
    from mypt_dist.launch.supervision import Job, Patience, supervise
    from mypt_dist.launch.supervision.gpus import visible_gpus
    from mypt_dist.run.shares import largest_share

    log.install()
    cores = len(os.sched_getaffinity(0))
    job = Job(
        command=lambda ranks: command(plan(launch.file, replace(place, ranks=ranks)), arguments, os.environ, cores),
        ranks=launch.topology.ranks,
        newest_step=lambda: newest_step(config.folder / "checkpoints"),
        patience=Patience() if limits.restarts is None else Patience(restarts=limits.restarts),
    )
    least = limits.min_ranks
    if least is not None:
        job = replace(job, at_most=lambda most: largest_share(config.train, most, least))
        if not launch.cpu:
            job = replace(job, devices=lambda: visible_gpus(os.environ))
    return supervise(job)


def check_limits(launch: "Launch", limits: Limits, supervise: bool) -> None:
    """Raise `ConfigError` for limits that nobody would keep."""
    from mypt_dist.errors import ConfigError

    if not supervise and limits != Limits():
        raise ConfigError("--max-restarts and --min-ranks need --supervise")
    if limits.min_ranks is not None:
        refuse_fewer(launch, limits.min_ranks)


def refuse_fewer(launch: "Launch", least: int) -> None:
    """Raise `ConfigError` where ``--min-ranks`` cannot be kept."""
    from mypt_dist.errors import ConfigError

    ranks = launch.topology.ranks
    if least > ranks:
        raise ConfigError(f"--min-ranks {least} is more than the {ranks} ranks to start with")
    if launch.nodes > 1:
        raise ConfigError(
            "--min-ranks needs a single machine: a supervisor sees only its own, and all would have to agree; start "
            "the command again on fewer machines instead, the checkpoints fit"
        )
    if launch.file.settings.parallelism_config is not None:
        raise ConfigError(
            f"--min-ranks: {launch.file.name} fixes replicas x shards = {ranks} ranks; use fsdp2, whose shards follow "
            "the number of ranks"
        )
    if (launch.file.settings.gpu_ids or "all") != "all" and not launch.cpu:
        raise ConfigError(
            f"--min-ranks: {launch.file.name} names its GPUs one by one in gpu_ids; set gpu_ids: all and choose them "
            "by CUDA_VISIBLE_DEVICES"
        )


def newest_step(checkpoints: Path) -> int:
    """By the names of the folders; 0 for none, or while the folder cannot be read."""
    from mypt_dist.checkpoint.catalog import step_folders
    from mypt_dist.checkpoint.files import Disk

    try:
        folders = step_folders(Disk(), checkpoints)
    except OSError:
        return 0
    return folders[0].step if folders else 0
