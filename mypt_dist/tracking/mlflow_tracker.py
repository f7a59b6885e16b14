"""How does a run report to MLflow without ever waiting for it? The part that lives in the training process.

It starts the sender (`mypt_dist.tracking.mlflow_sender`), asks a file how far that is, and does nothing else:
mlflow, whose import alone takes seconds, is not loaded here.
"""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, field_validator

from mypt_dist.redact import is_secret_name
from mypt_dist.tracking import TRACKERS, Tracker, TrackerConfig
from mypt_dist.tracking.journal import EVENTS
from mypt_dist.tracking.mlflow_sender.settings import Settings, resolve_uri
from mypt_dist.tracking.mlflow_sender.state import FOLDER, LOG, read_state
from mypt_dist.tracking.mlflow_sender.sync import SyncReport, sync
from mypt_dist.tracking.redact import without_secrets

__all__ = ["MlflowConfig", "MlflowTracker", "SyncReport", "sync"]

log = logging.getLogger(__name__)

RESTART_S = 60.0
"""A sender that dies is started again at most so often, in seconds."""


@TRACKERS.register
class MlflowConfig(TrackerConfig):
    """Ships the journal to MLflow from a process of its own."""

    type: Literal["mlflow"] = "mlflow"
    uri: str | None = None
    """The tracking server or database. Without it: MLFLOW_TRACKING_URI, or else mlflow.db in the current folder."""
    experiment: str = Field(default="mypt", min_length=1, max_length=500)
    """MLflow's folder for runs that belong together; created where it is missing."""
    run_name: str | None = Field(default=None, min_length=1, max_length=250)
    """The run's name in MLflow. Without it: the name of the run."""
    flush_timeout_s: float = Field(default=30.0, ge=0)
    """Seconds that a run which has ended waits for what is unsent."""

    @field_validator("uri")
    @classmethod
    def _is_a_store(cls, uri: str | None) -> str | None:
        if uri is None:
            return None
        if _has_secrets(uri):
            raise ValueError(
                "has a user or password in it, and run files are copied into checkpoints: give the whole address in "
                "MLFLOW_TRACKING_URI, or the user in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        if uri != "databricks" and urlsplit(uri).scheme in ("", "file"):
            instead = f"sqlite:///{urlsplit(uri).path.rstrip('/')}/mlflow.db"
            raise ValueError(f"is a folder, which MLflow 3 no longer writes to: use {instead}, got {uri!r}")
        return uri

    def build(self) -> Tracker:
        return MlflowTracker(self)


def _has_secrets(uri: str) -> bool:
    if without_secrets(uri) == uri:
        return False
    parts = urlsplit(uri)
    return "@" in parts.netloc or any(is_secret_name(name) for name, _ in parse_qsl(parts.query))


class MlflowTracker:
    """Keeps one sender process at work."""

    def __init__(self, config: MlflowConfig, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` is in seconds."""
        self._config = config
        self._clock = clock
        self._run_dir = Path()
        self._settings: Settings | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0

    def start(self, run_dir: Path, name: str, known_ids: Mapping[str, str]) -> None:
        """Start the sender. Takes as long as starting a process; the first request is made seconds later."""
        self._run_dir = run_dir.absolute()
        events = self._run_dir / EVENTS
        self._settings = Settings(
            uri=resolve_uri(self._config.uri),
            experiment=self._config.experiment,
            run_name=self._config.run_name or name,
            known_run_id=known_ids.get("mlflow"),
            trainer_pid=os.getpid(),
            drain_s=self._config.flush_timeout_s,
            events_before=events.stat().st_size if events.is_file() else 0,
        )
        self._spawn()

    def ids(self) -> dict[str, str]:
        """MLflow's run id, once the sender has one. A sender that died is started again."""
        self._revive()
        state = read_state(self._run_dir)
        return {"mlflow": state.run_id} if state is not None and state.run_id is not None else {}

    def where(self) -> str:
        """The address of a server, or the command that serves a database."""
        uri = without_secrets(self._settings.uri if self._settings else resolve_uri(self._config.uri))
        if urlsplit(uri).scheme in ("http", "https", ""):
            return uri
        return f"mlflow ui --backend-store-uri {uri}"

    def finish(self) -> str | None:
        """Wait for the sender, at most ``flush_timeout_s`` seconds; then it is killed, which does no harm."""
        if self._settings is None:
            return None
        if self._process is None or self._process.poll() not in (None, 0):
            self._spawn()
        if self._process is None or not self._has_sent_all(self._process):
            return self._what_is_left()
        return None

    def _has_sent_all(self, process: "subprocess.Popen[bytes]") -> bool:
        _hang_up(process)
        try:
            return process.wait(self._config.flush_timeout_s) == 0
        except subprocess.TimeoutExpired:
            # What is sent is noted after it is sent, so nothing gets lost or doubled.
            process.kill()
            process.wait()
            return False

    def _what_is_left(self) -> str:
        state = read_state(self._run_dir)
        uri = without_secrets(self._settings.uri) if self._settings else ""
        reason = f" ({state.error})" if state is not None and state.error is not None else ""
        return (
            f"MLflow at {uri} has not got everything{reason}. Nothing is lost; "
            f"send it later with: mypt runs sync {self._run_dir}"
        )

    def _revive(self) -> None:
        """A sender that was killed or crashed is replaced; one that has sent everything is not."""
        if self._settings is None or self._clock() - self._started < RESTART_S:
            return
        if self._process is None or self._process.poll() not in (None, 0):
            log.warning("the MLflow sender died (see %s) and is started again", self._run_dir / FOLDER / LOG)
            self._spawn()

    def _spawn(self) -> None:
        assert self._settings is not None, "started before"
        if self._process is not None:
            _hang_up(self._process)
        self._started = self._clock()
        folder = self._run_dir / FOLDER
        command = [sys.executable, "-m", "mypt_dist.tracking.mlflow_sender", str(self._run_dir)]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / LOG).open("ab") as output:
                # A session of its own: a signal for the trainer's process group is not for the sender.
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
                )
            self._process = process
            assert process.stdin is not None, "it is a pipe"
            # The pipe stays open: its end tells the sender that no more will come.
            process.stdin.write(json.dumps(self._settings.model_dump()).encode() + b"\n")
            process.stdin.flush()
        except OSError as error:
            log.warning("the MLflow sender cannot be started (%s): the journal keeps the numbers", error)


def _hang_up(process: "subprocess.Popen[bytes]") -> None:
    """Tell the sender that no more will come."""
    try:
        if process.stdin is not None:
            process.stdin.close()
    except BrokenPipeError:
        log.debug("the sender is gone already")
