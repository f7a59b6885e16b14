"""What does each event of the journal become in MLflow? Every answer can be given twice without harm."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mypt_dist.tracking.mlflow_sender import payload
from mypt_dist.tracking.mlflow_sender.redone import Redone
from mypt_dist.tracking.mlflow_sender.remote import Refused, Remote, Unreachable
from mypt_dist.tracking.mlflow_sender.state import SenderState
from mypt_dist.tracking.redact import scrub

log = logging.getLogger(__name__)

STATUS: Final = {
    "finished": "FINISHED",
    "stopped": "FINISHED",
    "failed": "FAILED",
    "killed": "KILLED",
    "preempted": "KILLED",
}
"""MLflow has three words for an end; the exact one is the tag ``mypt.status``."""


TABLES: Final = "mlflow.loggedArtifacts"
MAX_TABLES: Final = 50
"""The newest that are shown as such: a tag has room for some hundred. All of them are among the files."""

FILE_ATTEMPTS: Final = 3
"""How often a file may fail although the server answers other requests."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Where an event is told."""

    remote: Remote
    run_id: str
    run_dir: Path
    redone: Redone
    failures: dict[str, int]
    """How often each file failed."""


def tell(event: Mapping[str, Any], scene: Scene, state: SenderState) -> SenderState:
    """Send what ``event`` means; returns what the sender knows afterwards. Raises `Unreachable` and `RunGone`.

    Kinds it does not know are passed over: a newer trainer may write them. So are events with a field missing.
    """
    handler = _HANDLERS.get(str(event.get("kind")))
    if handler is None:
        return state
    try:
        return handler(event, scene, state)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        log.warning("an event of kind %s is not as it should be and is passed over: %r", event.get("kind"), error)
        return state


def tag(scene: Scene, entries: Mapping[str, Any]) -> None:
    """Set tags on the run, cut to MLflow's limits."""
    for batch in payload.batches(payload.tags(entries)):
        _accept("tags", scene.remote.set_tags, scene.run_id, batch)


def send_file(scene: Scene, state: SenderState, name: str) -> SenderState:
    """Send one file of the run's folder to the same place among the artifacts; remember it if that fails.

    A file that is gone was dropped by the run itself, as old checkpoints are. Raises ValueError for one outside.
    """
    path = (scene.run_dir / name).resolve()
    if not path.is_relative_to(scene.run_dir.resolve()):
        raise ValueError(f"{name} is outside of the run's folder")
    others = tuple(other for other in state.skipped if other != name)
    if not path.is_file():
        log.info("%s is not there any more", name)
        return state.model_copy(update={"skipped": others})
    folder = Path(name).parent.as_posix()
    if not _accept_file(
        name, scene, lambda: scene.remote.log_file(scene.run_id, path, "" if folder == "." else folder)
    ):
        others = (*others, name)
    return state.model_copy(update={"skipped": others})


def _start(event: Mapping[str, Any], scene: Scene, state: SenderState) -> SenderState:
    known = scene.remote.get(scene.run_id)
    config = event.get("params") or {}
    given = payload.params(config)
    resumed_from = event.get("resumed_from_step")
    resumes = state.resumes
    tags = {**(event.get("tags") or {}), "mypt.status": "running"}
    if state.starts or resumed_from is not None:
        resumes += 1
        tags |= _resume_tags(resumes, resumed_from, scene.redone)
        # MLflow never changes a param.
        changed = {name: value for name, value in given.items() if known.params.get(name, value) != value}
        tags |= {f"resume.{resumes}.{name}": value for name, value in changed.items()}
    for batch in payload.batches({name: value for name, value in given.items() if name not in known.params}):
        _accept("params", scene.remote.log_params, scene.run_id, batch)
    tag(scene, tags)
    if datasets := payload.datasets(event.get("dataset") or []):
        _accept("datasets", scene.remote.log_datasets, scene.run_id, datasets)
    file = f"config/params.resume-{resumes}.json" if resumes else "config/params.json"
    text = json.dumps(config, indent=1) + "\n"
    _accept_file(file, scene, lambda: scene.remote.log_text(scene.run_id, text, file))
    if known.status != "RUNNING":
        scene.remote.reopen(scene.run_id)
    return state.model_copy(update={"starts": state.starts + 1, "resumes": resumes, "ended": None})


def _resume_tags(count: int, resumed_from: Any, redone: Redone) -> dict[str, Any]:
    tags = {"mypt.resume_count": count, f"resume.{count}.from_step": resumed_from}
    if (steps := redone.steps()) is not None:
        tags[f"resume.{count}.steps_done_again"] = steps
    return tags


def _checkpoint(event: Mapping[str, Any], scene: Scene, state: SenderState) -> SenderState:
    state = send_file(scene, state, event["manifest"])
    tag(scene, {"mypt.checkpoint.last": event["step"]})
    return state


def _rollback(event: Mapping[str, Any], scene: Scene, state: SenderState) -> SenderState:
    tag(scene, {f"rollback.at_{event['step']}": f"to {event['resumed_from_step']}: {event['reason']}"})
    return state


def _artifact(event: Mapping[str, Any], scene: Scene, state: SenderState) -> SenderState:
    return send_file(scene, state, event["path"])


def _table(event: Mapping[str, Any], scene: Scene, state: SenderState) -> SenderState:
    """A file, and the tag by which MLflow shows it as a table, as `MlflowClient.log_table` does."""
    path = Path(event["path"])
    state = send_file(scene, state, event["path"])
    earlier = sorted(p.name for p in (scene.run_dir / path.parent).glob("*.json") if p.name <= path.name)
    tables = [{"path": (path.parent / name).as_posix(), "type": "table"} for name in earlier[-MAX_TABLES:]]
    tag(scene, {TABLES: json.dumps(tables)})
    return state


def _finish(event: Mapping[str, Any], scene: Scene, state: SenderState) -> SenderState:
    status = str(event["status"])
    tag(scene, {"mypt.status": status, "mypt.reason": event.get("reason") or ""})
    scene.remote.close(scene.run_id, STATUS.get(status, "FAILED"), int(event["time"]))
    return state.model_copy(update={"ended": status})


def _accept(what: str, request: Callable[..., None], *arguments: Any) -> None:
    """Send what is good to have; the store may refuse it."""
    try:
        request(*arguments)
    except Refused as error:
        log.warning("the store does not take the %s: %s", what, scrub(str(error)))


def _accept_file(name: str, scene: Scene, request: Callable[[], None]) -> bool:
    """Send a file; whether it was taken.

    Files may live elsewhere than numbers: a bucket whose key has expired must not hold the numbers up. So when a
    file fails again and again and the server still answers, the file is left behind.
    """
    try:
        request()
    except (Refused, Unreachable) as error:
        scene.failures[name] = scene.failures.get(name, 0) + 1
        if isinstance(error, Unreachable) and scene.failures[name] < FILE_ATTEMPTS:
            raise
        scene.remote.get(scene.run_id)
        log.warning("the store does not take %s: %s", name, scrub(str(error)))
        return False
    return True


_HANDLERS: Final[dict[str, Callable[[Mapping[str, Any], Scene, SenderState], SenderState]]] = {
    "start": _start,
    "checkpoint": _checkpoint,
    "rollback": _rollback,
    "artifact": _artifact,
    "table": _table,
    "finish": _finish,
}
