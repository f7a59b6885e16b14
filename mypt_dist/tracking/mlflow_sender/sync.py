"""Can what a run's sender could not send be sent now? The foreground replay behind ``mypt runs sync``."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from mypt_dist.errors import ConfigError, LockError
from mypt_dist.tracking.journal import EVENTS, METRICS, is_being_written
from mypt_dist.tracking.mlflow_sender.lock import sole_sender
from mypt_dist.tracking.mlflow_sender.loop import Loop
from mypt_dist.tracking.mlflow_sender.remote import Remote, Unreachable
from mypt_dist.tracking.mlflow_sender.settings import URI_VARIABLE, environment, resolve_uri
from mypt_dist.tracking.mlflow_sender.ship import Shipper
from mypt_dist.tracking.mlflow_sender.state import SenderState, read_state
from mypt_dist.tracking.redact import scrub, without_secrets
from mypt_dist.world import JSON


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What one `sync` did."""

    uri: str
    """The store, without user, password and query."""
    run_id: str | None
    points: int
    """Metric values sent by this call."""
    complete: bool
    """Whether nothing is left to send."""
    status: str | None
    """How the run ended, as its tag ``mypt.status`` says; None while it goes on."""
    skipped: tuple[str, ...]
    """Files that the store does not take."""
    error: str | None
    """Why it is not complete."""

    def to_json(self) -> dict[str, JSON]:
        """The fields by name."""
        return {**asdict(self), "skipped": list(self.skipped)}

    def __str__(self) -> str:
        done = "everything is there" if self.complete else f"not everything is there yet: {self.error or 'try again'}"
        left = f"; not taken: {', '.join(self.skipped)}" if self.skipped else ""
        return f"{self.points:,} values sent to {self.uri}, run {self.run_id or '-'}: {done}{left}"


def sync(run_dir: Path, uri: str | None = None, *, timeout_s: float = 60.0) -> SyncReport:
    """Send what is unsent of the run in ``run_dir``, trying for ``timeout_s`` seconds if the store fails.

    Without ``uri`` it goes where the run's sender was to send it. A run whose trainer is gone without a word is
    closed as KILLED. Raises `ConfigError` where the folder has no journal, `LockError` while
    the run's own sender is at work.
    """
    if not any((run_dir / name).is_file() for name in (METRICS, EVENTS)):
        raise ConfigError(f"{run_dir} is not the folder of a run: it has no {METRICS}")
    state = read_state(run_dir) or SenderState(experiment="mypt", run_name=run_dir.resolve().name)
    address = resolve_uri(uri or kept_uri(state))
    state = state.model_copy(update={"uri": without_secrets(address)})
    with sole_sender(run_dir, lambda: False) as is_ours:
        if not is_ours:
            raise LockError(f"the sender of {run_dir} is at work and sends everything itself")
        client_uri, variables = environment(address)
        with with_environment(variables):
            from mypt_dist.tracking.mlflow_sender.mlflow_store import MlflowStore  # noqa: PLC0415 - imports mlflow

            return replay(run_dir, MlflowStore(client_uri, state.experiment), state, timeout_s)


def replay(
    run_dir: Path, remote: Remote, state: SenderState, timeout_s: float, clock: Callable[[], float] = time.monotonic
) -> SyncReport:
    """Send to ``remote`` what ``state`` says is unsent; the work of `sync`."""
    shipper = Shipper(run_dir, remote, state, session=None)
    before = state.points
    complete = Loop(shipper, _Absent(run_dir), timeout_s, clock).run()
    try:
        if complete:
            shipper.retry_skipped()
    except Unreachable as error:
        shipper.remember(scrub(str(error)))
    after = shipper.state
    sent = after.points - (before if after.run_id == state.run_id else 0)
    return SyncReport(after.uri, after.run_id, sent, complete, after.ended, after.skipped, after.error)


class _Absent:
    """The trainer of a run that is synced: it started nobody, so it counts as done."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir

    def is_done(self) -> bool:
        return True

    def has_successor(self) -> bool:
        # Where locks do not tell, the run may be alive: then it is not called dead.
        return is_being_written(self._run_dir) is not False

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)


def kept_uri(state: SenderState) -> str | None:
    """The store that the run's sender used. Its password was not kept, but may be in the environment again."""
    variable = os.environ.get(URI_VARIABLE)
    if variable and without_secrets(variable) == state.uri:
        return variable
    return state.uri or None


@contextmanager
def with_environment(variables: dict[str, str]) -> Iterator[None]:
    """With these variables meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
