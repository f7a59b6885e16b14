"""A download that is not finished: ``NAME.part``, and beside it what of it is surely on the disk."""

import hashlib
import os
import time
from pathlib import Path
from typing import IO, Self

from pydantic import Field

from mypt_dist.config import Config, read_json, validate
from mypt_dist.data import durable
from mypt_dist.errors import ConfigError

SYNC_BYTES = 64 << 20
SYNC_S = 10.0
"""A kill or a power cut takes at most so many bytes or seconds of what was downloaded."""
READ_BYTES = 1 << 20


class PartState(Config):
    """``NAME.part.json``."""

    url: str
    validator: str
    """The ETag or date of the file of which this is the beginning, as ``If-Range`` sends it."""
    total: int | None
    """Bytes of the whole file, if known."""
    bytes: int = Field(ge=0)
    """What was waited for. More may be in the file; after a power cut it may be anything."""


class Part:
    """The beginning of a file, with its hash. What could not be resumed does not stay. Raises OSError."""

    def __init__(self, target: Path, url: str) -> None:
        """Of the download of ``url`` that becomes ``target``: what an earlier attempt left, or nothing."""
        self._target, self._url = target, url
        self._path = target.with_name(f"{target.name}.part")
        self._state_path = target.with_name(f"{target.name}.part.json")
        self.validator = ""
        self.total: int | None = None
        self.size = self._synced = 0
        self._synced_at = time.monotonic()
        self._hash = hashlib.sha256()
        self._file: IO[bytes] = self._path.open("a+b", buffering=0)
        self._take_up(self._known())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if not self.validator:
            # Nothing could go on where it ended.
            self.discard()

    @property
    def sha256(self) -> str:
        """Of what is there."""
        return self._hash.hexdigest()

    def begin(self, validator: str, total: int | None) -> None:
        """Start anew. ``validator`` is empty where what follows could not be resumed."""
        self._state_path.unlink(missing_ok=True)
        self._file.truncate(0)
        self.size = self._synced = 0
        self.validator, self.total = validator, total
        self._hash = hashlib.sha256()

    def append(self, data: bytes) -> None:
        """More of it."""
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self._hash.update(data)
        self.size += len(data)
        if self.size - self._synced >= SYNC_BYTES or time.monotonic() - self._synced_at >= SYNC_S:
            self.sync()

    def sync(self) -> None:
        """Make what is there survive."""
        os.fsync(self._file.fileno())
        self._synced, self._synced_at = self.size, time.monotonic()
        if self.validator:
            state = PartState(url=self._url, validator=self.validator, total=self.total, bytes=self.size)
            durable.replace(self._state_path, state.model_dump_json().encode())

    def finish(self) -> None:
        """It is whole: give it its name."""
        os.fsync(self._file.fileno())
        self._state_path.unlink(missing_ok=True)
        self._path.replace(self._target)
        durable.sync_folder(self._target.parent)

    def discard(self) -> None:
        """It is of no use."""
        self._state_path.unlink(missing_ok=True)
        self._path.unlink(missing_ok=True)

    def _known(self) -> PartState | None:
        try:
            state = validate(PartState, read_json(self._state_path), str(self._state_path))
        except ConfigError:
            return None
        is_ours = state.url == self._url and state.validator and self._path.stat().st_size >= state.bytes
        return state if is_ours else None

    def _take_up(self, state: PartState | None) -> None:
        if state is None:
            self.begin("", None)
            return
        self._file.truncate(state.bytes)
        self._file.seek(0)
        while block := self._file.read(READ_BYTES):
            self._hash.update(block)
        self.validator, self.total = state.validator, state.total
        self.size = self._synced = state.bytes
