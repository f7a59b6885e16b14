"""How does a dataset appear whole or not at all?

Everything is written inside ``OUT/.preparing`` first. Then its parts are moved up, and ``dataset.json``, without which
a folder is no dataset, last. What a killed run leaves is recognised by ``.preparing`` and removed by the next.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mypt_dist.data.durable import sync_folder, write_new
from mypt_dist.data.manifest import FILE, SPLITS, DatasetManifest
from mypt_dist.data.prepare.writer import writing
from mypt_dist.data.versions import VERSIONS
from mypt_dist.errors import ConfigError, LockError

STAGING = ".preparing"
LOCK = "lock"


@contextmanager
def staged(out: Path, *, overwrite: bool, goes_on: bool = False) -> Iterator[Path]:
    """A folder to write a dataset in; `publish` makes it the dataset ``out``. Removed on the way out.

    ``goes_on``: it is as the last run has left it, and left to the next if this one does not come to its end.

    Raises `ConfigError` where ``out`` cannot be written, holds a finished dataset that must not be replaced or holds
    anything else, and `LockError` where another process is at work in it.
    """
    try:
        is_new = not out.exists()
        out.mkdir(parents=True, exist_ok=True)
        _check_free(out, overwrite)
        staging = out / STAGING
        staging.mkdir(exist_ok=True)
        lock = os.open(staging / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror}; choose another folder") from None
    try:
        _acquire(lock, staging)
        try:
            if not goes_on:
                remove_leftovers(staging)
            yield staging
        except BaseException as error:
            if not goes_on or isinstance(error, ConfigError):
                _remove(staging, out, is_new)
            raise
        _remove(staging, out, is_new)
    finally:
        os.close(lock)


def publish(staging: Path, manifest: DatasetManifest) -> None:
    """Make what was written in ``staging`` the dataset around it. Raises `DataError` where the disk refuses."""
    out = staging.parent
    with writing(out):
        write_new(staging / FILE, manifest.to_bytes())
        (out / FILE).unlink(missing_ok=True)
        sync_folder(out)
        # Earlier versions of what is replaced are links to its shards.
        shutil.rmtree(out / VERSIONS, ignore_errors=True)
        for split in SPLITS:
            sync_folder(staging / split)
            shutil.rmtree(out / split, ignore_errors=True)
            (staging / split).rename(out / split)
        sync_folder(out)
        (staging / FILE).rename(out / FILE)
        sync_folder(out)


def _check_free(out: Path, overwrite: bool) -> None:
    names = {path.name for path in out.iterdir()}
    if FILE in names:
        if not overwrite:
            raise ConfigError(f"{out} holds a finished dataset: choose another folder, or say --overwrite")
        return
    # Without the mark of an unfinished run, a folder called train may be anybody's.
    ours = {STAGING, VERSIONS, *SPLITS} if STAGING in names else set()
    if names - ours:
        found = ", ".join(sorted(names - ours)[:3])
        raise ConfigError(f"{out} is not empty and holds no dataset (there is: {found}): choose a new folder")


def _acquire(lock: int, staging: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_current = os.fstat(lock).st_ino == (staging / LOCK).stat().st_ino
    except OSError:
        # FileNotFoundError included: its holder has just finished and taken it along.
        is_current = False
    if not is_current:
        raise LockError(f"another process is preparing a dataset in {staging.parent}")


def _remove(staging: Path, out: Path, is_new: bool) -> None:
    remove_leftovers(staging)
    shutil.rmtree(staging, ignore_errors=True)
    if is_new and not any(out.iterdir()):
        out.rmdir()


def remove_leftovers(staging: Path) -> None:
    """Everything of an unfinished dataset, but for the lock."""
    leftovers = [path for path in staging.iterdir() if path.name != LOCK]
    if not (staging.parent / FILE).exists():
        leftovers += [staging.parent / split for split in SPLITS]
    for path in leftovers:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
