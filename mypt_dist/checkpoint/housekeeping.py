"""What may be deleted, and how: leftovers of saves that died, and checkpoints that no rule keeps."""

import logging
import secrets
from pathlib import Path

from mypt_dist.checkpoint.catalog import step_folders
from mypt_dist.checkpoint.files import Disk
from mypt_dist.checkpoint.layout import MANIFEST, is_trash, parse_step, step_name, trash_name
from mypt_dist.checkpoint.retention import Kept, Retention, victims
from mypt_dist.checkpoint.verify import check_structure
from mypt_dist.errors import CheckpointError

log = logging.getLogger(__name__)


def retire(disk: Disk, folder: Path) -> None:
    """Delete a checkpoint so that at no moment half of one looks whole. Raises OSError."""
    trash = folder.parent / trash_name(folder.name, secrets.token_hex(4))
    disk.files.rename(folder, trash)
    disk.files.sync_folder(folder.parent)
    disk.remove_tree(trash, first=MANIFEST)


def undo(disk: Disk, root: Path, after: int) -> list[str]:
    """Put aside every checkpoint of a later step than ``after``, newest first; the names they had.

    They are deleted once the run has saved as far again. Only for the holder of the run lock. Raises OSError.
    """
    later = [folder for folder in step_folders(disk, root) if folder.step > after]
    for folder in later:
        disk.files.rename(folder.path, root / step_name(folder.step, "undone", secrets.token_hex(4)))
    disk.files.sync_folder(root)
    return [folder.path.name for folder in later]


def discard(disk: Disk, attempt: Path) -> None:
    """Delete an attempt that failed; what resists is left for the next save to clean up."""
    try:
        disk.remove_tree(attempt, first=MANIFEST)
    except OSError as error:
        log.warning("%s is left over and can be deleted: %s", attempt, error)


def tidy(disk: Disk, root: Path) -> None:
    """Delete what saves and deletions left that did not end. Only for the holder of the run lock. Raises OSError."""
    found = step_folders(disk, root)
    counted, newest = {folder.path for folder in found}, max((folder.step for folder in found), default=0)
    for path in (root / name for name in disk.files.names(root)):
        folder = parse_step(path)
        if is_trash(path.name) or (folder and folder.kind == "partial"):
            discard(disk, path)
        elif folder and folder.kind == "aside":
            if path in counted:
                disk.files.rename(path, root / step_name(folder.step))
                disk.files.sync_folder(root)
            else:
                retire(disk, path)
        elif folder and folder.kind == "undone" and folder.step <= newest:
            retire(disk, path)


def apply_retention(disk: Disk, root: Path, rules: Retention) -> None:
    """Delete what ``rules`` do not keep, oldest first. A failure is told and ends it: what was saved is saved."""
    try:
        tidy(disk, root)
        for kept in victims(rules, _valid(disk, root)):
            retire(disk, kept.folder)
    except OSError as error:
        log.warning("old checkpoints in %s were not all deleted: %s", root, error)


def _valid(disk: Disk, root: Path) -> list[Kept]:
    valid = []
    for folder in step_folders(disk, root):
        try:
            manifest = check_structure(disk, folder.path)
        except (CheckpointError, OSError) as error:
            log.warning("%s is not counted among the checkpoints to keep: %s", folder.path, error)
        else:
            valid.append(Kept(folder.path, folder.step, manifest.metrics, manifest.healthy))
    return valid
