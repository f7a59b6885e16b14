"""What did a run report, and when? Two append-only files in its folder, which are the truth about it.

``metrics.jsonl`` has one object a line: ``{"step": 10, "time": 1767225600000, "train/loss": 4.2}``, the time in
milliseconds since 1970 (UTC). A value that is not finite is null, because JSON knows neither NaN nor Infinity.
``events.jsonl`` has one object a line for what happens to the run: ``{"kind": "start", "time": …, …,
"metrics_bytes": 0}``. ``metrics_bytes`` is the size of ``metrics.jsonl`` at that moment: it puts the lines of
both files in one order.
"""

import fcntl
import functools
import json
import logging
import math
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from mypt_dist.errors import ConfigError
from mypt_dist.tracking.lines import LineWriter, Write, read_lines
from mypt_dist.tracking.redact import without_url_secrets
from mypt_dist.world import JSON

log = logging.getLogger(__name__)

METRICS: Final = "metrics.jsonl"
EVENTS: Final = "events.jsonl"
_OWN_KEYS: Final = frozenset({"step", "time"})
WAITING_LINES: Final = 10_000
"""Lines that are kept in memory while the disk does not take them, some megabytes: hours of training with the usual
settings. Then the oldest rows are dropped, because what is newest says how the run is doing."""


class Journal:
    """The journal of one run, written by its main rank. Usable from several threads."""

    def __init__(self, run_dir: Path, *, clock: Callable[[], float] = time.time, write: Write = os.write) -> None:
        """Open or continue the journal in ``run_dir``; a line torn by a crash is cut off.

        ``clock`` gives seconds since 1970, ``write`` stands in for `os.write` in tests.
        Raises `ConfigError` where the folder cannot be written: the one moment when that is the user's business.
        """
        self._clock = clock
        self._mutex = threading.Lock()
        self._failing = False
        self._closed = False
        self._waiting: deque[tuple[LineWriter, Mapping[str, Any]]] = deque()
        self.lost = 0
        """Lines that were dropped because they could not be written. Later events say how many, as ``lines_lost``."""
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            self._metrics = LineWriter(run_dir / METRICS, write)
            self._events = LineWriter(run_dir / EVENTS, write)
        except OSError as error:
            raise ConfigError(f"the run folder {run_dir} cannot be written: {error.strerror}") from None
        _sign_of_life(self._events.fd)
        # A forked child would keep the sign of life after its parent's death.
        os.register_at_fork(after_in_child=functools.partial(_close, weakref.ref(self)))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one row. Never raises because of the disk: the line waits in memory and training goes on.

        Raises ValueError for a metric called ``step`` or ``time``.
        """
        if not _OWN_KEYS.isdisjoint(metrics):
            raise ValueError(f"no metric can be called {' or '.join(sorted(_OWN_KEYS))}")
        row = {"step": step, "time": self._now(), **{name: _finite(value) for name, value in metrics.items()}}
        with self._mutex:
            self._append(self._metrics, row)

    def event(self, kind: str, **fields: JSON) -> None:
        """Append an event and put both files on the disk. Never raises because of it, as `log`.

        The kinds that trackers understand, and their fields, stand in docs/concepts/tracking.md.
        URLs lose user, password and query.
        """
        with self._mutex:
            # Rows first: an event must not outlive in a power cut the rows before it.
            with suppress(OSError):
                self._metrics.sync()
            self._append(self._events, {"kind": kind, "time": self._now(), **without_url_secrets(fields)})
            with suppress(OSError):
                self._events.sync()

    def close(self) -> None:
        """Close both files; a second call does nothing. What the disk still does not take is lost."""
        with self._mutex:
            if not self._closed:
                self._write_waiting()
                self.lost += len(self._waiting)
                if self._waiting:
                    log.warning("the run's journal ends without its last %d lines: no disk took them", self.lost)
            self._closed = True
            self._metrics.close()
            self._events.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _now(self) -> int:
        return int(self._clock() * 1000)

    def _append(self, writer: LineWriter, record: Mapping[str, Any]) -> None:
        if self._closed:
            self.lost += 1
            return
        self._waiting.append((writer, record))
        self._write_waiting()
        if len(self._waiting) > WAITING_LINES:
            self._drop_oldest()

    def _write_waiting(self) -> None:
        """Write what waits, in its order, until the disk takes no more."""
        try:
            while self._waiting:
                writer, record = self._waiting[0]
                writer.append(self._line(writer, record))
                self._waiting.popleft()
        except OSError as error:
            if not self._failing:
                log.warning(
                    "the run's journal cannot be written (%s): training goes on, the newest %d lines wait in memory",
                    error.strerror,
                    WAITING_LINES,
                )
            self._failing = True
        else:
            if self._failing:
                log.warning("the run's journal can be written again; %d lines were lost", self.lost)
            self._failing = False

    def _line(self, writer: LineWriter, record: Mapping[str, Any]) -> bytes:
        if writer is self._events:
            # Known only now: rows that waited with the event stand before it.
            record = {**record, "metrics_bytes": self._metrics.end}
            record |= {"lines_lost": self.lost} if self.lost else {}
        return json.dumps(record, allow_nan=False).encode() + b"\n"

    def _drop_oldest(self) -> None:
        """The oldest row, or where nothing but events waits the oldest of them: they are few, and say what happened."""
        oldest = next((number for number, (writer, _) in enumerate(self._waiting) if writer is self._metrics), 0)
        del self._waiting[oldest]
        self.lost += 1


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of a run by step, one for each, with ``step``, ``time`` and the metrics (float, int or None).

    Where a step was logged more than once, its metrics are put together and the last value of each wins: what
    was logged after a resume supersedes what the interrupted attempt logged. Lines that are no rows are counted
    and skipped. Raises `ConfigError` where the folder has no journal.
    """
    path = run_dir / METRICS
    if not path.is_file():
        raise ConfigError(f"{run_dir} is not the folder of a run: it has no {METRICS}")
    rows: dict[int, dict[str, Any]] = {}
    broken = 0
    for line, _ in read_lines(path):
        row = parse_row(line)
        if row is None:
            broken += 1
        else:
            rows.setdefault(row["step"], {}).update(row)
    if broken:
        log.warning("%s: %d lines are not readable and were skipped", path, broken)
    return [rows[step] for step in sorted(rows)]


