"""What the sender relies on in MLflow itself, on a real SQLite store: above all, that sending twice is harmless."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from mypt_dist.errors import ConfigError
from mypt_dist.tracking.mlflow_sender import mlflow_store
from mypt_dist.tracking.mlflow_sender.happenings import Scene, tell
from mypt_dist.tracking.mlflow_sender.mlflow_store import MlflowStore, _root, artifact_location
from mypt_dist.tracking.mlflow_sender.model_record import ModelRecord
from mypt_dist.tracking.mlflow_sender.payload import Dataset, Point
from mypt_dist.tracking.mlflow_sender.redone import Redone
from mypt_dist.tracking.mlflow_sender.register import register_model
from mypt_dist.tracking.mlflow_sender.remote import RUN_UID, Refused, RunGone, Unreachable
from mypt_dist.tracking.mlflow_sender.state import SenderState, write_state

# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def store(folder: Path) -> MlflowStore:
    """Made once: a new database takes MLflow seconds."""
    return MlflowStore(f"sqlite:///{folder}/mlflow.db", "it's an experiment")


@pytest.fixture
def run_id(store: MlflowStore, request: pytest.FixtureRequest) -> str:
    return store.create("demo", {RUN_UID: request.node.name, "mypt.status": "running"}, 1_700_000_000_000)


def ask(folder: Path, query: str, *values: object) -> list[Any]:
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        return database.execute(query, values).fetchall()


def test_a_database_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender that is killed while MLflow makes its tables must not leave half of them to the next."""

    def killed_half_way(tracking_uri: str) -> None:
        with closing(sqlite3.connect(tracking_uri.removeprefix("sqlite:///"))) as half:
            half.execute("CREATE TABLE _alembic_tmp_experiments (name TEXT)")
        raise KeyboardInterrupt

    store = MlflowStore(f"sqlite:///{tmp_path}/mlflow.db", "mypt")
    with monkeypatch.context() as patched:
        patched.setattr(mlflow_store, "MlflowClient", killed_half_way)
        with pytest.raises(KeyboardInterrupt):
            store.find("run")
    assert list(tmp_path.iterdir()) == []
    assert store.find("run") == []
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_where_files_cannot_be_linked_the_database_is_made_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_source: Path, _target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(mlflow_store.os, "link", refuse)
    assert MlflowStore(f"sqlite:///{tmp_path}/mlflow.db", "mypt").find("run") == []
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_a_run_is_found_by_its_own_id(store: MlflowStore, run_id: str, request: pytest.FixtureRequest) -> None:
    uid = request.node.name
    (found,) = store.find(uid)
    assert (found.run_id, found.status, found.is_empty, found.tags[RUN_UID]) == (run_id, "RUNNING", True, uid)
    assert store.find("another") == []
    second = store.create("demo", {RUN_UID: uid}, 1_600_000_000_000)
    assert [run.run_id for run in store.find(uid)] == [second, run_id]
    store.delete(second)
    assert [run.run_id for run in store.find(uid)] == [run_id]


def test_points_sent_twice_are_there_once(store: MlflowStore, run_id: str, folder: Path) -> None:
    first = [Point("train/loss", 0.1 * step, 1000 + step, step) for step in range(700)]
    more = [Point("train/loss", 0.1 * step, 1000 + step, step) for step in range(300, 1300)]
    store.log_points(run_id, first)
    store.log_points(run_id, more)
    store.log_points(run_id, first)
    rows = ask(folder, "SELECT step, value, timestamp FROM metrics WHERE run_uuid = ? ORDER BY rowid", run_id)
    assert rows == [(step, 0.1 * step, 1000 + step) for step in range(1300)]
    assert not store.get(run_id).is_empty


def test_a_point_that_mlflow_does_not_take_is_refused(store: MlflowStore, run_id: str) -> None:
    with pytest.raises(Refused):
        store.log_points(run_id, [Point("a@b", 1.0, 1, 1)])


def test_a_param_is_logged_once_and_never_changed(store: MlflowStore, run_id: str) -> None:
    store.log_params(run_id, {"lr": "1"})
    store.log_params(run_id, {"lr": "1", "other": ""})
    assert store.get(run_id).params == {"lr": "1", "other": ""}
    with pytest.raises(Refused, match="Changing param values is not allowed"):
        store.log_params(run_id, {"lr": "2"})


def test_a_tag_can_be_changed(store: MlflowStore, run_id: str) -> None:
    store.set_tags(run_id, {"a": "1"})
    store.set_tags(run_id, {"a": "2"})
    assert store.get(run_id).tags["a"] == "2"


