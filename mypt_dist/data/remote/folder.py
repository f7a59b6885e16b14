"""The folder of a dataset behind a URL. Libraries of object stores raise anything: here it becomes one of two."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from fsspec.core import url_to_fs

from mypt_dist.config.strict_json import MAX_BYTES
from mypt_dist.data.files import Patience
from mypt_dist.data.manifest import FILE, HINT, DatasetManifest
from mypt_dist.data.place import DatasetPlace
from mypt_dist.errors import ConfigError, DataError
from mypt_dist.redact import scrub, without_secrets

EXTRAS = {"s3": "pip install 'mypt-dist[s3]'"}
"""What installs the package that a scheme needs."""


PIECE = 8 << 20
"""Bytes asked for at once: what is lost with a connection."""


class RefusedError(Exception):
    """What the store has is not what is asked for, or it does not give it: to ask again is of no use."""


class StoreError(Exception):
    """The store does not answer as it should right now."""


class RemoteFolder:
    """The calls that are made to a store. They raise `RefusedError` and `StoreError`, and nothing else."""

    def __init__(self, url: str) -> None:
        """Connects to nothing yet. Raises `ConfigError` for a URL that nothing here can open."""
        self.url = without_secrets(url)
        """For people: without user, password and query."""
        try:
            self._system, self._root = url_to_fs(url)
        except (ImportError, ValueError) as error:
            extra = EXTRAS.get(url.partition("://")[0])
            hint = f"; it needs: {extra}" if extra and isinstance(error, ImportError) else ""
            raise ConfigError(f"{self.url} cannot be opened: {scrub(str(error))}{hint}") from None

    def where(self, name: str) -> str:
        """A file, for people."""
        return f"{self.url}/{name}"

    def size(self, name: str) -> int:
        """Bytes of a file, as the store has it now."""
        with self._asking(name):
            self._system.invalidate_cache()
            return int(self._system.size(self._path(name)))

    def piece(self, name: str, begin: int, end: int) -> bytes:
        """Bytes [``begin``, ``end``) of a file; fewer where the store, or the file, has no more."""
        with self._asking(name):
            return bytes(self._system.cat_file(self._path(name), start=begin, end=end))

    def names(self) -> list[str]:
        """Every file in it and below, relative to it."""
        with self._asking(""):
            self._system.invalidate_cache()
            root = self._path("")
            return sorted(str(path).removeprefix(root) for path in self._system.find(self._root))

    def open(self, name: str) -> IO[bytes]:
        """A file, to be read from its beginning to its end: what `piece` gives, piece by piece."""
        return io.BufferedReader(_Pieces(self, name), PIECE)

    def _path(self, name: str) -> str:
        return f"{str(self._root).rstrip('/')}/{name}"

    @contextmanager
    def _asking(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise RefusedError(f"{self.url}/{name} is not there") from None
        except PermissionError as error:
            raise RefusedError(f"{self.url}/{name} may not be read: {_told(error)}") from None
        except Exception as error:
            raise StoreError(f"{self.url}/{name} cannot be read: {_told(error)}") from error


class _Pieces(io.RawIOBase):
    def __init__(self, folder: RemoteFolder, name: str) -> None:
        self._folder, self._name, self._at = folder, name, 0
        self._size: int | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        view = memoryview(into).cast("B")
        if self._size is None:
            self._size = self._folder.size(self._name)
        end = min(self._at + len(view), self._size)
        # Behind the end some stores refuse the question.
        data = self._folder.piece(self._name, self._at, end) if self._at < end else b""
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


def read_manifest(place: DatasetPlace, patience: Patience | None = None) -> DatasetManifest:
    """The manifest of the dataset in a folder, see `DatasetManifest.read`, or behind a URL.

    Raises `ConfigError` where there is none, `DataError` where it is damaged or the store does not answer in spite of
    ``patience``.
    """
    if isinstance(place, Path):
        return DatasetManifest.read(place)
    folder, patience = RemoteFolder(place), patience or Patience((1.0,))
    for wait in (*patience.waits, None):
        try:
            return DatasetManifest.parse(_text(folder), f"{folder.url}/{FILE}")
        except RefusedError as error:
            raise ConfigError(f"no dataset at {folder.url}: {error}; {HINT} DIR, and copy DIR there") from None
        except StoreError as error:
            if wait is None:
                tries = len(patience.waits) + 1
                raise DataError(f"{error} ({tries} attempts); start again when the store answers") from None
            patience.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def _text(folder: RemoteFolder) -> str:
    size = folder.size(FILE)
    if size > MAX_BYTES:
        raise DataError(f"{folder.url}/{FILE} has {size:,} bytes; a description has at most {MAX_BYTES:,}")
    try:
        return folder.piece(FILE, 0, size).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{folder.url}/{FILE} is not UTF-8 text: byte {error.start}") from None


def _told(error: Exception) -> str:
    """Some libraries say much, or nothing."""
    lines = scrub(str(error)).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}".removesuffix(": ")
