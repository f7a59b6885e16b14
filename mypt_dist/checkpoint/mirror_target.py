"""A second place for checkpoints: a folder, or whatever fsspec knows by a URL. Names are relative to it."""

import hashlib
import os
from collections.abc import Iterable, Iterator

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from mypt_dist.errors import ConfigError

BLOCK = 4 << 20
"""Bytes read and written at once."""


class MirrorTarget:
    """The calls a mirror needs. They raise OSError, and what else the library behind the URL raises."""

    def __init__(self, url: str) -> None:
        """Connects to nothing yet. Raises `ConfigError` for a URL that nothing here can open."""
        self.url = url
        try:
            self._system, self._root = url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"checkpoints.mirror: {url} can not be used: {error}") from None
        self._local = isinstance(self._system, LocalFileSystem)

    def names(self, folder: str = "") -> list[str]:
        """What a folder holds; nothing if there is none."""
        # What was seen before may be of before our own writes, or of another's.
        self._system.invalidate_cache()
        try:
            found = self._system.ls(self._path(folder), detail=False)
        except FileNotFoundError:
            return []
        return sorted({str(path).rstrip("/").rpartition("/")[2] for path in found})

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        """Make a file, or replace it."""
        path = self._path(name)
        if self._local:
            self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
        with self._system.open(path, "wb") as file:
            for piece in pieces:
                file.write(piece)
            if self._local:
                file.flush()
                os.fsync(file.fileno())

    def pieces(self, name: str) -> Iterator[bytes]:
        """The content of a file, as the place has it now."""
        with self._system.open(self._path(name), "rb") as file:
            while piece := file.read(BLOCK):
                yield piece

    def content(self, name: str, limit: int) -> bytes | None:
        """All of a small file; None if there is none. Raises OSError above ``limit`` bytes."""
        content = bytearray()
        try:
            for piece in self.pieces(name):
                content += piece
                if len(content) > limit:
                    raise OSError(f"{self.url}/{name} has more than {limit:,} bytes")
        except FileNotFoundError:
            return None
        return bytes(content)

    def sha256(self, name: str) -> str:
        """Of what is read back, not of what was sent."""
        digest = hashlib.sha256()
        for piece in self.pieces(name):
            digest.update(piece)
        return digest.hexdigest()

    def remove(self, name: str) -> None:
        """Delete a file, or a folder with all it holds; nothing if there is none."""
        self._system.invalidate_cache()
        if self._system.exists(self._path(name)):
            self._system.rm(self._path(name), recursive=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else str(self._root)
