"""Which checkpoints there are under a path, and are they whole? For one process, and changing nothing."""

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mypt_dist.checkpoint.files import Disk
from mypt_dist.checkpoint.layout import MANIFEST, StepFolder, parse_step
from mypt_dist.checkpoint.manifest import CorruptError, Manifest
from mypt_dist.checkpoint.mapped import MappedFiles
from mypt_dist.checkpoint.reading import Checkpoint
from mypt_dist.checkpoint.verify import check_content, check_structure, patiently
from mypt_dist.errors import CheckpointError

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
"""Folder of a run that holds its checkpoints."""
SET_ASIDE = {"corrupt": "was set aside as corrupt", "undone": "was undone: the run went back before it"}
"""Kind of a folder that is listed, but not counted -> why not."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A line of ``mypt ckpt ls``. ``problem`` is None for a checkpoint whose manifest, files and sizes are right."""

    folder: Path
    step: int
    tokens: int | None
    bytes: int
    metrics: dict[str, float]
    problem: str | None
    healthy: bool = True
    """As its manifest says."""
    parameters: int | None = None
    """Of its model, a tied weight once."""


def step_folders(disk: Disk, root: Path) -> list[StepFolder]:
    """Folders named as checkpoints, newest first. Raises OSError; no folder has none.

    A save of a step that exists puts the old one aside before the new one takes its place. If it was killed
    between the two, the old one still counts, under its other name.
    """
    names = disk.files.names(root) if disk.exists(root) else []
    found = [folder for name in names if (folder := parse_step(root / name))]
    in_place = {folder.step for folder in found if not folder.kind}
    counted = [f for f in found if not f.kind or (f.kind == "aside" and f.step not in in_place)]
    return sorted(counted, key=lambda folder: -folder.step)


def corrupt_folders(disk: Disk, root: Path) -> list[StepFolder]:
    """Folders that were set aside because their bytes had changed."""
    return _folders(disk, root, "corrupt")


def undone_folders(disk: Disk, root: Path) -> list[StepFolder]:
    """Folders that were put aside when the run went back before them."""
    return _folders(disk, root, "undone")


def all_folders(disk: Disk, root: Path) -> list[StepFolder]:
    """Checkpoints, and what once was one."""
    return step_folders(disk, root) + _folders(disk, root, *SET_ASIDE)


def _folders(disk: Disk, root: Path, *kinds: str) -> list[StepFolder]:
    names = disk.files.names(root) if disk.exists(root) else []
    return [folder for name in names if (folder := parse_step(root / name)) and folder.kind in kinds]


def verified(disk: Disk, folder: Path) -> Checkpoint:
    """A checkpoint all of whose bytes are right. Raises `CheckpointError`."""
    manifest = patiently(disk, str(folder), lambda: check_structure(disk, folder))
    maps = MappedFiles(disk, folder)
    patiently(disk, str(folder), lambda: check_content(disk, folder, manifest.files, maps))
    return Checkpoint(folder, manifest, disk, maps)


def open_checkpoint(path: Path, disk: Disk | None = None) -> Checkpoint:
    """A verified checkpoint: ``path`` itself, or the newest valid one of a run's folder.

    Raises `CheckpointError` when there is none, when the one named is corrupt, or when one can not be read just now.
    """
    disk = disk or Disk()
    folders, named = _find(disk, path)
    for folder in folders:
        try:
            return verified(disk, folder)
        except CorruptError as error:
            if named:
                raise
            log.warning("%s; looking for an older one", error)
    raise CheckpointError(f"no valid checkpoint in {path}")


def newest_manifest(path: Path, disk: Disk | None = None, *, healthy: bool = False) -> tuple[Path, Manifest]:
    """Folder and manifest of a checkpoint: ``path`` itself, or the newest of a run's folder that seems whole.

    Hashes no tensors. ``healthy``: of a run's folder, one whose manifest says so. Raises `CheckpointError` when there
    is none, when the one named is corrupt, or when one can not be read just now.
    """
    disk = disk or Disk()
    folders, named = _find(disk, path)
    for folder in folders:
        try:
            manifest = patiently(disk, str(folder), partial(check_structure, disk, folder))
        except CorruptError as error:
            if named:
                raise
            log.warning("%s; looking for an older one", error)
            continue
        if named or manifest.healthy or not healthy:
            return folder, manifest
    raise CheckpointError(f"no valid{' and healthy' if healthy else ''} checkpoint in {path}")


def verify_checkpoint(path: Path, disk: Disk | None = None) -> list[str]:
    """Every problem of a checkpoint, or of all those in a run's folder, after reading every byte.

    Raises `CheckpointError` when there is none, when one is of another format, or can not be read just now.
    """
    disk = disk or Disk()
    folders, named = _find(disk, path)
    problems: list[str] = []
    for folder in folders:
        try:
            verified(disk, folder).close()
        except CorruptError as error:
            problems += [problem if named else f"{folder.name}: {problem}" for problem in error.problems]
    return problems


def list_checkpoints(path: Path, disk: Disk | None = None) -> list[Summary]:
    """Every checkpoint of a run's folder, oldest first, those set aside as corrupt or undone too. Hashes no tensors.

    Raises `CheckpointError` when there is none, or when the folder can not be read just now.
    """
    disk = disk or Disk()
    root = _root(disk, path.resolve())
    folders = patiently(disk, str(root), lambda: all_folders(disk, root))
    if not folders:
        raise CheckpointError(f"no checkpoint in {path}")
    return [_summary(disk, folder) for folder in sorted(folders, key=lambda folder: (folder.step, folder.path.name))]


def _summary(disk: Disk, folder: StepFolder) -> Summary:
    try:
        manifest = patiently(disk, str(folder.path), lambda: check_structure(disk, folder.path))
    except CheckpointError as error:
        return Summary(folder.path, folder.step, None, 0, {}, str(error))
    size = sum(entry.bytes for entry in manifest.files.values())
    problem = SET_ASIDE.get(folder.kind)
    return Summary(
        folder=folder.path,
        step=manifest.step,
        tokens=manifest.tokens,
        bytes=size,
        metrics=manifest.metrics,
        problem=problem,
        healthy=manifest.healthy,
        parameters=manifest.parameters,
    )


def _find(disk: Disk, path: Path) -> tuple[list[Path], bool]:
    """The checkpoints that ``path`` means, newest first, and whether it names one itself."""
    path = path.resolve()
    root = _root(disk, path)
    if parse_step(path) or patiently(disk, str(path), lambda: disk.exists(path / MANIFEST)):
        return [path], True
    folders = [folder.path for folder in patiently(disk, str(root), lambda: step_folders(disk, root))]
    if not folders:
        raise CheckpointError(f"no checkpoint in {path}")
    return folders, False


def _root(disk: Disk, path: Path) -> Path:
    """Where the checkpoints under ``path`` are."""
    if not patiently(disk, str(path), lambda: disk.exists(path)):
        raise CheckpointError(f"there is no {path}")
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a folder")
    inner = path / CHECKPOINTS
    return inner if patiently(disk, str(path), lambda: disk.exists(inner)) else path
