"""One file from the web: whole and as it must be, or not there."""

import errno
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mypt_dist.data.sources.addresses import ForbiddenError
from mypt_dist.data.sources.answers import Body, StaleError, read_answer
from mypt_dist.data.sources.pace import Pace, Transfer
from mypt_dist.data.sources.part import Part
from mypt_dist.data.sources.web import Answer, TransientError, Web
from mypt_dist.errors import DataError
from mypt_dist.redact import without_secrets

MAX_BYTES = 100 * 10**9
"""More than one file of any corpus that people share has."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a file must be, and who says so."""

    sha256: str | None
    bytes: int | None
    by: str
    """Such as ``sources.json``."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to download."""

    label: str
    """For messages: source and file."""
    url: str
    target: Path
    expected: Expected | None = None


@dataclass(frozen=True, slots=True)
class Arrived:
    """What a file is."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Downloader:
    """How files are downloaded."""

    web: Web
    pace: Pace = field(default_factory=Pace)
    max_bytes: int = MAX_BYTES
    """Of one file."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set to give up."""

    def download(self, wanted: Wanted, tell: Callable[[int, int | None], None]) -> Arrived:
        """Bring ``wanted`` to its place, going on where an earlier attempt ended.

        ``tell(there, total)`` is called with bytes. Raises `DataError` where it cannot be had, or is not what it must
        be. What may be the beginning of it stays as ``.part`` beside its place, for the next time.
        """
        try:
            with Part(wanted.target, wanted.url) as part:
                return _Job(self, wanted, part, tell).run()
        except (ForbiddenError, TransientError) as refused:
            raise DataError(f"{wanted.label}: {refused} ({without_secrets(wanted.url)})") from None
        except OSError as error:
            raise DataError(f"{wanted.label}: {wanted.target} cannot be written: {error.strerror}") from None


class _Job:
    def __init__(
        self, downloader: Downloader, wanted: Wanted, part: Part, tell: Callable[[int, int | None], None]
    ) -> None:
        self._how, self._wanted, self._part, self._tell = downloader, wanted, part, tell
        self._pace = downloader.pace
        self._deadline = time.monotonic() + self._pace.whole_s
        self._may_be_mixed = part.size > 0
        """Whether it came in pieces, between which it may have changed unseen."""
        self._may_be_cut = False
        """Whether the end of the connection was the only sign of its end."""
        self._restarted = False

    def run(self) -> Arrived:
        failures, furthest = 0, self._part.size
        while True:
            try:
                if self._part.total is None or self._part.size != self._part.total:
                    self._attempt()
            except StaleError:
                self._part.begin("", None)
            except TransientError as error:
                has_gained = self._part.size - furthest >= self._pace.progress_bytes
                failures = 1 if has_gained else failures + 1
                furthest = self._part.size if has_gained else furthest
                self._wait(error, failures)
                self._may_be_mixed = True
            else:
                arrived = Arrived(self._part.sha256, self._part.size)
                if self._is_accepted(arrived):
                    self._part.finish()
                    return arrived

    def _attempt(self) -> None:
        part, headers = self._part, {}
        if part.size and part.validator:
            headers = {"Range": f"bytes={part.size}-", "If-Range": part.validator}
        elif part.size:
            part.begin("", None)
        transfer = Transfer(self._pace, self._deadline, self._how.stop)
        try:
            with self._how.web.get(self._wanted.url, headers, transfer) as answer:
                self._receive(answer)
        except TransientError:
            part.sync()
            raise

    def _receive(self, answer: Answer) -> None:
        part = self._part
        body = read_answer(answer, self._wanted.target.name, part.size, part.validator)
        self._check_length(answer, body)
        if not body.begin:
            part.begin(body.validator, body.total)
        self._may_be_cut = not answer.marks_its_end
        for block in answer.blocks():
            part.append(block)
            self._check_size(part.size)
            self._tell(part.size, body.total)

    def _check_length(self, answer: Answer, body: Body) -> None:
        expected = self._wanted.expected
        if body.total is not None:
            self._check_size(body.total)
            if expected and expected.bytes not in (None, body.total):
                raise ForbiddenError(f"it has {body.total:,} bytes now, {expected.by} says {expected.bytes:,}")
            missing = body.total - body.begin
            if missing > (free := shutil.disk_usage(self._wanted.target.parent).free):
                raise OSError(errno.ENOSPC, f"{missing:,} bytes are still to come, there is room for {free:,}")
        elif not answer.marks_its_end and expected is None:
            raise TransientError("the server does not say where it ends, so it could be cut short: give its sha256")

    def _check_size(self, size: int) -> None:
        if size > self._how.max_bytes:
            self._part.discard()
            raise ForbiddenError(f"it has more than {self._how.max_bytes:,} bytes (--max-gb)")

    def _is_accepted(self, arrived: Arrived) -> bool:
        """Whether it is what it must be; False to try once more from the start. Raises `ForbiddenError`."""
        expected = self._wanted.expected
        if expected is None:
            return True
        if expected.sha256 in (None, arrived.sha256) and expected.bytes in (None, arrived.bytes):
            return True
        if (self._may_be_mixed or self._may_be_cut) and not self._restarted:
            self._restarted = True
            self._part.begin("", None)
            return False
        self._part.discard()
        raise ForbiddenError(
            f"it is not what it must be: sha256 {arrived.sha256}, {arrived.bytes:,} bytes; {expected.by} says "
            f"{f'sha256 {expected.sha256}' if expected.sha256 else f'{expected.bytes:,} bytes'}"
        )

    def _wait(self, error: TransientError, failures: int) -> None:
        wait = min(self._pace.wait_s * 2 ** (failures - 1), self._pace.max_wait_s)
        if error.wait_s is not None:
            wait = min(error.wait_s, self._pace.max_wait_s)
        if failures >= self._pace.attempts:
            raise TransientError(f"{error} ({failures} attempts); the same command goes on where it ended")
        if time.monotonic() + wait > self._deadline or self._how.stop.wait(wait):
            raise TransientError(f"{error}; the same command goes on where it ended")
