"""What is on the disk when a call returns stays there: through a kill, and through a power cut."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mypt_dist.errors import ConfigError, LockError


def write_new(path: Path, data: bytes) -> None:
    """Make a file that must not exist. Raises OSError."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, data: bytes) -> None:
    """Make ``path`` hold ``data``: whole, or as it was. Raises OSError."""
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    write_new(aside, data)
    aside.replace(path)
    sync_folder(path.parent)


def write_file(path: Path, data: bytes) -> None:
    """`replace`, in a folder that is made where there is none. Raises `ConfigError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, data)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None


def sync_file(path: Path) -> None:
    """Wait for the content of a file. Raises OSError."""
    _sync(path, os.O_RDONLY | os.O_NOFOLLOW)


def sync_folder(folder: Path) -> None:
    """Wait for the names in a folder. Raises OSError."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


@contextmanager
def only_process(folder: Path, lock: str, doing: str) -> Iterator[None]:
    """Nobody else is ``doing`` the same in ``folder``, which is made. ``lock``: the name of a file there, which stays.

    Raises `ConfigError` where the folder cannot be written, `LockError` where another process holds the lock.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror}; choose another folder") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LockError(f"another process is {doing} {folder}") from None
        yield
    finally:
        os.close(descriptor)


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
