"""What somebody can do about a save that failed."""

import errno
from collections.abc import Iterable

from mypt_dist.checkpoint.agreement import Failure

REMEDIES = {
    errno.ENOSPC: "free space or inodes on the disk of the run's folder, or lower checkpoints.keep_last",
    errno.EDQUOT: "your quota is used up: delete something of yours or have it raised",
    errno.EIO: "the disk reports errors (see dmesg): move the run's folder to another one",
    errno.EROFS: "the disk is mounted read-only, often after errors (see dmesg): mount it for writing again",
    errno.EMFILE: "raise the number of open files (ulimit -n)",
    errno.ENFILE: "the machine has too many files open: see lsof",
    errno.ENOMEM: "free host memory, or set checkpoints.background=false",
    errno.EACCES: "give the run's user permission to write the folder",
    errno.ESTALE: "the network disk was mounted anew or its server restarted: check the mount",
}


def remedy(failures: Iterable[Failure]) -> str:
    """Advice on the first failure that there is any for, else where to look."""
    known = (REMEDIES[failure.errno] for failure in failures if failure.errno in REMEDIES)
    return next(known, "see the lines above and the disk of the run's folder")
