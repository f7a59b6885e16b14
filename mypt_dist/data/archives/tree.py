"""Where do the members of an archive go? Into one folder, by descriptors that follow no link."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mypt_dist.data.archives.limits import Budget, RefusedError
from mypt_dist.data.archives.names import checked_parts, folded
from mypt_dist.data.durable import sync_file, sync_folder

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Member:
    """A file or folder of an archive."""

    name: str
    """As the archive spells it."""
    blocks: Iterator[bytes] | None
    """The content of a file, to be read before the next member is; None of a folder."""


@dataclass(frozen=True, slots=True)
class ExtractedFile:
    """A file that came out."""

    path: str
    """Relative to the folder, with ``/``."""
    bytes: int
    sha256: str


class Tree:
    """Files and folders that are made within ``root``, which exists and is empty."""

    def __init__(self, root: Path, budget: Budget) -> None:
        self._root, self.budget = root, budget
        self._entries: dict[str, tuple[str, bool]] = {}
        """Of every path without regard to case: how it is spelled, and whether it is a folder."""
        self.files: list[ExtractedFile] = []

    def add(self, member: Member, below: str = "") -> None:
        """Make a file or folder, in the folder ``below``. Raises `RefusedError`, and OSError where the disk refuses."""
        parts = checked_parts(member.name)
        if not parts:
            if member.blocks is not None:
                raise RefusedError("a file has the name of the folder it is in")
            return
        parts = checked_parts(below) + parts if below else parts
        for depth in range(1, len(parts)):
            self._add_folder(parts[:depth])
        if member.blocks is None:
            self._add_folder(parts)
        else:
            self._add_file(parts, member.blocks)

    def sync(self) -> None:
        """Wait until everything is on the disk: at once at the end, which costs less than after each file."""
        for file in self.files:
            sync_file(self._root / file.path)
        for path, is_folder in self._entries.values():
            if is_folder:
                sync_folder(self._root / path)
        sync_folder(self._root)

    def _add_folder(self, parts: tuple[str, ...]) -> None:
        if self._claim("/".join(parts), is_folder=True):
            with self._opened(parts[:-1]) as parent:
                os.mkdir(parts[-1], 0o755, dir_fd=parent)

    def _add_file(self, parts: tuple[str, ...], blocks: Iterator[bytes]) -> None:
        path = "/".join(parts)
        self._claim(path, is_folder=False)
        digest, size = hashlib.sha256(), 0
        with self._opened(parts[:-1]) as parent:
            descriptor = os.open(parts[-1], _NEW_FILE, 0o644, dir_fd=parent)
        with os.fdopen(descriptor, "wb") as file:
            for block in blocks:
                self.budget.take_bytes(len(block))
                digest.update(block)
                file.write(block)
                size += len(block)
        self.files.append(ExtractedFile(path, size, digest.hexdigest()))

    def _claim(self, path: str, *, is_folder: bool) -> bool:
        """Whether ``path`` is new. Raises `RefusedError` where it stands for something else already."""
        found = self._entries.get(folded(path))
        if found is None:
            self.budget.take_entry()
            self._entries[folded(path)] = (path, is_folder)
            return True
        spelled, was_folder = found
        if spelled != path:
            raise RefusedError(f"{path!r} and {spelled!r} are one and the same where case does not count")
        if was_folder != is_folder:
            raise RefusedError(f"{path!r} is both a file and a folder")
        if not is_folder:
            raise RefusedError(f"{path!r} is in it twice")
        return False

    @contextmanager
    def _opened(self, parts: tuple[str, ...]) -> Iterator[int]:
        """A descriptor of the folder ``parts``, reached step by step."""
        current = os.open(self._root, _FOLDER)
        try:
            for part in parts:
                below = os.open(part, _FOLDER, dir_fd=current)
                os.close(current)
                current = below
            yield current
        finally:
            os.close(current)
