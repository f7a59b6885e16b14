"""The sender process of one run: reads its settings from standard input, ships, exits 0 if all was sent."""

import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mypt_dist.lifeline import is_readable, leave_stopping_to_the_rank
from mypt_dist.tracking.journal import is_being_written
from mypt_dist.tracking.mlflow_sender.lock import sole_sender
from mypt_dist.tracking.mlflow_sender.loop import POLL_S, Loop
from mypt_dist.tracking.mlflow_sender.settings import Settings, environment
from mypt_dist.tracking.mlflow_sender.ship import Shipper
from mypt_dist.tracking.mlflow_sender.state import write_state
from mypt_dist.tracking.redact import scrub

log = logging.getLogger("mypt_dist.tracking.mlflow_sender")

NICENESS = 10
"""Training comes first."""


class ParentProcess:
    """The trainer, as seen by the child that it started: its process id, and the pipe that it holds open."""

    def __init__(self, run_dir: Path, pid: int, pipe: int) -> None:
        """``pipe`` is the file descriptor on which nothing more arrives but its end."""
        self._run_dir = run_dir
        self._pid = pid
        self._pipe = pipe
        self._hung_up = False

    def is_done(self) -> bool:
        """Whether it died or closed the pipe."""
        self.wait(0)
        return self._hung_up or self._is_dead()

    def has_successor(self) -> bool:
        """Whether it is dead and yet the journal is open: for the next trainer."""
        return self._is_dead() and is_being_written(self._run_dir) is True

    def wait(self, seconds: float) -> None:
        """Sleep, but wake up when the pipe is closed."""
        if self._hung_up:
            time.sleep(seconds)
        elif is_readable(self._pipe, seconds):
            self._hung_up = not os.read(self._pipe, 1024)

    def _is_dead(self) -> bool:
        # Another process is our parent then. The pipe alone does not tell: a child of the trainer may hold it open.
        return os.getppid() != self._pid


class ScrubbingFormatter(logging.Formatter):
    """Takes the secrets out of URLs, wherever in a message or traceback they stand."""

    def format(self, record: logging.LogRecord) -> str:
        return scrub(super().format(record))


def main(run_dir: Path) -> int:
    """Ship the journal in ``run_dir``; the exit code of the process."""
    settings = Settings.model_validate_json(sys.stdin.readline())
    # Whoever stops the trainer may stop everything around it; its end is yet to be reported.
    leave_stopping_to_the_rank()
    os.nice(NICENESS)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(ScrubbingFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    trainer = ParentProcess(run_dir, settings.trainer_pid, sys.stdin.fileno())
    with sole_sender(run_dir, _patience(trainer, settings.drain_s, time.monotonic)) as is_ours:
        return 0 if is_ours and _ship(run_dir, settings, trainer) else 1


def _patience(trainer: ParentProcess, drain_s: float, clock: Callable[[], float]) -> Callable[[], bool]:
    """Wait for the sender of an earlier trainer as long as our own trains, and ``drain_s`` seconds longer."""
    deadline: float | None = None

    def wait() -> bool:
        nonlocal deadline
        if deadline is None and trainer.is_done():
            deadline = clock() + drain_s
        trainer.wait(POLL_S / 2)
        return deadline is None or clock() < deadline

    return wait


def _ship(run_dir: Path, settings: Settings, trainer: ParentProcess) -> bool:
    # Before mlflow is imported, which takes seconds: from here on `sync` knows where to send.
    state = settings.state(run_dir)
    write_state(run_dir, state)
    uri, variables = environment(settings.uri)
    os.environ.update(variables)
    from mypt_dist.tracking.mlflow_sender.mlflow_store import MlflowStore  # noqa: PLC0415 - imports mlflow

    log.info("shipping %s to %s, experiment %s", run_dir, state.uri, state.experiment)
    store = MlflowStore(uri, settings.experiment)
    shipper = Shipper(run_dir, store, state, settings.events_before)
    everything = Loop(shipper, trainer, settings.drain_s, time.monotonic).run()
    log.info("everything is sent" if everything else "gave up; what is missing can be sent by mypt runs sync")
    return everything


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
