"""How is each request said to MLflow, and what do its errors mean? The only module that imports mlflow."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import requests
from mlflow import MlflowClient
from mlflow.entities import Dataset as MlflowDataset
from mlflow.entities import DatasetInput, InputTag, LifecycleStage, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from mypt_dist.tracking.mlflow_sender.model_record import ModelRecord, ModelVersion
from mypt_dist.tracking.mlflow_sender.payload import Dataset, Point
from mypt_dist.tracking.mlflow_sender.remote import RUN_UID, Refused, RemoteRun, RunGone, Unreachable

_GONE: Final = frozenset({"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"})
_REFUSED: Final = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST", "NOT_IMPLEMENTED"})


class MlflowStore:
    """`Remote` on MLflow's client. The fluent interface and its global state are not used."""

    def __init__(self, uri: str, experiment: str) -> None:
        """``uri`` is what `MlflowClient` takes; nothing is asked of it before the first call."""
        self._uri = uri
        self._experiment = experiment
        self._connected: MlflowClient | None = None

    def find(self, run_uid: str) -> list[RemoteRun]:
        with _translated():
            experiment = self._client.get_experiment_by_name(self._experiment)
            if experiment is None:
                return []
            where = f"tags.`{RUN_UID}` = '{run_uid}'"
            found = self._client.search_runs([experiment.experiment_id], where, order_by=["start_time ASC"])
            return [_remote(run) for run in found]

    def get(self, run_id: str) -> RemoteRun:
        with _translated():
            run = self._client.get_run(run_id)
        if run.info.lifecycle_stage != LifecycleStage.ACTIVE:
            raise RunGone(f"run {run_id} was deleted")
        return _remote(run)

    def create(self, name: str, tags: Mapping[str, str], start_time: int) -> str:
        with _translated():
            run = self._client.create_run(self._experiment_id(), start_time=start_time, tags=dict(tags), run_name=name)
            return str(run.info.run_id)

    def delete(self, run_id: str) -> None:
        with _translated():
            self._client.delete_run(run_id)

    def log_points(self, run_id: str, points: Sequence[Point]) -> None:
        metrics = [Metric(point.key, point.value, point.time, point.step) for point in points]
        with self._of_run(run_id):
            self._client.log_batch(run_id, metrics=metrics)

    def log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        with self._of_run(run_id):
            self._client.log_batch(run_id, params=[Param(name, value) for name, value in params.items()])

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        with self._of_run(run_id):
            self._client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def log_datasets(self, run_id: str, datasets: Sequence[Dataset]) -> None:
        with self._of_run(run_id):
            self._client.log_inputs(run_id, datasets=[_input(dataset) for dataset in datasets])

    def log_file(self, run_id: str, path: Path, folder: str) -> None:
        with self._of_run(run_id), _artifact_errors():
            self._client.log_artifact(run_id, str(path), folder or None)

    def log_text(self, run_id: str, text: str, file: str) -> None:
        with self._of_run(run_id), _artifact_errors():
            self._client.log_text(run_id, text, file)

    def reopen(self, run_id: str) -> None:
        with self._of_run(run_id, refused=Unreachable):
            self._client.update_run(run_id, status="RUNNING")

    def close(self, run_id: str, status: str, end_time: int) -> None:
        with self._of_run(run_id, refused=Unreachable):
            self._client.set_terminated(run_id, status, end_time)

    def add_model(self, model: ModelRecord, run_id: str | None) -> ModelVersion:
        """Log a model with its files, as one that ``run_id`` made, and register it. Raises `Refused` and `Unreachable`.

        A model whose files did not all arrive is marked as failed, and no version of it exists.
        """
        with _translated(Refused):
            logged = self._client.create_logged_model(
                self._experiment_id(),
                name=model.name,
                source_run_id=run_id,
                tags=dict(model.tags),
                params=dict(model.params),
                model_type=model.kind,
            )
            try:
                self._client.log_model_artifacts(logged.model_id, str(model.folder))
            except Exception:
                with contextlib.suppress(MlflowException):
                    self._client.finalize_logged_model(logged.model_id, "FAILED")
                raise
            self._client.finalize_logged_model(logged.model_id, "READY")
            with _if_missing():
                self._client.create_registered_model(model.name)
            version = self._client.create_model_version(
                model.name,
                f"models:/{logged.model_id}",
                run_id=run_id,
                tags=dict(model.tags),
                model_id=logged.model_id,
            )
        return ModelVersion(model.name, str(version.version), logged.model_id)

    def _experiment_id(self) -> str:
        experiment = self._client.get_experiment_by_name(self._experiment)
        if experiment is not None:
            return str(experiment.experiment_id)
        return str(self._client.create_experiment(self._experiment, artifact_location(self._uri)))

    @property
    def _client(self) -> MlflowClient:
        # An SQL store connects, and brings its schema up to date, when the client is made: it may fail then.
        if self._connected is None:
            _make_database(self._uri)
            self._connected = MlflowClient(tracking_uri=self._uri)
        return self._connected

    @contextlib.contextmanager
    def _of_run(self, run_id: str, refused: type[Exception] = Refused) -> Iterator[None]:
        """MLflow refuses to write to a deleted run in the words it has for a malformed request."""
        try:
            with _translated(Refused):
                yield
        except Refused as error:
            self.get(run_id)
            raise refused(str(error)) from error


