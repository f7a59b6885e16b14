"""The record of a run on its main rank: journal, trackers and a true final status. Other ranks keep none."""

import json
import logging
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mypt_dist.checkpoint import Checkpoint
from mypt_dist.data.course import End
from mypt_dist.engine import Engine
from mypt_dist.errors import ConfigError, MyptError
from mypt_dist.redact import without_url_secrets
from mypt_dist.run.config import RunConfig
from mypt_dist.run.data import RunData
from mypt_dist.run.provenance import code_version
from mypt_dist.run.resume import flatten
from mypt_dist.tracking import Tracker
from mypt_dist.tracking.journal import Journal
from mypt_dist.tracking.system import SystemSampler
from mypt_dist.training.answers import Answers
from mypt_dist.training.signals import Wish
from mypt_dist.training.state import TrainState
from mypt_dist.world import JSON

log = logging.getLogger(__name__)

RUN_FILE = "run.json"
ANSWERS = "answers"
"""Folder of the tables."""


class RunRecord:
    """What is told to the journal, and through it to every tracker."""

    def __init__(
        self,
        config: RunConfig,
        engine: Engine,
        data: RunData,
        parameters: tuple[int, int],
        origin: dict[str, JSON] | None = None,
    ) -> None:
        """``parameters``: how many numbers, and how many of them are frozen."""
        self._config, self._engine, self._data, self._parameters = config, engine, data, parameters
        self.origin = origin
        """The checkpoint that the weights were started from, as manifests tell it."""
        self._trackers: list[Tracker] = []
        self._status, self._reason = "failed", "the process ended unexpectedly"
        self.journal: Journal | None = None
        self.system: SystemSampler | None = None

    @contextmanager
    def kept(self, resumed: Checkpoint | None, *, flops_per_token: int) -> Iterator[None]:
        """Start the record, and end it with the status that `ended` was told, or with what went wrong."""
        if not self._engine.is_main:
            yield
            return
        folder = self._config.folder
        self.journal, self.system = Journal(folder), SystemSampler(folder)
        _write_whole(folder / RUN_FILE, json.dumps(told(self._config), indent=2) + "\n")
        known = dict(resumed.manifest.tracker) if resumed else {}
        self.journal.event("start", **self._start_event(resumed, flops_per_token))
        self._trackers = [tracker.build() for tracker in self._config.trackers]
        for tracker in self._trackers:
            tracker.start(folder, self._config.name, known)
        try:
            yield
        except MyptError as error:
            self._reason = str(error)
            raise
        except BaseException as error:
            self._reason = f"{type(error).__name__}: {error}"
            raise
        finally:
            self.journal.event("finish", status=self._status, reason=self._reason)
            self.journal.close()
            for tracker in self._trackers:
                left = tracker.finish()
                if left:
                    log.warning("%s", left)

    def tracker_ids(self) -> dict[str, str]:
        """Ids of the tracked run, for the manifest: a resume continues the same one."""
        return {name: identity for tracker in self._trackers for name, identity in tracker.ids().items()}

    def measured(self, step: int, metrics: Mapping[str, float]) -> None:
        """Numbers that belong to ``step``, perhaps an earlier one than the loop is at."""
        if self.journal is not None:
            self.journal.log(step, metrics)

    def saved(self, state: TrainState, folder: Path) -> None:
        """A checkpoint was committed."""
        if self.journal is not None:
            manifest = (folder / "manifest.json").relative_to(self._config.folder)
            self.journal.event("checkpoint", step=state.step, manifest=str(manifest))
            log.info("step %d  saved %s", state.step, os.path.relpath(folder))

    def answered(self, step: int, answers: Answers) -> None:
        """Keep what the model answered at ``step`` as a table of its own."""
        if self.journal is not None:
            file = Path(ANSWERS) / f"step-{step:08}.json"
            (self._config.folder / ANSWERS).mkdir(exist_ok=True)
            _write_whole(self._config.folder / file, json.dumps(answers.table(), ensure_ascii=False) + "\n")
            self.journal.event("table", step=step, path=file.as_posix())

    def ended(self, state: TrainState, wish: Wish, exhausted: End | None) -> None:
        """The loop came to its end, perhaps because of ``exhausted`` sources."""
        steps = self._config.train.steps
        at = f"at step {state.step} of {steps}{'; saved' if state.step else ''}"
        if wish.signal_number:
            announced = wish.signal_number in (signal.SIGTERM, signal.SIGUSR1)
            self._status = "preempted" if announced else "killed"
            self._reason = f"{signal.Signals(wish.signal_number).name} {at}"
        elif state.step < steps:
            why = "the file STOP" if wish.stop else exhausted or "train.stop_after"
            self._status, self._reason = "stopped", f"{why} {at}"
        else:
            self._status, self._reason = "finished", f"all {steps} steps done"

    def _start_event(self, resumed: Checkpoint | None, flops_per_token: int) -> dict[str, JSON]:
        config, code, origin = self._config, code_version(), self.origin
        params: dict[str, JSON] = {
            **flatten(config.model_dump(mode="json", exclude={"about", "trackers"})),
            "parameters": self._parameters[0],
            "frozen_parameters": self._parameters[1],
            "flops_per_token": flops_per_token,
            "tokens_per_step": config.train.batch_size * config.model.context,
        }
        tags: dict[str, JSON] = {
            "mypt.version": code["version"],
            "mypt.engine": self._engine.name,
            "mypt.world_size": str(self._engine.size),
            "mypt.device": self._engine.device.type,
            "mypt.preset": ",".join(config.extends),
            "mypt.data": self._data.fingerprint,
            "mypt.tokenizer": self._data.tokenizer.kind,
            "mypt.origin": f"{origin['run']} step {origin['step']} {str(origin['sha256'])[:12]}" if origin else "",
            "mlflow.source.git.commit": code["commit"],
        }
        datasets: list[JSON] = [
            {
                "name": name,
                "fingerprint": manifest.fingerprint,
                "path": str(self._data.sources[name].path),
                "tokens": manifest.splits.train.tokens,
            }
            for name, manifest in self._data.manifests.items()
        ]
        return {
            "params": json.loads(json.dumps(params)),
            "tags": {key: value for key, value in tags.items() if value},
            "dataset": datasets,
            "resumed_from_step": resumed.manifest.step if resumed else None,
        }


def told(config: RunConfig) -> dict[str, JSON]:
    """The settings as files and other people may have them: without secrets."""
    settings: dict[str, JSON] = without_url_secrets(config.model_dump(mode="json"))
    return settings


def _write_whole(path: Path, text: str) -> None:
    """Write aside, then rename into place: a file that exists is complete. Raises `ConfigError`."""
    aside = path.with_suffix(".partial")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise ConfigError(f"the run folder {path.parent} can not be used: {error.strerror or error}") from error
