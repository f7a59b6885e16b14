"""What is sent next, and when does it count as sent? The journal, in its order, every point once.

A batch is sent first and the cursor moves after it. Dying in between repeats the batch, with the time stamps
of the journal: an SQL store of MLflow has the metric's name, time, step and value as its primary key and keeps
one. Nothing but the journal decides what is sent, so it does not matter when and how often the sender died.
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mypt_dist.tracking.journal import EVENTS, METRICS, parse_object, parse_row
from mypt_dist.tracking.lines import is_line_start, read_lines
from mypt_dist.tracking.mlflow_sender.happenings import Scene, send_file, tag, tell
from mypt_dist.tracking.mlflow_sender.payload import MAX_POINTS, Point
from mypt_dist.tracking.mlflow_sender.redone import GOES_BACK, Redone
from mypt_dist.tracking.mlflow_sender.remote import RUN_UID, Refused, Remote, RemoteRun, RunGone, Unreachable
from mypt_dist.tracking.mlflow_sender.state import SenderState, write_state
from mypt_dist.tracking.redact import scrub

log = logging.getLogger(__name__)

RESUME_COUNT = "mypt.resume_count"
MIN_POINTS = 25
"""A batch is halved when it fails, for a server so slow that a full one takes longer than the time-out."""


class Shipper:
    """Ships one run's journal to one store, piece by piece."""

    def __init__(self, run_dir: Path, remote: Remote, state: SenderState, session: int | None) -> None:
        """``session`` is the size in bytes of the events when the trainer started; None where none is at work."""
        self.state = state
        self._run_dir = run_dir
        self._remote = remote
        self._session = session
        self._attached = False
        self._redone = Redone({})
        self._failures: dict[str, int] = {}
        self._limit = MAX_POINTS

    def step(self) -> bool:
        """Send one piece; whether there was one. Raises `Unreachable`: the same piece is sent by the next call."""
        # The size is taken before the event is looked for: no row before it can belong after an unseen event.
        size = _size(self._run_dir / METRICS)
        pending = self._next_event() is not None or size > self.state.metrics
        try:
            if not self._attached and (pending or self.state.run_id is not None):
                self._attach()
            event = self._next_event()
            horizon = size if event is None else event[0]["metrics_bytes"]
            if self._ship_rows(horizon):
                return True
            if event is not None:
                self._ship_event(*event)
                return True
        except RunGone as error:
            # Back-off first: a run that vanishes as soon as it is made must not be made without end.
            self._attached = False
            raise Unreachable(str(error)) from error
        return False

    def has_ended(self) -> bool:
        """Whether the end of this session is sent; that of an earlier one stands before its beginning."""
        return self.state.ended is not None and self.state.events > (self._session or 0)

    def close_as_killed(self) -> None:
        """Say that the trainer vanished without saying why. Raises `Unreachable`."""
        if not self._attached or self.state.ended is not None:
            return
        log.info("the trainer is gone and left no word: the run is KILLED")
        try:
            tag(self._scene(), {"mypt.status": "killed", "mypt.reason": "the process is gone and left no word"})
            self._remote.close(self._run_id(), "KILLED", self.state.last_time)
            self._drop_ghosts()
            self._save(self.state.model_copy(update={"ended": "killed"}))
        except RunGone as error:
            raise Unreachable(str(error)) from error

    def retry_skipped(self) -> None:
        """Send once more the files that the store would not take. Raises `Unreachable`."""
        try:
            self._save(self._retried(self.state))
        except RunGone as error:
            raise Unreachable(str(error)) from error

    def remember(self, error: str | None) -> None:
        """Note why the last request failed, for whoever asks."""
        if error != self.state.error:
            self._save(self.state.model_copy(update={"error": error}))

    def _attach(self) -> None:
        """Find the run in the store, or make it."""
        self._check_cursor()
        run = self._find()
        if run is None:
            run = self._create()
        elif run.run_id != self.state.run_id:
            self._save(self.state.from_the_beginning().model_copy(update={"run_id": run.run_id}))
        if run.tags.get(RUN_UID) != self.state.run_uid:
            self._adopt(run)
        if self._session is not None and not self.has_ended() and run.status != "RUNNING":
            self._remote.reopen(run.run_id)
            self._save(self.state.model_copy(update={"ended": None}))
        self._redone = Redone.before(self._run_dir, self.state.events)
        self._attached = True

    def _check_cursor(self) -> None:
        """A power cut may take away lines that were shipped. What comes in their place must not be missed."""
        at = {METRICS: self.state.metrics, EVENTS: self.state.events}
        if not all(is_line_start(self._run_dir / name, offset) for name, offset in at.items()):
            log.warning("the journal is shorter than what was sent of it: sending it from its beginning")
            self._save(self.state.from_the_beginning())

    def _find(self) -> RemoteRun | None:
        if self.state.run_id is not None:
            try:
                return self._remote.get(self.state.run_id)
            except RunGone:
                log.info("run %s is not in this store, or it was deleted", self.state.run_id)
        found = self._remote.find(self.state.run_uid)
        return next((run for run in found if not run.is_empty), found[0] if found else None)

    def _create(self) -> RemoteRun:
        tags = {RUN_UID: self.state.run_uid, "mypt.status": "running"}
        if self.state.run_id is not None:
            tags["mypt.resumed_from"] = self.state.run_id
        # Without its id on the disk, a run whose creation goes unanswered would never be found again.
        self._write(self.state)
        run_id = self._remote.create(self.state.run_name, tags, self._first_time())
        self._save(self.state.from_the_beginning().model_copy(update={"run_id": run_id}))
        return RemoteRun(run_id, "RUNNING", tags=tags)

    def _adopt(self, run: RemoteRun) -> None:
        """Go on with a run that another journal began, as a checkpoint on another machine does."""
        if RUN_UID not in run.tags:
            tag(self._scene(), {RUN_UID: self.state.run_uid})
        count = run.tags.get(RESUME_COUNT, "")
        before = int(count) if count.isdecimal() else 0
        uid = run.tags.get(RUN_UID, self.state.run_uid)
        self._save(self.state.model_copy(update={"run_uid": uid, "resumes": before, "resumes_before": before}))

    def _drop_ghosts(self) -> None:
        """Delete what a request to create left behind whose answer never came."""
        for run in self._remote.find(self.state.run_uid):
            if run.run_id != self.state.run_id and run.is_empty:
                self._remote.delete(run.run_id)

    def _ship_rows(self, horizon: int) -> bool:
        batch, end, last_time = self._next_rows(horizon)
        if end == self.state.metrics:
            return False
        self._send(batch)
        update = {"metrics": end, "points": self.state.points + len(batch), "last_time": last_time}
        self._save(self.state.model_copy(update=update))
        return True

    def _next_rows(self, horizon: int) -> tuple[list[Point], int, int]:
        """Points of whole rows, the offset after them and the newest time."""
        batch: list[Point] = []
        end, last_time = self.state.metrics, self.state.last_time
        for line, after in read_lines(self._run_dir / METRICS, end, horizon):
            row = parse_row(line)
            found = self._redone.new_points(row) if row is not None else []
            if batch and len(batch) + len(found) > self._limit:
                break
            batch += found
            end = after
            last_time = max(last_time, row["time"] if row is not None else 0)
        return batch, end, last_time

    def _send(self, batch: Sequence[Point]) -> None:
        try:
            for start in range(0, len(batch), self._limit):
                self._send_all_that_is_taken(batch[start : start + self._limit])
        except Unreachable:
            self._limit = max(MIN_POINTS, self._limit // 2)
            raise
        self._limit = min(MAX_POINTS, 2 * self._limit)

    def _send_all_that_is_taken(self, batch: Sequence[Point]) -> None:
        """One bad point must neither stop the run's numbers for ever nor take its neighbours with it."""
        try:
            self._remote.log_points(self._run_id(), batch)
        except Refused as error:
            if len(batch) == 1:
                log.warning("the store does not take %s at step %d: %s", batch[0].key, batch[0].step, scrub(str(error)))
                return
            middle = len(batch) // 2
            self._send_all_that_is_taken(batch[:middle])
            self._send_all_that_is_taken(batch[middle:])

    def _next_event(self) -> tuple[dict[str, Any], int] | None:
        """The next event and the offset after it; lines that are none are passed over."""
        for line, after in read_lines(self._run_dir / EVENTS, self.state.events):
            event = parse_object(line)
            if event is not None and isinstance(event.get("metrics_bytes"), int):
                return event, after
        return None

    def _ship_event(self, event: dict[str, Any], after: int) -> None:
        if event.get("kind") in GOES_BACK:
            self._redone = Redone.before(self._run_dir, after)
        state = tell(event, self._scene(), self.state)
        when = event.get("time")
        last_time = max(state.last_time, when if isinstance(when, int) else 0)
        if event.get("kind") == "finish":
            self._drop_ghosts()
            state = self._retried(state)
        self._save(state.model_copy(update={"events": after, "last_time": last_time}))

    def _retried(self, state: SenderState) -> SenderState:
        for name in state.skipped:
            state = send_file(self._scene(), state, name)
        return state

    def _first_time(self) -> int:
        """Milliseconds since 1970 of the journal's first line."""
        for name in (EVENTS, METRICS):
            for line, _ in read_lines(self._run_dir / name):
                when = (parse_object(line) or {}).get("time")
                if isinstance(when, int):
                    return when
        return int(time.time() * 1000)

    def _scene(self) -> Scene:
        return Scene(self._remote, self._run_id(), self._run_dir, self._redone, self._failures)

    def _run_id(self) -> str:
        assert self.state.run_id is not None, "nothing is sent before the run is found or made"
        return self.state.run_id

    def _save(self, state: SenderState) -> None:
        """Remember. Where the disk is full the memory has to do: what a crash forgets is sent again."""
        self.state = state
        try:
            write_state(self._run_dir, state)
        except OSError as error:
            log.warning("the sender's state cannot be written: %s", error.strerror)

    def _write(self, state: SenderState) -> None:
        try:
            write_state(self._run_dir, state)
        except OSError as error:
            raise Unreachable(f"the sender's state cannot be written: {error.strerror}") from error


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
