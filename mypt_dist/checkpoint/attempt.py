"""One try at writing a checkpoint: plan it, write it beside the others, commit it by a rename once it is safe."""

import errno
import json
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from mypt_dist.checkpoint.files import Disk
from mypt_dist.checkpoint.housekeeping import discard, tidy
from mypt_dist.checkpoint.layout import (
    MANIFEST,
    OPTIMIZER,
    RANK_STATE,
    WEIGHTS,
    is_safe_extra,
    rank_state_name,
    step_name,
)
from mypt_dist.checkpoint.manifest import FileEntry, Manifest, TensorEntry, parse_manifest
from mypt_dist.checkpoint.receipts import Receipt, merge, tensor_map
from mypt_dist.checkpoint.segments import Segment
from mypt_dist.checkpoint.tensor_file import plan_parts
from mypt_dist.checkpoint.verify import patiently
from mypt_dist.checkpoint.writing import FileJob, part_job, small_job, write_files
from mypt_dist.errors import LockError
from mypt_dist.world import JSON

SPACE_MARGIN = 1.1
"""Free space and inodes asked for, in those of the checkpoint: folders and the manifest need some, and others write."""
OWN_INODES = 6
"""Of a checkpoint besides what the ranks write: its folder, the three in it, the manifest, and one to spare."""

Describe: TypeAlias = Callable[[Mapping[str, FileEntry], Mapping[str, TensorEntry]], Manifest]
"""Makes the manifest, on rank 0, from what all ranks wrote."""


class Ranked(Protocol):
    """Which rank of how many this is."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What one rank is going to write at a step."""

    step: int
    jobs: tuple[FileJob, ...]
    tensors: dict[str, TensorEntry]

    @property
    def bytes(self) -> int:
        """Size of this rank's files."""
        return sum(job.bytes for job in self.jobs)


@dataclass(frozen=True, slots=True)
class Extras:
    """What a rank saves besides tensors: its own state, and on rank 0 small files by name."""

    rank_state: Mapping[str, JSON]
    files: Mapping[str, bytes]


def plan_save(step: int, segments: Iterable[Segment], extras: Extras, world: Ranked, part_bytes: int) -> Plan:
    """Which files a rank writes. Raises ValueError for segments that contradict each other and for unsafe names."""
    held = list(segments)
    parts = plan_parts(held, world.rank, world.size, part_bytes)
    unsafe = [name for name in extras.files if not is_safe_extra(name)]
    if unsafe or (extras.files and world.rank):
        raise ValueError(f"{unsafe[0]!r} is no name for a file" if unsafe else "only rank 0 adds files")
    state = json.dumps(extras.rank_state, allow_nan=False, indent=1).encode()
    small = {rank_state_name(world.rank): state, **extras.files}
    jobs = [*map(part_job, parts), *(small_job(name, bytes(content)) for name, content in small.items())]
    return Plan(step, tuple(jobs), tensor_map(held, parts))


def begin_attempt(disk: Disk, root: Path, step: int, needed: int, files: int) -> Path:
    """Clear away what earlier saves left, then `open_attempt`. Only for the holder of the run lock. Raises OSError."""
    disk.make_folders(root)
    tidy(disk, root)
    return open_attempt(disk, root, step, needed, files)


def open_attempt(disk: Disk, root: Path, step: int, needed: int, files: int) -> Path:
    """A new folder for ``files`` files of ``needed`` bytes together.

    Raises OSError, and before anything is made when there is no room for them. What is free now must do: the older
    checkpoints that no rule keeps are deleted only once this one is safe.
    """
    free, inodes = disk.files.free_bytes(root), disk.files.free_inodes(root)
    if needed * SPACE_MARGIN > free:
        text = f"{root} has {free:,} bytes free, {needed * SPACE_MARGIN:,.0f} are needed"
        raise OSError(errno.ENOSPC, text)
    if inodes is not None and (files + OWN_INODES) * SPACE_MARGIN > inodes:
        raise OSError(errno.ENOSPC, f"{root} has {inodes:,} inodes free, {files + OWN_INODES:,} and some are needed")
    folder = root / step_name(step, "partial", secrets.token_hex(4))
    disk.files.make_folder(folder)
    try:
        for name in (WEIGHTS, OPTIMIZER, RANK_STATE):
            disk.files.make_folder(folder / name)
    except OSError:
        discard(disk, folder)
        raise
    return folder


def write_attempt(disk: Disk, folder: Path, plan: Plan) -> Receipt:
    """Write a rank's share and wait until it is safe. Raises OSError and what a segment's data raises."""
    # The folder was made by another rank, and a network disk may show it late.
    patiently(disk, str(folder), lambda: disk.files.status(folder / RANK_STATE))
    files = write_files(disk, folder, plan.jobs)
    for name in (WEIGHTS, OPTIMIZER, RANK_STATE):
        disk.files.sync_folder(folder / name)
    return Receipt(files=files, tensors=plan.tensors)


@dataclass(frozen=True, slots=True)
class Commit:
    """What rank 0 does when all ranks have written. Until its last rename there is no new checkpoint."""

    disk: Disk
    folder: Path
    target: Path
    step: int
    may_commit: Callable[[], bool]

    def __call__(self, receipts: Sequence[Receipt], describe: Describe) -> None:
        """Raises OSError, ValueError for receipts or a manifest that do not fit, `LockError` when the lock was lost."""
        merged = merge(receipts)
        for name, entry in merged.files.items():
            self._check_size(name, entry)
        manifest = describe(merged.files, merged.tensors)
        if (manifest.step, manifest.files, manifest.tensors) != (self.step, merged.files, merged.tensors):
            raise ValueError("the manifest does not describe what was written")
        self._write_manifest(manifest.sealed())
        if not self.may_commit():
            raise LockError("another process has taken this run over")
        self._put_in_place()

    def _check_size(self, name: str, entry: FileEntry) -> None:
        size = patiently(self.disk, name, lambda: self.disk.files.status(self.folder / name)).st_size
        if size != entry.bytes:
            raise ValueError(f"{name} has {size:,} bytes, {entry.bytes:,} were written")

    def _write_manifest(self, manifest: Manifest) -> None:
        content = manifest.text()
        parse_manifest(content, MANIFEST)
        write_files(self.disk, self.folder, [small_job(MANIFEST, content)])
        self.disk.files.sync_folder(self.folder)

    def _put_in_place(self) -> None:
        """Replace an older save of the same step, which is found under its other name if this ends half-way."""
        files, root = self.disk.files, self.target.parent
        if self.disk.exists(self.target):
            files.rename(self.target, root / step_name(self.step, "aside", secrets.token_hex(4)))
        files.rename(self.folder, self.target)
        files.sync_folder(root)
