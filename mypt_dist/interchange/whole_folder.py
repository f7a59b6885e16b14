"""A folder that exists is complete: its files are written aside, hashed meanwhile, and put in place by one rename."""

import errno
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mypt_dist.checkpoint import Disk, FileEntry
from mypt_dist.checkpoint.writing import FileJob, write_files
from mypt_dist.errors import ConfigError, SaveError


def require_free(out: Path) -> None:
    """Raise `ConfigError` where ``out`` is anything but an empty folder, or nothing yet."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ConfigError(f"{out} is no folder: name one that does not exist yet")
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"{out} holds files already: name a folder that does not exist yet, or an empty one")


def write_folder(
    out: Path, jobs: Sequence[FileJob], record: Callable[[Mapping[str, FileEntry]], FileJob]
) -> dict[str, FileEntry]:
    """Write ``jobs`` into ``out``, one after the other, and then the ``record`` that is made of what was written.

    Returns the size and sha256 of every file.

    Raises `ConfigError` where ``out`` is taken, `SaveError` where the disk does not take it: then ``out`` is as it was.
    """
    disk = Disk(threads=1)
    require_free(out)
    out = out.absolute()
    aside = out.with_name(f".{out.name}.partial-{secrets.token_hex(4)}")
    try:
        disk.make_folders(out.parent)
        _require_room(disk, out.parent, sum(job.bytes for job in jobs))
        disk.files.make_folder(aside)
        try:
            written = write_files(disk, aside, jobs)
            written |= write_files(disk, aside, [record(written)])
            disk.files.sync_folder(aside)
            disk.files.rename(aside, out)
        except BaseException:
            disk.remove_tree(aside)
            raise
        disk.files.sync_folder(out.parent)
    except OSError as error:
        raise SaveError(f"{out} was not written: {error.strerror or error}") from error
    return written


def _require_room(disk: Disk, folder: Path, needed: int) -> None:
    free = disk.files.free_bytes(folder)
    if needed > free:
        raise OSError(errno.ENOSPC, f"{folder} has {free:,} bytes free, {needed:,} are needed")
