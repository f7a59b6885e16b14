"""``sources.lock.json``: what every download was the first time, so that a change is seen."""

import threading
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from mypt_dist.config import Config, Sha256, read_json, validate
from mypt_dist.data import durable
from mypt_dist.data.sources.config import Url
from mypt_dist.errors import DataError


class Pin(Config):
    """One file."""

    url: Url
    """Where it came from, without what may be a secret in it."""
    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]


class LockFile(Config):
    """The content of the file."""

    format: Literal[1] = 1
    files: dict[str, Pin] = {}
    """By source and name: ``opus/de-en.zip``."""


class Pins:
    """The lock file at ``path``. For several threads."""

    def __init__(self, path: Path) -> None:
        """Raises `ConfigError` where there is something else."""
        self.path = path
        self._lock = threading.Lock()
        self._files = dict(self._read().files)

    def get(self, name: str) -> Pin | None:
        """What is known of a file."""
        return self._files.get(name)

    def record(self, name: str, pin: Pin) -> None:
        """Remember what a file was. Raises `DataError` where that cannot be written."""
        with self._lock:
            if self._files.get(name) == pin:
                return
            # Another process may have recorded other files.
            self._files = {**self._read().files, **self._files, name: pin}
            content = LockFile(files=dict(sorted(self._files.items())))
            try:
                durable.replace(self.path, content.model_dump_json(indent=2).encode() + b"\n")
            except OSError as error:
                raise DataError(
                    f"{self.path} cannot be written: {error.strerror}; name another place with --lock"
                ) from None

    def _read(self) -> LockFile:
        if not self.path.exists():
            return LockFile()
        return validate(LockFile, read_json(self.path), str(self.path))
