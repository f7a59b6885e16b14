"""Copies committed checkpoints to a second place, and takes them back from there.

In a mirror, as everywhere, a checkpoint is one when its manifest is there: files go first and are read back, the
manifest goes last. What is deleted loses its manifest first.
"""

import hashlib
import logging
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from mypt_dist.checkpoint.catalog import all_folders, step_folders, undone_folders, verified
from mypt_dist.checkpoint.files import Disk
from mypt_dist.checkpoint.housekeeping import discard
from mypt_dist.checkpoint.layout import MANIFEST, parse_step, step_name
from mypt_dist.checkpoint.manifest import MAX_BYTES, CorruptError, FileEntry, Manifest, parse_manifest
from mypt_dist.checkpoint.mirror_target import BLOCK, MirrorTarget
from mypt_dist.checkpoint.policy import CheckpointPolicy
from mypt_dist.checkpoint.retention import Kept, Retention, victims
from mypt_dist.checkpoint.verify import check_structure, patiently
from mypt_dist.errors import CheckpointError

log = logging.getLogger(__name__)


class Mirror:
    """The checkpoints of the folder ``root``, and their copies in ``target``. For one process at a time."""

    def __init__(self, root: Path, target: MirrorTarget, retention: Retention, disk: Disk | None = None) -> None:
        self._root, self._target, self._retention = root, target, retention
        self._disk = disk or Disk()
        self._seen: list[tuple[str, int, int]] = []
        """`_listing` at the last look that went well: nothing is asked of the target while it stays so."""

    def catch_up(self) -> list[int]:
        """Copy what is not there yet, oldest first, then delete what the rules do not keep; the steps copied.

        Raises what the target raises, and `CorruptError` for a checkpoint here whose bytes have changed.
        """
        seen = self._listing()
        if seen == self._seen:
            return []
        there, here = self.copies(), self._own()
        undone = {name for name in there.keys() - here.keys() if self._was_undone(there[name])}
        union = {name: there[name] for name in there.keys() - undone} | here
        valid = [Kept(Path(name), m.step, m.metrics, m.healthy) for name, m in union.items()]
        gone = {kept.folder.name for kept in victims(self._retention, valid)}
        missing = [
            name
            for name, manifest in here.items()
            if name not in gone and (name not in there or there[name].sha256 != manifest.sha256)
        ]
        copied = [here[name].step for name in missing if self._copy(name, here[name])]
        for name in self._names():
            # Also what was being copied, or deleted, by a process that died.
            if name in gone | undone or self._manifest(name) is None:
                self._remove(name)
        self._seen = seen
        return copied

    def copies(self) -> dict[str, Manifest]:
        """The complete checkpoints of the mirror, by name, oldest first."""
        found = {}
        for name in self._names():
            content = self._manifest(name)
            if content is None:
                continue
            try:
                found[name] = parse_manifest(content, f"{self._target.url}/{name}")
            except CheckpointError as error:
                log.warning("%s in the mirror is passed over: %s", name, error)
        return dict(sorted(found.items(), key=lambda item: item[1].step))

    def pull(self, step: int | None = None) -> Path | None:
        """Take the newest copy, or that of ``step``, into ``root``, verified; None if the mirror has none.

        A copy that is damaged is passed over with a warning. Raises OSError, what the target raises, and
        `CheckpointError` when there are copies but none is whole, and for a step that is in ``root`` already.
        """
        found = [m for m in self.copies().values() if step is None or m.step == step]
        for manifest in reversed(found):
            target = self._root / step_name(manifest.step)
            if self._disk.exists(target):
                raise CheckpointError(f"{target} is there already")
            try:
                return self._fetch(manifest)
            except CheckpointError as error:
                log.warning("the copy of step %d in %s is not used: %s", manifest.step, self._target.url, error)
        if found:
            raise CheckpointError(f"{self._target.url} has copies of checkpoints, but none of them is whole")
        return None

    def _names(self) -> list[str]:
        return [name for name in self._target.names() if (step := parse_step(Path(name))) and not step.kind]

    def _listing(self) -> list[tuple[str, int, int]]:
        """Changes whenever a checkpoint comes, goes or is replaced."""
        found = []
        for folder in step_folders(self._disk, self._root):
            with suppress(FileNotFoundError):
                status = self._disk.files.status(folder.path / MANIFEST)
                found.append((folder.path.name, status.st_ino, status.st_mtime_ns))
        return found

    def _own(self) -> dict[str, Manifest]:
        """Whole checkpoints here, by the name they have in the mirror, oldest first."""
        found = {}
        for folder in reversed(step_folders(self._disk, self._root)):
            # Retention may delete it meanwhile; what is damaged is the next start's business.
            with suppress(FileNotFoundError, CorruptError):
                found[step_name(folder.step)] = check_structure(self._disk, folder.path)
        return found

    def _was_undone(self, manifest: Manifest) -> bool:
        """Whether the run went back before this one."""
        for folder in undone_folders(self._disk, self._root):
            if folder.step == manifest.step:
                with suppress(CheckpointError, OSError):
                    return check_structure(self._disk, folder.path).sha256 == manifest.sha256
        return False

    def _copy(self, name: str, manifest: Manifest) -> bool:
        """Whether it was copied: not if it was deleted or replaced meanwhile."""
        found = [folder.path for folder in step_folders(self._disk, self._root) if folder.step == manifest.step]
        if not found:
            return False
        folder = found[0]
        try:
            # An older copy of this step is none from here on: its files are being replaced.
            self._remove(name)
            for file, entry in manifest.files.items():
                self._send(folder / file, f"{name}/{file}", entry)
            content = self._disk.read_bytes(folder / MANIFEST, MAX_BYTES)
        except (FileNotFoundError, CorruptError):
            if self._disk.exists(folder / MANIFEST):
                raise
            return False
        self._target.write(f"{name}/{MANIFEST}", [content])
        if self._manifest(name) != content:
            raise OSError(f"{self._target.url}/{name}/{MANIFEST} is not what was sent")
        return True

    def _manifest(self, name: str) -> bytes | None:
        return self._target.content(f"{name}/{MANIFEST}", MAX_BYTES)

    def _remove(self, name: str) -> None:
        self._target.remove(f"{name}/{MANIFEST}")
        self._target.remove(name)

    def _send(self, source: Path, name: str, entry: FileEntry) -> None:
        digest = hashlib.sha256()
        self._target.write(name, self._hashed(source, digest.update))
        if digest.hexdigest() != entry.sha256:
            raise CorruptError(str(source.parent), [f"{source.name} has changed"])
        if self._target.sha256(name) != entry.sha256:
            raise OSError(f"{self._target.url}/{name} is not what was sent")

    def _hashed(self, source: Path, update: Callable[[memoryview], None]) -> Iterator[bytes]:
        files = self._disk.files
        descriptor = files.open(source)
        try:
            block = memoryview(bytearray(BLOCK))
            while count := files.read(descriptor, block):
                update(block[:count])
                yield bytes(block[:count])
        finally:
            files.close(descriptor)

    def _fetch(self, manifest: Manifest) -> Path:
        disk, name = self._disk, step_name(manifest.step)
        target, attempt = self._root / name, self._root / step_name(manifest.step, "partial", secrets.token_hex(4))
        disk.make_folders(self._root)
        disk.files.make_folder(attempt)
        try:
            sizes = {file: entry.bytes for file, entry in manifest.files.items()}
            for file, size in {**sizes, MANIFEST: MAX_BYTES}.items():
                self._receive(f"{name}/{file}", attempt / file, size)
            verified(disk, attempt).close()
            for folder in {(attempt / file).parent for file in manifest.files} | {attempt}:
                disk.files.sync_folder(folder)
            disk.files.rename(attempt, target)
            disk.files.sync_folder(self._root)
        except BaseException:
            discard(disk, attempt)
            raise
        return target

    def _receive(self, name: str, path: Path, limit: int) -> None:
        disk, left = self._disk, limit
        if not disk.exists(path.parent):
            disk.files.make_folder(path.parent)
        descriptor = disk.files.create(path)
        try:
            for piece in self._target.pieces(name):
                left -= len(piece)
                if left < 0:
                    raise CorruptError(str(path.parent), [f"{path.name} has more than {limit:,} bytes"])
                disk.write_fully(descriptor, memoryview(piece))
            disk.files.sync(descriptor)
        finally:
            disk.files.close(descriptor)


def fill_from_mirror(root: Path, policy: CheckpointPolicy, disk: Disk | None = None) -> int | None:
    """Where ``root`` has no checkpoint at all, take the newest one that the mirror has; its step, None if none came.

    Raises `ConfigError` for a mirror that nothing here can open, and `CheckpointError` when it can not be read: to
    start afresh then, and to replace its copies, could cost the whole run.
    """
    if policy.mirror is None:
        return None
    disk = disk or Disk()
    target = MirrorTarget(policy.mirror)
    if patiently(disk, str(root), lambda: all_folders(disk, root)):
        return None
    try:
        pulled = Mirror(root, target, policy.retention, disk).pull()
    except CheckpointError:
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"the mirror {policy.mirror} can not be read right now: {text}") from error
    if pulled is None:
        return None
    log.warning("%s had no checkpoint: %s was taken from the mirror %s", root, pulled.name, policy.mirror)
    step = parse_step(pulled)
    assert step is not None
    return step.step