def artifact_location(uri: str) -> str | None:
    """Where a new experiment of a local SQLite store keeps files: beside the database, wherever one stands.

    None for servers, which know it themselves. MLflow's own choice is the current folder of whoever comes first.
    """
    database = _database(uri)
    return None if database is None else (database.parent / "mlartifacts").as_uri()


def _database(uri: str) -> Path | None:
    """The file of a SQLite store."""
    parts = urlsplit(uri)
    return Path(parts.path[1:]).absolute() if parts.scheme == "sqlite" and parts.path not in ("", "/:memory:") else None


def _make_database(uri: str) -> None:
    """Have MLflow make a SQLite database that is not there yet, whole.

    It takes seconds and many steps, and one that was killed in between leaves a file that MLflow cannot use any more.
    """
    database = _database(uri)
    if database is None or database.exists() or not database.parent.is_dir():
        return
    with tempfile.TemporaryDirectory(prefix=f".{database.name}-", dir=database.parent) as folder:
        aside = Path(folder) / database.name
        MlflowClient(tracking_uri=f"sqlite:///{aside}")
        # Another run's sender may have been faster, or the file system knows no links: MLflow then makes it in place.
        with contextlib.suppress(OSError):
            os.link(aside, database)


@contextlib.contextmanager
def _translated(refused: type[Exception] = Unreachable) -> Iterator[None]:
    """Where a request is no use to anyone but the run as a whole, a refusal is a fault that somebody may cure."""
    try:
        yield
    except (Refused, RunGone, Unreachable):
        raise
    except MlflowException as error:
        if error.error_code in _GONE:
            raise RunGone(str(error)) from error
        if error.error_code in _REFUSED:
            raise refused(str(error).strip()) from error
        raise Unreachable(_root(error)) from error
    except Exception as error:
        # The boundary to a foreign service: whatever it is, training goes on and the request is repeated.
        raise Unreachable(_root(error)) from error


@contextlib.contextmanager
def _if_missing() -> Iterator[None]:
    """What is there already need not be made."""
    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _root(error: BaseException) -> str:
    """The first line of what went wrong first: *Connection refused*, not the four layers around it."""
    while (below := error.__cause__ or error.__context__) is not None:
        error = below
    text = str(getattr(error, "strerror", None) or error) or type(error).__name__
    return text.splitlines()[0]


@contextlib.contextmanager
def _artifact_errors() -> Iterator[None]:
    """Files travel by other ways than numbers, and one that cannot must not hold the numbers up."""
    try:
        yield
    except MlflowException:
        raise
    except requests.HTTPError as error:
        if error.response is not None and error.response.status_code < 500:
            raise Refused(str(error)) from error
        raise
    except requests.RequestException:
        raise
    except Exception as error:
        # A missing cloud library, missing rights, a full disk at the other end: no request cures them.
        raise Refused(f"{type(error).__name__}: {error}") from error


def _remote(run: Run) -> RemoteRun:
    tags = dict(run.data.tags)
    return RemoteRun(
        run_id=run.info.run_id,
        status=run.info.status,
        params=dict(run.data.params),
        tags=tags,
        is_empty=not run.data.params and not run.data.metrics,
    )


def _input(dataset: Dataset) -> DatasetInput:
    scheme = urlsplit(dataset.source).scheme or "local"
    source = json.dumps({"uri": dataset.source})
    entity = MlflowDataset(dataset.name, dataset.digest, scheme, source, profile=dataset.profile)
    return DatasetInput(entity, [InputTag("mlflow.data.context", dataset.context)] if dataset.context else [])
