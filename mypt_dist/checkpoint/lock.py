"""Does another process write into this run's folder? A lock file with a lease and a fencing token."""

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from pydantic import ValidationError

from mypt_dist.checkpoint.files import Disk
from mypt_dist.checkpoint.process import Process, is_alive
from mypt_dist.config import Config
from mypt_dist.config.strict_json import parse_json
from mypt_dist.errors import ConfigError, LockError

log = logging.getLogger(__name__)

LOCK = "run.lock"
RECORD_BYTES = 1024
"""A record is padded to this size, so that renewing it in place never changes the size of the file."""
ATTEMPTS = 20
"""Times the lock may change under our eyes before we give up."""


class Record(Config):
    """Content of the lock file."""

    process: Process
    token: str
    """Names this holding of the lock; `RunLock.token`."""
    since: str
    """When it was taken, UTC. For people: no decision depends on any clock but our own monotonic one."""
    renewed: int = 0
    """Grows while the holder lives."""

    def __str__(self) -> str:
        return f"process {self.process.pid} on {self.process.host} since {self.since}"


@dataclass(frozen=True, slots=True)
class Lease:
    """How long a lock holds, in seconds, and by which clock."""

    renew_s: float = 5.0
    lease_s: float = 20.0
    """A lock of another machine that is not renewed for so long is taken over."""
    poll_s: float = 0.5
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class RunLock:
    """At most one run writes into ``folder``. Rank 0 holds it, best in a ``with``.

    A lock whose process is gone from this machine is taken over at once, one of another machine when it was not
    renewed for a lease. Its former holder, should it wake up, is told by `still_mine`, to be asked before every
    commit: between that answer and the commit there remains a moment, but no two runs ever both get True.
    """

    def __init__(
        self, folder: Path, lease: Lease | None = None, *, disk: Disk | None = None, process: Process | None = None
    ) -> None:
        self.folder = folder
        self.token = secrets.token_hex(8)
        self._path = folder / LOCK
        self._lease = lease or Lease()
        self._disk = disk or Disk()
        self._record = Record(
            process=process or Process.this(), token=self.token, since=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        )
        self._descriptor: int | None = None
        self._ended = threading.Event()
        self._renewer = threading.Thread(target=self._keep_renewing, name="run-lock", daemon=True)

    def acquire(self) -> None:
        """Take the lock and keep it renewed.

        Raises `LockError` naming host, process and since when, if another run holds it; `ConfigError` if the
        folder can not be written.
        """
        try:
            self._disk.make_folders(self.folder)
            self._contend()
        except OSError as error:
            raise ConfigError(f"the run folder {self.folder} can not be used: {error.strerror or error}") from error
        self._renewer.start()

    def still_mine(self) -> bool:
        """Whether no other run has taken the lock over. Raises OSError when the lock can not be read."""
        return self._descriptor is not None and is_held(self._disk, self.folder, self.token)

    def renew(self) -> None:
        """Show that this run lives. Called every few seconds by a thread of its own."""
        self._record = self._record.model_copy(update={"renewed": self._record.renewed + 1})
        try:
            # In place: had somebody renamed our file and made a new one, that would stay as it is.
            self._write_record()
            if not self.still_mine():
                log.error("the lock of %s was taken over by another run: this one can not save any more", self.folder)
                self._ended.set()
        except OSError as error:
            log.warning("the lock of %s could not be renewed: %s", self.folder, error)

    def release(self) -> None:
        """Let the lock go, if it is still ours. Safe to call again."""
        self._ended.set()
        if self._renewer.is_alive():
            self._renewer.join()
        if self._descriptor is None:
            return
        try:
            if self.still_mine():
                self._disk.files.unlink(self._path)
        except OSError as error:
            log.warning("%s is left over, the next run will take it over: %s", self._path, error)
        finally:
            self._disk.files.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> "RunLock":
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _contend(self) -> None:
        for _ in range(ATTEMPTS):
            if self._create():
                return
            content = self._read(self._path)
            record = _parse(content)
            if record and self._record.process.sees(record.process):
                if is_alive(record.process):
                    raise self._refusal(record)
            elif content is not None and self._is_renewed(content):
                raise self._refusal(record)
            self._take_away(content)
        raise LockError(f"{self.folder} is contended for by several runs")

    def _create(self) -> bool:
        files = self._disk.files
        try:
            self._descriptor = files.create(self._path)
        except FileExistsError:
            return False
        try:
            self._write_record()
        except OSError:
            files.close(self._descriptor)
            self._descriptor = None
            files.unlink(self._path)
            raise
        return True

    def _is_renewed(self, content: bytes) -> bool:
        """Whether the lock changes while we watch it for a lease, by our own clock."""
        log.info("%s is locked; watching for %g s whether its holder lives", self.folder, self._lease.lease_s)
        deadline = self._lease.clock() + self._lease.lease_s
        while self._lease.clock() < deadline:
            self._lease.sleep(self._lease.poll_s)
            now = self._read(self._path)
            if now != content:
                return now is not None
        return False

    def _take_away(self, content: bytes | None) -> None:
        """Remove the lock whose ``content`` was found dead, but not one that took its place meanwhile."""
        files, aside = self._disk.files, self.folder / f"{LOCK}.{self.token}"
        try:
            files.rename(self._path, aside)
        except FileNotFoundError:
            return
        if self._read(aside) == content:
            log.warning("took over the lock of a run that has ended: %s", _parse(content) or "unreadable")
        else:
            try:
                files.link(aside, self._path)
            except FileExistsError:
                log.warning("the lock of %s changed hands twice", self.folder)
        files.unlink(aside)

    def _refusal(self, record: Record | None) -> LockError:
        holder = record or "another process that is just taking it"
        return LockError(f"{self.folder} is in use by {holder}: stop that run, or choose another folder")

    def _write_record(self) -> None:
        assert self._descriptor is not None
        text = json.dumps(self._record.model_dump(mode="json")).encode().ljust(RECORD_BYTES)
        self._disk.files.write_at(self._descriptor, text, 0)
        self._disk.files.sync(self._descriptor)

    def _read(self, path: Path) -> bytes | None:
        return _read(self._disk, path)

    def _keep_renewing(self) -> None:
        while not self._ended.wait(self._lease.renew_s):
            self.renew()


def is_held(disk: Disk, folder: Path, token: str) -> bool:
    """Whether the run lock of ``folder`` is the one that ``token`` names; any process may ask. Raises OSError."""
    record = _parse(_read(disk, folder / LOCK))
    return record is not None and record.token == token


def _read(disk: Disk, path: Path) -> bytes | None:
    """The content, None without a file, nothing where the file is not one of ours at all."""
    try:
        return disk.read_bytes(path, RECORD_BYTES)
    except FileNotFoundError:
        return None
    except ValueError:
        return b""


def _parse(content: bytes | None) -> Record | None:
    try:
        return Record.model_validate(parse_json((content or b"").decode(), LOCK))
    except (ConfigError, UnicodeDecodeError, ValidationError):
        return None
