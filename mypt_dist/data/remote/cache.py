"""Shards of remote datasets on this machine: whole, called by their sha256, bounded in size.

Shared by all ranks and runs of a host, which need not know of each other:

* whoever reads a file holds a shared lock of it (`Lease`), so nobody evicts it;
* whoever downloads one holds an exclusive lock of ``<sha256>.part`` (`Claim`), whose bytes are reserved on the disk
  from the first moment. A part whose writer died is nobody's, and is deleted by the next who needs room;
* room is made under the lock of the file ``lock``, which is held for milliseconds: the file longest unused goes first.
"""

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mypt_dist.data.durable import sync_folder
from mypt_dist.errors import ConfigError

PART = ".part"
DISK_SHARE = 0.9
"""Of the disk that a cache without a limit takes at most: a full one would hurt everybody."""

_NAME = re.compile(r"[0-9a-f]{64}(\.part)?\Z")


class CacheFullError(Exception):
    """There is no room, and all that is cached is in use."""


@dataclass(frozen=True, slots=True)
class CachedFile:
    """A file of the cache, whole or a part."""

    path: Path
    bytes: int
    used_ns: int
    """When somebody last began to read it."""


class Lease:
    """While it is open, nobody evicts the file."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def close(self) -> None:
        """Let others evict it. What is mapped stays readable."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Claim:
    """A file that this process alone downloads. Closed without `commit`, it is gone."""

    def __init__(self, part: Path, descriptor: int) -> None:
        self._part, self._descriptor = part, descriptor

    def write(self, data: bytes, offset: int) -> None:
        """Raises OSError."""
        view = memoryview(data)
        while view:
            count = os.pwrite(self._descriptor, view, offset)
            view, offset = view[count:], offset + count

    def commit(self) -> None:
        """The content is right: from now on the file is there, also after a power cut. Raises OSError."""
        os.fsync(self._descriptor)
        self._part.rename(self._part.with_suffix(""))
        sync_folder(self._part.parent)
        self._close()

    def abandon(self) -> None:
        """Delete what there is, unless it was committed."""
        if self._descriptor >= 0:
            with suppress(OSError):
                self._part.unlink(missing_ok=True)
            self._close()

    def _close(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1


class ShardCache:
    """The files in one folder. Any number of processes may have one of it."""

    def __init__(self, folder: Path, max_bytes: int | None = None) -> None:
        """``max_bytes``: of all files; None: `DISK_SHARE` of what is free on the disk now or taken by the cache.

        Raises `ConfigError` where there can be no such folder.
        """
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "lock").touch()
            disk = os.statvfs(folder)
            free = disk.f_bavail * disk.f_frsize
            taken = sum(file.bytes for file in self._files())
        except OSError as error:
            raise ConfigError(f"data.cache.path: {folder} cannot be used: {error.strerror}") from None
        self.max_bytes = int((free + taken) * DISK_SHARE) if max_bytes is None else max_bytes

    def path(self, sha256: str) -> Path:
        """Where the file is, if it is there."""
        return self.folder / sha256

    def has(self, sha256: str) -> bool:
        """Whether it is there now."""
        return self.path(sha256).exists()

    def lease(self, sha256: str, size: int) -> Lease | None:
        """The file, for as long as the lease is open; None where it is not there. Raises OSError."""
        path = self.path(sha256)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            # Whoever evicts holds the other kind of lock for an instant, and then the file has no name any more.
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            status = os.fstat(descriptor)
            if status.st_nlink and status.st_size == size:
                os.utime(descriptor)
                return Lease(path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if status.st_nlink:
            self.discard(sha256)
        return None

    def claim(self, sha256: str, size: int) -> Claim | None:
        """The right to download a file of ``size`` bytes, with room for it; None while another has it, or is done.

        Raises `CacheFullError` where all that would have to go is in use, and OSError, of a full disk among others.
        """
        part = self.path(sha256).with_suffix(PART)
        with self._locked():
            if self.has(sha256):
                return None
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            try:
                if not _lock_now(descriptor) or not _is_at(descriptor, part):
                    os.close(descriptor)
                    return None
                os.ftruncate(descriptor, 0)
                self._make_room(size)
                self._reserve(descriptor, size)
            except BaseException:
                part.unlink(missing_ok=True)
                os.close(descriptor)
                raise
        return Claim(part, descriptor)

    def discard(self, sha256: str) -> None:
        """Take a file away that turned out to be damaged. Who has it open keeps what is open."""
        self.path(sha256).unlink(missing_ok=True)

    def activity(self, sha256: str) -> int:
        """Changes while any process downloads the file; 0 while none does."""
        try:
            return self.path(sha256).with_suffix(PART).stat().st_mtime_ns
        except OSError:
            return 0

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # A descriptor of its own: a lock belongs to the open file, and threads of one process must wait, too.
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _files(self) -> list[CachedFile]:
        found = []
        for entry in os.scandir(self.folder):
            if _NAME.match(entry.name):
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    found.append(CachedFile(Path(entry.path), status.st_size, status.st_mtime_ns))
        return sorted(found, key=lambda file: file.used_ns)

    def _make_room(self, size: int) -> None:
        """Evict until ``size`` more bytes are within the limit."""
        files = self._files()
        used = sum(file.bytes for file in files)
        for file in files:
            if used + size <= self.max_bytes:
                return
            if _evict(file.path):
                used -= file.bytes
        if used + size > self.max_bytes:
            raise CacheFullError(
                f"the cache {self.folder} may hold {self.max_bytes:,} bytes: {used:,} are in use, {size:,} are needed"
            )

    def _reserve(self, descriptor: int, size: int) -> None:
        """Have the disk promise ``size`` bytes; evict where it cannot."""
        files = iter(self._files())
        while True:
            try:
                os.posix_fallocate(descriptor, 0, size)
            except OSError as error:
                if error.errno != errno.ENOSPC or not any(_evict(file.path) for file in files):
                    raise
            else:
                return


def _evict(path: Path) -> bool:
    """Whether the file went: not if somebody reads or writes it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if not _lock_now(descriptor):
            return False
        path.unlink(missing_ok=True)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _lock_now(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether ``path`` is still the name of the open file: its writer may have renamed it before we had the lock."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))  # noqa: PTH116
    except FileNotFoundError:
        return False
