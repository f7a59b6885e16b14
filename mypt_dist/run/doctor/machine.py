"""Shared memory, limits of processes, cores: what the system grants a run."""

import os
import resource
import shutil
from collections.abc import Mapping
from pathlib import Path

from mypt_dist.run.doctor.check import Check, Result, fail, ok, skip, warn

MIB = 1 << 20

SHM_PER_RANK = 32 * MIB
"""What NCCL takes of /dev/shm for each rank of a machine, roughly."""

OPEN_FILES = 4096
"""Shards, checkpoints and sockets of one rank of a large run."""

FEW_FILES = 256


def shared_memory(total: int | None, ranks: int) -> Result:
    """``total`` bytes of /dev/shm, None if there is none; ``ranks`` on this machine that use GPUs."""
    advice = "give a container more: docker run --shm-size=8g, or --ipc=host"
    if total is None:
        return warn("there is no /dev/shm", advice) if ranks > 1 else skip("there is no /dev/shm")
    text = f"{total / MIB:,.0f} MiB"
    if ranks > 1 and total < ranks * SHM_PER_RANK:
        return fail(f"{text} for {ranks} ranks on GPUs", advice)
    return warn(f"{text}, as Docker gives", advice) if total <= 64 * MIB else ok(text)


def open_files(soft: int) -> Result:
    """The limit of one process (``ulimit -n``)."""
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES:
        kind = fail if soft < FEW_FILES else warn
        return kind(f"{soft}", f"ulimit -n {OPEN_FILES * 16}, or LimitNOFILE in the service's unit")
    return ok(_limit(soft))


def processes(soft: int, needed: int) -> Result:
    """The limit of one user (``ulimit -u``) and how many threads the ranks of this machine need at least."""
    if soft != resource.RLIM_INFINITY and soft < needed:
        return fail(f"{soft}, needed are {needed}", f"ulimit -u {needed * 4}, or TasksMax in the service's unit")
    return ok(_limit(soft))


def locked_memory(soft: int, *, infiniband: bool) -> Result:
    """The limit in bytes (``ulimit -l``), which only RDMA needs to be high."""
    if not infiniband:
        return skip("no InfiniBand here")
    if soft != resource.RLIM_INFINITY:
        return fail(f"{soft // 1024:,} KiB, and InfiniBand is here", "ulimit -l unlimited, or LimitMEMLOCK=infinity")
    return ok("unlimited")


def core_dumps(soft: int, memory: int, free: int) -> Result:
    """The limit in bytes (``ulimit -c``), memory of the machine, free bytes where the run is started."""
    if soft == 0:
        return ok("none are written")
    largest = memory if soft == resource.RLIM_INFINITY else min(soft, memory)
    if largest > free:
        return warn(f"up to {largest / 2**30:,.1f} GiB, free are {free / 2**30:,.1f} GiB", "ulimit -c 0")
    return ok(f"up to {largest / 2**30:,.1f} GiB")


def threads(wanted: int | None, ranks: int, cores: int) -> Result:
    """``OMP_NUM_THREADS``, ranks and cores of this machine."""
    if wanted is None:
        if ranks > 1:
            return warn(f"OMP_NUM_THREADS is not set for {ranks} ranks on {cores} cores", "start with mypt launch")
        return ok(f"{cores} cores")
    if wanted * ranks > cores and ranks > 1:
        return warn(
            f"{ranks} ranks x {wanted} threads on {cores} cores", f"OMP_NUM_THREADS={max(1, cores // ranks)}, or fewer"
        )
    return ok(f"{ranks} x {wanted} threads on {cores} cores")


def machine_checks(environ: Mapping[str, str], ranks: int, *, gpus: bool) -> list[Check]:
    """``ranks`` on this machine."""
    cores = len(os.sched_getaffinity(0))
    wanted = environ.get("OMP_NUM_THREADS", "")
    return [
        Check(
            "/dev/shm",
            "NCCL's 'No space left on device'",
            lambda: shared_memory(shared_memory_size(), ranks if gpus else 1),
        ),
        Check("open files", "'Too many open files' at the first large checkpoint", lambda: open_files(_soft("NOFILE"))),
        Check("processes", "threads that cannot be started", lambda: processes(_soft("NPROC"), ranks * (cores + 32))),
        Check(
            "locked memory",
            "NCCL that falls back from RDMA or fails",
            lambda: locked_memory(_soft("MEMLOCK"), infiniband=_has_entries(Path("/sys/class/infiniband"))),
        ),
        Check(
            "core dumps",
            "a crash that fills the disk of the checkpoints",
            lambda: core_dumps(
                _soft("CORE"), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), shutil.disk_usage(".").free
            ),
        ),
        Check(
            "threads",
            "ranks that wait for each other's threads",
            lambda: threads(int(wanted) if wanted.isdigit() else None, ranks, cores),
        ),
    ]


def _soft(name: str) -> int:
    return resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[0]


def _limit(soft: int) -> str:
    return "unlimited" if soft == resource.RLIM_INFINITY else f"{soft}"


def shared_memory_size() -> int | None:
    """Bytes of /dev/shm, None if there is none."""
    try:
        return shutil.disk_usage("/dev/shm").total
    except OSError:
        return None


def _has_entries(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())