def read_events(run_dir: Path) -> list[dict[str, Any]]:
    """The events of a run in the order in which they happened; unreadable lines are skipped."""
    parsed = (parse_object(line) for line, _ in read_lines(run_dir / EVENTS))
    return [event for event in parsed if event is not None]


def parse_row(line: bytes) -> dict[str, Any] | None:
    """The row in a line of ``metrics.jsonl``, or None where it is none."""
    row = parse_object(line)
    if row is None or not all(type(row.get(key)) is int for key in _OWN_KEYS):
        return None
    return row


def parse_object(line: bytes) -> dict[str, Any] | None:
    """The JSON object in a line, or None where it is none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def is_being_written(run_dir: Path) -> bool | None:
    """Whether a living process has the journal open; None where the file system cannot tell."""
    try:
        fd = os.open(run_dir / EVENTS, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(fd)
    return False


def _sign_of_life(fd: int) -> None:
    """Hold a lock that the kernel lets go of when the process is gone, however it goes."""
    for _ in range(5):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)  # `is_being_written` holds it for an instant
        except OSError:
            return
        else:
            return


def _close(journal: "weakref.ref[Journal]") -> None:
    if (open_journal := journal()) is not None:
        open_journal._metrics.close()
        open_journal._events.close()


def _finite(value: float) -> float | None:
    number = int(value) if isinstance(value, int) else float(value)  # a count stays whole in the file
    return number if math.isfinite(number) else None
