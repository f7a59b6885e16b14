"""How bytes of a checkpoint's files are hashed and then read without reading them twice from the disk.

Touching a mapped page that can not be read, or that lies behind the end of a file cut short meanwhile, kills the
process with SIGBUS. So while hashing, the system is asked to bring every page in first, which fails with an
ordinary error; where it can not be asked, the file is read in the ordinary way, which costs a copy.
"""

import errno
import hashlib
import threading
from mmap import mmap
from pathlib import Path

from mypt_dist.checkpoint.files import Disk
from mypt_dist.errors import CheckpointError

BLOCK = 2 << 20
"""Bytes brought in, then hashed."""
KEPT = 64
"""Files mapped at once. Each also holds a descriptor, of which a process may have as few as 1024."""


class MappedFiles:
    """The files of one checkpoint, mapped when first needed. Not more than `KEPT` stay so."""

    def __init__(self, disk: Disk, folder: Path) -> None:
        self._disk = disk
        self._folder = folder
        self._kept: dict[str, mmap] = {}
        self._lock = threading.Lock()

    def sha256(self, name: str) -> str:
        """Hash of a file. Keeps it mapped if there is room. Any thread may call. Raises OSError."""
        path = self._folder / name
        if not self._disk.files.status(path).st_size:
            return hashlib.sha256().hexdigest()
        mapped = self._disk.files.map(path)
        try:
            digest = self._hash_mapped(mapped)
        except OSError as error:
            mapped.close()
            if error.errno != errno.EINVAL:
                raise
            return self._hash_read(path)
        with self._lock:
            if len(self._kept) < KEPT:
                self._kept[name] = mapped
                return digest
        mapped.close()
        return digest

    def get(self, name: str, size: int) -> mmap:
        """A mapped file of ``size`` bytes. Valid until the next call. Raises OSError, `CheckpointError`."""
        if name not in self._kept:
            path = self._folder / name
            if self._disk.files.status(path).st_size != size:
                raise CheckpointError(f"{path} has another size than when it was verified")
            if not size:
                raise CheckpointError(f"{path} is empty, but holds tensors as the manifest says")
            if len(self._kept) >= KEPT:
                self._kept.pop(next(iter(self._kept))).close()
            self._kept[name] = self._disk.files.map(path)
        return self._kept[name]

    def close(self) -> None:
        """Give all files back."""
        kept, self._kept = self._kept, {}
        for mapped in kept.values():
            mapped.close()

    def _hash_mapped(self, mapped: mmap) -> str:
        digest = hashlib.sha256()
        with memoryview(mapped) as view:
            for begin in range(0, view.nbytes, BLOCK):
                with view[begin : begin + BLOCK] as block:
                    self._disk.files.page_in(mapped, begin, block.nbytes)
                    digest.update(block)
        return digest.hexdigest()

    def _hash_read(self, path: Path) -> str:
        files = self._disk.files
        descriptor = files.open(path)
        try:
            digest = hashlib.sha256()
            block = memoryview(bytearray(BLOCK))
            while count := files.read(descriptor, block):
                digest.update(block[:count])
            return digest.hexdigest()
        finally:
            files.close(descriptor)
