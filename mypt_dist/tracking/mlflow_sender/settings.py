"""What does the trainer tell its sender, and where is the store?"""

import os
import re
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

from mypt_dist.config import Config
from mypt_dist.tracking.mlflow_sender.state import SenderState, read_state
from mypt_dist.tracking.redact import without_secrets

URI_VARIABLE: Final = "MLFLOW_TRACKING_URI"
_QUIET: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    # The sender repeats requests itself. A client that repeats one to create a run makes a second run.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
}


class Settings(Config):
    """One line of JSON on the sender's standard input: neither `ps` nor a file shows what is in the URI."""

    uri: str
    """As MLflow takes it, user and password included."""
    experiment: str
    run_name: str
    known_run_id: str | None
    """The run that the checkpoint belongs to which the trainer resumes from."""
    trainer_pid: int
    drain_s: float
    """Seconds that the sender goes on trying after its trainer is done."""
    events_before: int
    """Bytes of ``events.jsonl`` when the trainer started."""

    def state(self, run_dir: Path) -> SenderState:
        """Where the sender of this run starts: what an earlier one left, or nothing."""
        known = read_state(run_dir) or SenderState(run_id=self.known_run_id)
        now = {"uri": without_secrets(self.uri), "experiment": self.experiment, "run_name": self.run_name}
        return known.model_copy(update=now)


def resolve_uri(uri: str | None) -> str:
    """The store to use: the given one, or ``MLFLOW_TRACKING_URI``, or ``mlflow.db`` in the current folder.

    A relative SQLite path becomes absolute, because a later `sync` may stand in another folder.
    """
    found = uri or os.environ.get(URI_VARIABLE) or "sqlite:///mlflow.db"
    relative = re.fullmatch(r"sqlite:///(?!/)(?!:memory:)([^?]+)(.*)", found)
    return f"sqlite:///{Path(relative[1]).absolute()}{relative[2]}" if relative else found


def environment(uri: str) -> tuple[str, dict[str, str]]:
    """``uri`` as to be given to MLflow's client, and the environment variables to give with it.

    The user and password of an HTTP address travel as variables, for MLflow writes addresses into its messages.
    """
    parts = urlsplit(uri)
    user, has_user, host = parts.netloc.rpartition("@")
    if parts.scheme not in ("http", "https") or not has_user:
        return uri, dict(_QUIET)
    name, _, password = user.partition(":")
    credentials = {"MLFLOW_TRACKING_USERNAME": unquote(name), "MLFLOW_TRACKING_PASSWORD": unquote(password)}
    return urlunsplit(parts._replace(netloc=host)), {**_QUIET, **credentials}