def test_a_dataset_logged_twice_is_one_input(store: MlflowStore, run_id: str, folder: Path) -> None:
    dataset = Dataset("code", "d" * 32, "data/code", "train, val", '{"tokens": 5}')
    for _ in range(2):
        store.log_datasets(run_id, [dataset, Dataset("web", "e", "https://host/x", "", "{}")])
    query = """
        SELECT datasets.name, dataset_source_type, dataset_source, dataset_profile, input_tags.value
        FROM inputs JOIN datasets ON source_id = dataset_uuid LEFT JOIN input_tags USING (input_uuid)
        WHERE destination_id = ? ORDER BY 1
    """
    assert ask(folder, query, run_id) == [
        ("code", "local", '{"uri": "data/code"}', '{"tokens": 5}', "train, val"),
        ("web", "https", '{"uri": "https://host/x"}', "{}", None),
    ]


def test_files_of_a_local_store_lie_beside_its_database(
    store: MlflowStore, run_id: str, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    for _ in range(2):
        store.log_file(run_id, tmp_path / "manifest.json", "checkpoints/step-1")
        store.log_file(run_id, tmp_path / "manifest.json", "")
        store.log_text(run_id, "text", "config/params.json")
    artifacts = folder / "mlartifacts" / run_id / "artifacts"
    found = {str(path.relative_to(artifacts)): path.read_text() for path in artifacts.rglob("*") if path.is_file()}
    assert found == {"checkpoints/step-1/manifest.json": "{}", "manifest.json": "{}", "config/params.json": "text"}


def test_only_a_local_database_decides_where_files_lie() -> None:
    assert artifact_location("sqlite:////here/mlflow.db") == "file:///here/mlartifacts"
    assert artifact_location("http://host:5000") is None


def test_a_run_is_closed_and_goes_on(store: MlflowStore, run_id: str, folder: Path) -> None:
    store.close(run_id, "KILLED", 1_700_000_009_000)
    assert store.get(run_id).status == "KILLED"
    assert ask(folder, "SELECT start_time, end_time FROM runs WHERE run_uuid = ?", run_id) == [
        (1_700_000_000_000, 1_700_000_009_000)
    ]
    store.reopen(run_id)
    assert store.get(run_id).status == "RUNNING"


def test_a_deleted_run_is_gone_for_every_request(store: MlflowStore, run_id: str) -> None:
    store.delete(run_id)
    for request in (
        lambda: store.get(run_id),
        lambda: store.log_points(run_id, [Point("a", 1.0, 1, 1)]),
        lambda: store.set_tags(run_id, {"a": "b"}),
        lambda: store.log_params(run_id, {"a": "b"}),
        lambda: store.close(run_id, "FINISHED", 1),
    ):
        with pytest.raises(RunGone):
            request()


def test_a_run_of_another_store_is_gone(store: MlflowStore) -> None:
    with pytest.raises(RunGone):
        store.get("0" * 32)


def test_a_deleted_experiment_may_be_restored_so_the_run_is_asked_for_again(folder: Path, store: MlflowStore) -> None:
    other = MlflowStore(f"sqlite:///{folder}/mlflow.db", "deleted")
    other.create("demo", {}, 1)
    other._client.delete_experiment(other._client.get_experiment_by_name("deleted").experiment_id)
    with pytest.raises(Unreachable, match="active"):
        other.create("demo", {}, 1)


def test_a_server_that_is_not_there_is_unreachable_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    nowhere = MlflowStore("http://127.0.0.1:9", "x")
    with pytest.raises(Unreachable, match=r"^Connection refused$"):
        nowhere.find("uid")


def test_an_address_that_mlflow_does_not_know_is_unreachable() -> None:
    nowhere = MlflowStore("nonsense://x", "x")
    for request in (lambda: nowhere.get("a"), lambda: nowhere.find("a"), lambda: nowhere.create("a", {}, 1)):
        with pytest.raises(Unreachable, match="Supported URI schemes"):
            request()


def test_a_file_that_is_no_database_is_unreachable(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    with pytest.raises(Unreachable, match="file is not a database"):
        MlflowStore(f"sqlite:///{tmp_path}/text", "x").get("a")


def response(status: int) -> requests.HTTPError:
    answer = requests.Response()
    answer.status_code = status
    return requests.HTTPError("no", response=answer)


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (response(403), Refused),
        (response(503), Unreachable),
        (requests.HTTPError("no response"), Unreachable),
        (requests.ConnectionError("reset"), Unreachable),
        (ModuleNotFoundError("boto3"), Refused),
        (PermissionError(13, "Permission denied"), Refused),
    ],
)
def test_a_file_fails_for_good_where_no_request_can_cure_it(
    store: MlflowStore, run_id: str, monkeypatch: pytest.MonkeyPatch, error: Exception, meaning: type[Exception]
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(store._client, "log_text", fail)
    with pytest.raises(meaning):
        store.log_text(run_id, "text", "a.txt")


def test_an_error_about_a_file_that_mlflow_does_not_explain_is_tried_again(store: MlflowStore, run_id: str) -> None:
    with pytest.raises(Unreachable, match="Invalid artifact path"):
        store.log_text(run_id, "text", "../outside.txt")


def test_an_error_without_words_is_named() -> None:
    assert _root(KeyError()) == "KeyError"
    assert _root(OSError(28, "No space left on device")) == "No space left on device"
    assert _root(ValueError("one\ntwo")) == "one"


@pytest.fixture
def uri(folder: Path) -> str:
    return f"sqlite:///{folder}/mlflow.db"


def model_record(folder: Path, name: str = "small-model") -> ModelRecord:
    """A model of two files."""
    (folder / "out").mkdir()
    (folder / "out/config.json").write_text('{"model_type": "llama"}')
    (folder / "out/model.safetensors").write_bytes(b"weights")
    return ModelRecord(name, "transformers", folder / "out", {"dtype": "float32"}, {"mypt.checkpoint": "step-7"})


def test_versions_hold_the_files_and_name_the_run(
    uri: str, run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_state(tmp_path, SenderState(uri=uri, experiment="it's an experiment", run_id=run_id))
    model = model_record(tmp_path)
    first, second = (register_model(model, tmp_path) for _ in range(2))
    assert (first.version, second.version, second.uri) == ("1", "2", "models:/small-model/2")
    client = MlflowClient(uri)
    version, logged = client.get_model_version("small-model", "2"), client.get_logged_model(second.model_id)
    assert (version.run_id, version.source, logged.source_run_id) == (run_id, f"models:/{second.model_id}", run_id)
    assert str(logged.status) == "READY"
    assert (logged.params, logged.tags["mypt.checkpoint"]) == ({"dtype": "float32"}, "step-7")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    fetched = Path(download_artifacts(second.uri, dst_path=str(tmp_path / "in")))
    assert (fetched / "model.safetensors").read_bytes() == b"weights"
    assert (fetched / "config.json").is_file()


def test_a_run_that_the_store_does_not_know_is_not_named(uri: str, tmp_path: Path) -> None:
    write_state(tmp_path, SenderState(uri="http://elsewhere", experiment="other", run_id="0" * 32))
    version = register_model(model_record(tmp_path, "lonely"), tmp_path, uri)
    assert MlflowClient(uri).get_logged_model(version.model_id).source_run_id is None


def test_files_that_do_not_arrive_leave_no_version(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(client: MlflowClient, model_id: str, local_dir: str) -> None:
        seen.append(model_id)
        raise OSError("No space left on device")

    seen: list[str] = []
    monkeypatch.setattr(MlflowClient, "log_model_artifacts", full)
    with pytest.raises(ConfigError, match=r"out is complete, but .* did not take it as 'broken': No space left"):
        register_model(model_record(tmp_path, "broken"), tmp_path, uri)
    assert MlflowClient(uri).search_registered_models("name = 'broken'") == []
    assert str(MlflowClient(uri).get_logged_model(seen[0]).status) == "FAILED"


def test_mlflow_reads_a_table_of_answers_as_one(
    store: MlflowStore, run_id: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its client looks for tables in the store of this variable, whatever store the client is of.
    uri = f"sqlite:///{folder}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    (tmp_path / "answers").mkdir()
    name = "answers/step-00000005.json"
    (tmp_path / name).write_text('{"columns": ["question", "answer"], "data": [["a?", "A"], ["b?", "B"]]}')
    tell({"kind": "table", "path": name}, Scene(store, run_id, tmp_path, Redone({}), {}), SenderState())
    client = MlflowClient(uri)
    experiment = client.get_run(run_id).info.experiment_id
    table = client.load_table(experiment, name, run_ids=[run_id])
    assert table.to_dict("list") == {"question": ["a?", "b?"], "answer": ["A", "B"]}
