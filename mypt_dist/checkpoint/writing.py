"""How files get onto the disk: several at once, hashed while they are written, none reported before it is safe."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mypt_dist.checkpoint.files import Disk
from mypt_dist.checkpoint.manifest import FileEntry
from mypt_dist.checkpoint.tensor_file import Part

CHUNK = 1 << 20
"""Bytes hashed and then written: few enough that the second reads them from the processor's cache."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class FileJob:
    """A file to be written: its relative name, its size and its content in pieces."""

    name: str
    bytes: int
    pieces: Callable[[], Iterator[memoryview]]


def part_job(part: Part) -> FileJob:
    """Tensors."""
    return FileJob(part.file, part.bytes, part.pieces)


def small_job(name: str, content: bytes) -> FileJob:
    """Content that is there already."""
    return FileJob(name, len(content), lambda: iter([memoryview(content)]))


def write_files(disk: Disk, folder: Path, jobs: Sequence[FileJob]) -> dict[str, FileEntry]:
    """Write every job into ``folder``, which has the folders it needs. Returns what was written.

    Each file is on the disk when this returns; the names in the folders are not yet. Raises OSError and whatever
    the pieces raise; then some files may be there and some not.
    """
    largest_first = sorted(jobs, key=lambda job: -job.bytes)
    entries = in_threads(disk.threads, lambda job: _write(disk, folder, job), largest_first)
    return {job.name: entry for job, entry in zip(largest_first, entries, strict=True)}


def in_threads(threads: int, action: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """``action`` of every item, in order; the first failure is raised once all running ones have ended."""
    if threads == 1:
        return [action(item) for item in items]
    with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="checkpoint") as pool:
        futures = [pool.submit(action, item) for item in items]
        wait(futures, return_when=FIRST_EXCEPTION)
        pool.shutdown(cancel_futures=True)
    failed = [future.exception() for future in futures if future.done() and not future.cancelled()]
    for error in failed:
        if error is not None:
            raise error
    return [future.result() for future in futures]


def _write(disk: Disk, folder: Path, job: FileJob) -> FileEntry:
    digest, written = hashlib.sha256(), 0
    descriptor = disk.files.create(folder / job.name)
    try:
        for piece in job.pieces():
            for begin in range(0, piece.nbytes, CHUNK):
                with piece[begin : begin + CHUNK] as chunk:
                    digest.update(chunk)
                    disk.write_fully(descriptor, chunk)
            written += piece.nbytes
        # After a failed fsync the kernel may have dropped the data: never again on this descriptor.
        disk.files.sync(descriptor)
    finally:
        disk.files.close(descriptor)
    return FileEntry(bytes=written, sha256=digest.hexdigest())
