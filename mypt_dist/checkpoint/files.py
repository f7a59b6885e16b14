"""Which file-system calls are made: one method each, so that a test can make any one of them fail."""

import mmap
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

_POPULATE_READ = 22
"""MADV_POPULATE_READ of Linux 5.14; EINVAL elsewhere. Python has no name for it yet."""


class Files:
    """The operating system's calls, as they are. Every one raises OSError as the system does."""

    def make_folder(self, path: Path) -> None:
        """Make one folder, whose parent exists."""
        os.mkdir(path, 0o755)  # noqa: PTH102 - the plain call, without pathlib's recovery

    def create(self, path: Path) -> int:
        """A descriptor to write a file that must not exist yet."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)

    def open(self, path: Path) -> int:
        """A descriptor to read a file; a symbolic link is refused, and a pipe does not make us wait."""
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)

    def write(self, descriptor: int, data: memoryview) -> int:
        """Write some of ``data`` and return how many bytes."""
        return os.write(descriptor, data)

    def write_at(self, descriptor: int, data: bytes, offset: int) -> int:
        """Write some of ``data`` at ``offset`` and return how many bytes."""
        return os.pwrite(descriptor, data, offset)

    def read(self, descriptor: int, into: memoryview) -> int:
        """Fill some of ``into`` and return how many bytes; 0 at the end."""
        return os.readv(descriptor, [into])

    def sync(self, descriptor: int) -> None:
        """Wait until the file's content survives a power cut."""
        os.fsync(descriptor)

    def sync_folder(self, path: Path) -> None:
        """Wait until the names in a folder survive a power cut."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self, descriptor: int) -> None:
        """Give a descriptor back."""
        os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        """Rename; a folder never replaces one that holds anything."""
        os.rename(old, new)  # noqa: PTH104

    def link(self, old: Path, new: Path) -> None:
        """A second name for a file; fails where ``new`` exists."""
        os.link(old, new)

    def unlink(self, path: Path) -> None:
        """Remove a file or a symbolic link."""
        os.unlink(path)  # noqa: PTH108

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""
        os.rmdir(path)  # noqa: PTH106

    def names(self, path: Path) -> list[str]:
        """What a folder holds, sorted."""
        return sorted(os.listdir(path))  # noqa: PTH208

    def status(self, path: Path) -> os.stat_result:
        """Kind and size of a path itself, not of what a symbolic link points to."""
        return os.lstat(path)

    def map(self, path: Path) -> mmap.mmap:
        """The bytes of a file that has some, mapped."""
        descriptor = self.open(path)
        try:
            return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)

    def page_in(self, mapped: mmap.mmap, start: int, length: int) -> None:
        """Have the pages of a range in memory. What touching them would answer with a signal raises OSError here."""
        mapped.madvise(_POPULATE_READ, start, length)

    def free_bytes(self, path: Path) -> int:
        """What an ordinary user may still write on the disk of ``path``."""
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize

    def free_inodes(self, path: Path) -> int | None:
        """How many files and folders may still be made there; None where the disk has no fixed number."""
        status = os.statvfs(path)
        return status.f_favail if status.f_files else None


def _cores() -> int:
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Disk:
    """How this package uses the disk: the calls, how many threads, how large a file, how long to wait."""

    files: Files = field(default_factory=Files)
    threads: int = field(default_factory=_cores)
    """Files written or hashed at once by one process. Hashing and writing release the interpreter lock."""
    part_bytes: int = 256 << 20
    """A rank's tensors are split into files of about this size. A segment is never split."""
    waits: tuple[float, ...] = (0.1, 0.5, 2.0)
    """Seconds before each further attempt at what a network disk may show late or fail to read once."""
    sleep: Callable[[float], None] = time.sleep

    def exists(self, path: Path) -> bool:
        """Whether there is anything of this name. Raises OSError where that can not be told."""
        try:
            self.files.status(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def make_folders(self, path: Path) -> None:
        """Make a folder and those above it, so that they survive a power cut. Raises OSError."""
        if not self.exists(path):
            self.make_folders(path.parent)
            self.files.make_folder(path)
            self.files.sync_folder(path.parent)

    def write_fully(self, descriptor: int, data: memoryview) -> None:
        """Write all of ``data`` (bytes). Raises OSError."""
        while data.nbytes:
            data = data[self.files.write(descriptor, data) :]

    def read_bytes(self, path: Path, limit: int) -> bytes:
        """The content of a file. Raises OSError, and ValueError above ``limit`` bytes."""
        descriptor = self.files.open(path)
        try:
            content = bytearray()
            buffer = memoryview(bytearray(1 << 16))
            while count := self.files.read(descriptor, buffer):
                content += buffer[:count]
                if len(content) > limit:
                    raise ValueError(f"it has more than {limit:,} bytes")
            return bytes(content)
        finally:
            self.files.close(descriptor)

    def remove_tree(self, folder: Path, first: str = "") -> None:
        """Remove a folder with what it holds, the file called ``first`` before all others. Raises OSError."""
        for name in sorted(self.files.names(folder), key=lambda name: (name != first, name)):
            path = folder / name
            if stat.S_ISDIR(self.files.status(path).st_mode):
                self.remove_tree(path)
            else:
                self.files.unlink(path)
        self.files.remove_folder(folder)
