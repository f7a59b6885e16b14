"""The commit protocol with one safeguard taken out: the sweeps must notice each."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mypt_dist.checkpoint import attempt, housekeeping
from mypt_dist.checkpoint.files import Disk
from mypt_dist.checkpoint.layout import parse_step, step_name


def replace(name: str, new: Any) -> None:
    """Under this name, in every module that imported it."""
    for path, module in list(sys.modules.items()):
        if path.startswith("mypt_dist.checkpoint.") and hasattr(module, name):
            setattr(module, name, new)


def delete_in_place() -> None:
    """A victim is emptied under its own name."""
    replace("retire", lambda disk, folder: disk.remove_tree(folder))


def write_in_place() -> None:
    """A new checkpoint grows under its final name."""
    begin = attempt.open_attempt

    def open_attempt(disk: Disk, root: Path, step: int, *needed: int) -> Path:
        folder = begin(disk, root, step, *needed)
        target = root / step_name(step)
        disk.files.rename(folder, target)
        return target

    replace("open_attempt", open_attempt)
    attempt.Commit._put_in_place = lambda self: self.disk.files.sync_folder(self.target.parent)  # type: ignore[method-assign]


def delete_before_replacing() -> None:
    """An older save of the same step is deleted, not put aside, before the new one takes its name."""

    def put_in_place(self: Any) -> None:
        if self.disk.exists(self.target):
            housekeeping.retire(self.disk, self.target)
        self.disk.files.rename(self.folder, self.target)
        self.disk.files.sync_folder(self.target.parent)

    attempt.Commit._put_in_place = put_in_place  # type: ignore[method-assign]


def forget_what_is_aside() -> None:
    """What was put aside by a replacement that died does not count, and is deleted like other leftovers."""

    def step_folders(disk: Disk, root: Path) -> list[Any]:
        names = disk.files.names(root) if disk.exists(root) else []
        found = [folder for name in names if (folder := parse_step(root / name)) and not folder.kind]
        return sorted(found, key=lambda folder: -folder.step)

    replace("step_folders", step_folders)


def delete_before_saving() -> None:
    """Room is made for a new checkpoint before it is safe."""
    begin = attempt.open_attempt

    def open_attempt(disk: Disk, root: Path, step: int, *needed: int) -> Path:
        for folder in housekeeping.step_folders(disk, root)[1:]:
            housekeeping.retire(disk, folder.path)
        return begin(disk, root, step, *needed)

    replace("open_attempt", open_attempt)


def leave_litter() -> None:
    """Nobody cleans up after saves that died."""
    replace("tidy", lambda disk, root: None)


def name_before_manifest() -> None:
    """A folder gets its final name, and only then the manifest that makes it a checkpoint."""

    def write_manifest(self: Any, manifest: Any) -> None:
        self.disk.files.rename(self.folder, self.target)
        attempt.write_files(self.disk, self.target, [attempt.small_job("manifest.json", manifest.text())])
        self.disk.files.sync_folder(self.target)

    attempt.Commit._write_manifest = write_manifest  # type: ignore[method-assign]
    attempt.Commit._put_in_place = lambda self: self.disk.files.sync_folder(self.target.parent)  # type: ignore[method-assign]


REMOVALS: dict[str, Callable[[], None]] = {
    "trash": delete_in_place,
    "rename": write_in_place,
    "manifest-last": name_before_manifest,
    "aside": delete_before_replacing,
    "finding-aside": forget_what_is_aside,
    "order-of-deletion": delete_before_saving,
    "tidying": leave_litter,
}
