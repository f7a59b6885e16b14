"""A disk that at a power cut keeps any part of what nobody waited for, in any order."""

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from checkpoint_doubles import Died, QuickFiles

NEVER = 1 << 30


@dataclass(eq=False)
class File:
    """What has been written, and how much of it is known to be on the disk."""

    content: bytearray = field(default_factory=bytearray)
    safe: bool = False

    def after_a_cut(self, choice: int) -> bytes:
        """Content nobody waited for may be missing, half there, zeros, or there."""
        full = bytes(self.content)
        return full if self.safe else (full, b"", full[: len(full) // 2], bytes(len(full)))[choice]


@dataclass(eq=False)
class Folder:
    """``on_disk`` are the entries that survive; those in ``entries`` are what running programs see."""

    entries: "dict[str, Node]" = field(default_factory=dict)
    on_disk: "dict[str, Node]" = field(default_factory=dict)


Node: TypeAlias = File | Folder


@dataclass
class Change:
    """An entry that came, went or was renamed: ``old`` is None for a new one, ``new`` for one that went."""

    folder: Folder
    node: Node
    old: str | None
    new: str | None

    def happen(self, entries: "dict[str, Node]") -> None:
        if self.old is not None and entries.get(self.old) is self.node:
            del entries[self.old]
        if self.new is not None:
            entries[self.new] = self.node


class CrashFiles(QuickFiles):
    """The real calls on ``root``; ends the process after ``at`` of those that change something. See `after_a_cut`.

    ``without`` names waits that are left out: of a ``file``, an ``inner`` folder, an ``attempt``, the ``root``.
    """

    def __init__(self, root: Path, at: int = NEVER, without: frozenset[str] = frozenset()) -> None:
        self.at, self.without, self.count = at, without, 0
        self._top = root
        self._tree = _known(root)
        self._open: dict[int, File] = {}
        self.pending: list[Change] = []

    def create(self, path: Path) -> int:
        self._tick()
        descriptor = super().create(path)
        self._open[descriptor] = File()
        self._add(path, self._open[descriptor])
        return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        self._tick()
        written = super().write(descriptor, data)
        self._open[descriptor].content += data[:written]
        self._open[descriptor].safe = False
        return written

    def sync(self, descriptor: int) -> None:
        self._tick()
        self._open[descriptor].safe = "file" not in self.without

    def make_folder(self, path: Path) -> None:
        self._tick()
        super().make_folder(path)
        self._add(path, Folder())

    def sync_folder(self, path: Path) -> None:
        self._tick()
        kind = "root" if path == self._top else "attempt" if path.parent == self._top else "inner"
        folder = self._find(path)
        if kind not in self.without:
            folder.on_disk = dict(folder.entries)
            self.pending = [change for change in self.pending if change.folder is not folder]

    def rename(self, old: Path, new: Path) -> None:
        self._tick()
        super().rename(old, new)
        assert old.parent == new.parent, "a folder only changes its name"
        self._note(Change(self._find(old.parent), self._find(old.parent).entries[old.name], old.name, new.name))

    def unlink(self, path: Path) -> None:
        self._tick()
        super().unlink(path)
        self._remove(path)

    def remove_folder(self, path: Path) -> None:
        self._tick()
        super().remove_folder(path)
        self._remove(path)

    def after_a_cut(self, kept: Sequence[bool], choose: Callable[[], int], out: Path) -> Path:
        """What is on the disk at the next start, in ``out``: of the ``pending`` changes those ``kept``.

        ``choose`` gives 0 to 3 for every file that nobody waited for: `File.after_a_cut`.
        """
        for change, happened in zip(self.pending, kept, strict=True):
            if happened:
                change.happen(change.folder.on_disk)
        _write(self._tree, choose, out)
        return out

    def _add(self, path: Path, node: Node) -> None:
        self._note(Change(self._find(path.parent), node, None, path.name))

    def _remove(self, path: Path) -> None:
        folder = self._find(path.parent)
        self._note(Change(folder, folder.entries[path.name], path.name, None))

    def _note(self, change: Change) -> None:
        change.happen(change.folder.entries)
        self.pending.append(change)

    def _find(self, path: Path) -> Folder:
        node: Node = self._tree
        for name in path.relative_to(self._top).parts:
            assert isinstance(node, Folder)
            node = node.entries[name]
        if not isinstance(node, Folder):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        return node

    def _tick(self) -> None:
        self.count += 1
        if self.count > self.at:
            raise Died


def _known(path: Path) -> Folder:
    """All that was there at first has been on the disk for long."""
    found: dict[str, Node] = {
        inner.name: _known(inner) if inner.is_dir() else File(bytearray(inner.read_bytes()), safe=True)
        for inner in path.iterdir()
    }
    return Folder(found, dict(found))


def _write(folder: Folder, choose: Callable[[], int], out: Path) -> None:
    out.mkdir()
    for name, node in folder.on_disk.items():
        if isinstance(node, Folder):
            _write(node, choose, out / name)
        else:
            (out / name).write_bytes(node.after_a_cut(0 if node.safe else choose()))
