"""Is a checkpoint what was written? Manifest, exact set of files, sizes, and the hash of every byte."""

import errno
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from mypt_dist.checkpoint.files import Disk
from mypt_dist.checkpoint.layout import MANIFEST, parse_step
from mypt_dist.checkpoint.manifest import MAX_BYTES, CorruptError, FileEntry, Manifest, parse_manifest
from mypt_dist.checkpoint.mapped import MappedFiles
from mypt_dist.checkpoint.writing import in_threads
from mypt_dist.errors import CheckpointError

T = TypeVar("T")

_WRONG_KIND = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
"""What opening says of a file that is missing or is a folder or a link: the checkpoint is wrong, not the disk."""


def patiently(disk: Disk, what: str, action: Callable[[], T]) -> T:
    """``action``, tried again for a while where the disk says it can not read just now.

    Raises `CheckpointError`: an input error or a lack of permission says nothing about the bytes, so such a
    checkpoint must neither be used nor set aside.
    """
    for wait in disk.waits:
        try:
            return action()
        except OSError:
            disk.sleep(wait)
    try:
        return action()
    except OSError as error:
        reason = error.strerror or str(error)
        raise CheckpointError(f"{what} can not be read right now, it may be intact: {reason}") from error


def read_manifest(disk: Disk, folder: Path) -> Manifest:
    """The manifest of a checkpoint. Raises `CorruptError`, `CheckpointError` (another format) and OSError."""
    path = folder / MANIFEST
    try:
        content = disk.read_bytes(path, MAX_BYTES)
    except ValueError as error:
        raise CorruptError(str(folder), [f"{MANIFEST} is not a manifest: {error}"]) from None
    except OSError as error:
        if error.errno in _WRONG_KIND:
            raise CorruptError(str(folder), [f"{MANIFEST} is missing"]) from None
        raise
    return parse_manifest(content, str(path))


def check_structure(disk: Disk, folder: Path) -> Manifest:
    """The manifest, once exactly the files it lists are there at their sizes. Hashes nothing else.

    Raises `CorruptError` with every problem, `CheckpointError` (another format) and OSError.
    """
    manifest = read_manifest(disk, folder)
    sizes = _sizes(disk, folder)
    found = [problem for name, entry in manifest.files.items() if (problem := _size_problem(sizes, name, entry))]
    found += [f"{name} does not belong to it" for name in sorted(sizes.keys() - manifest.files.keys() - {MANIFEST})]
    named = parse_step(folder)
    if named and named.step != manifest.step:
        found.append(f"{MANIFEST} is of step {manifest.step}")
    if found:
        raise CorruptError(str(folder), found)
    return manifest


def check_content(disk: Disk, folder: Path, files: Mapping[str, FileEntry], maps: MappedFiles) -> None:
    """Hash ``files``, which are there, several at once. Raises `CorruptError` with every problem, and OSError.

    ``maps`` of the folder are filled, for the reader that comes next.
    """
    largest_first = sorted(files, key=lambda name: -files[name].bytes)
    digests = in_threads(disk.threads, maps.sha256, largest_first)
    found = [
        f"{name} has changed"
        for name, digest in zip(largest_first, digests, strict=True)
        if digest != files[name].sha256
    ]
    if found:
        raise CorruptError(str(folder), sorted(found))


def deal_out(files: Mapping[str, FileEntry], shares: int) -> list[list[str]]:
    """Names in ``shares`` lists of about equal bytes. Every rank computes the same."""
    dealt: list[list[str]] = [[] for _ in range(shares)]
    load = [0] * shares
    for name in sorted(files, key=lambda name: (-files[name].bytes, name)):
        least = load.index(min(load))
        dealt[least].append(name)
        load[least] += files[name].bytes
    return dealt


def _sizes(disk: Disk, folder: Path) -> dict[str, int | None]:
    """Relative name -> size, None for what is not an ordinary file."""
    sizes: dict[str, int | None] = {}
    for name in disk.files.names(folder):
        status = disk.files.status(folder / name)
        if stat.S_ISDIR(status.st_mode):
            sizes |= {f"{name}/{inner}": size for inner, size in _sizes(disk, folder / name).items()}
        else:
            sizes[name] = status.st_size if stat.S_ISREG(status.st_mode) else None
    return sizes


def _size_problem(sizes: Mapping[str, int | None], name: str, entry: FileEntry) -> str | None:
    if name not in sizes:
        return f"{name} is missing"
    size = sizes[name]
    if size is None:
        return f"{name} is not an ordinary file"
    return None if size == entry.bytes else f"{name} has {size:,} bytes instead of {entry.bytes:,}"
