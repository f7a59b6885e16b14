"""Memory that a rank and its writer share: filled by one, read by the other, kept from save to save."""

import errno
import mmap
import os
import tempfile

PAGE = mmap.PAGESIZE


class HostBuffer:
    """Anonymous shared memory behind a descriptor, which a child process may inherit and map."""

    def __init__(self) -> None:
        self.descriptor = -1
        """From the first `room` on."""
        self._mapped: mmap.mmap | None = None

    def room(self, size: int) -> memoryview:
        """At least ``size`` bytes to write into, in memory already, so that filling them waits for nothing.

        Raises OSError where there is no memory left. What an earlier call returned stays valid.
        """
        if self.descriptor < 0:
            self.descriptor = _anonymous()
        if self._mapped is None or len(self._mapped) < size:
            length = -(-max(size, 1) // PAGE) * PAGE
            # Asked for here, a lack of memory is an error; met while copying, it would be a signal.
            _allocate(self.descriptor, length)
            flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
            self._mapped = mmap.mmap(self.descriptor, length, flags=flags)
        return memoryview(self._mapped)

    def close(self) -> None:
        """Give the memory back, once nobody maps it any more."""
        self._mapped = None
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class SharedView:
    """The other side: maps what the rank has filled."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._mapped: mmap.mmap | None = None

    def read(self, size: int) -> memoryview:
        """The first ``size`` bytes. Raises OSError."""
        if self._mapped is None or len(self._mapped) < size:
            self._mapped = mmap.mmap(self._descriptor, os.fstat(self._descriptor).st_size, prot=mmap.PROT_READ)
        return memoryview(self._mapped)[:size]


def _anonymous() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("mypt-checkpoint", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _allocate(descriptor: int, length: int) -> None:
    try:
        os.posix_fallocate(descriptor, 0, length)
    except OSError as error:
        # The memory's own file system says that it is full: to a user that is memory, not a disk.
        raise (
            MemoryError(f"no {length:,} bytes of host memory for a copy of the state")
            if error.errno
            in (
                errno.ENOSPC,
                errno.ENOMEM,
            )
            else error
        ) from None
