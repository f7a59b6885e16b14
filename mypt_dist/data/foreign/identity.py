"""Which files was it, exactly? Their hashes, and a check that they stayed as they were while they were read."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mypt_dist.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True)
class Standing:
    """Files as they were when somebody looked."""

    facts: tuple[tuple[Path, int, int], ...]
    """Path, size and time of the last change in nanoseconds."""

    @classmethod
    def of(cls, files: Sequence[Path]) -> "Standing":
        """Raises `ConfigError` for a file that is not there."""
        return cls(tuple(_look(path) for path in files))

    def require_unchanged(self) -> None:
        """Raise `DataError` where a file is no longer as it was."""
        for path, *before in self.facts:
            if list(_look(path)[1:]) != before:
                raise DataError(f"{path} changed while it was read; do it again when it is complete")

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(size for _, size, _ in self.facts)


def content_hash(root: Path, hashes: Sequence[tuple[Path, str]]) -> str:
    """sha256 of what ``sha256sum`` prints in the folder ``root`` for these files, sorted by name."""
    folder = root if root.is_dir() else root.parent
    named = sorted((path.relative_to(folder).as_posix(), sha256) for path, sha256 in hashes)
    lines = "".join(f"{sha256}  {name}\n" for name, sha256 in named)
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()


def _look(path: Path) -> tuple[Path, int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    return path, found.st_size, found.st_mtime_ns
