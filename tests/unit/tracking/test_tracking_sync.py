"""What a run could not send is sent later, by hand, without a second sender beside the first."""

import os
from pathlib import Path

import pytest
from tracking_fakes import Clock, FakeRemote, ship_all, shipper_of

from mypt_dist.errors import ConfigError, LockError
from mypt_dist.tracking.journal import Journal
from mypt_dist.tracking.mlflow_sender.lock import sole_sender
from mypt_dist.tracking.mlflow_sender.settings import Settings, environment, resolve_uri
from mypt_dist.tracking.mlflow_sender.state import SenderState, read_state, write_state
from mypt_dist.tracking.mlflow_sender.sync import SyncReport, kept_uri, replay, sync, with_environment


@pytest.fixture
def remote() -> FakeRemote:
    return FakeRemote()


def a_run(run_dir: Path, *, end: str | None) -> None:
    with Journal(run_dir, clock=Clock()) as journal:
        journal.event("start", params={}, tags={}, dataset=[], resumed_from_step=None)
        for step in (1, 2, 3):
            journal.log(step, {"train/loss": 1.0 / step})
        if end is not None:
            journal.event("finish", status=end, reason=None)


def replayed(run_dir: Path, remote: FakeRemote, timeout_s: float = 10) -> SyncReport:
    state = read_state(run_dir) or SenderState(uri="http://host", experiment="mypt", run_name="demo")
    return replay(run_dir, remote, state, timeout_s, Clock())


def test_everything_is_sent_and_a_second_time_nothing(tmp_path: Path, remote: FakeRemote) -> None:
    a_run(tmp_path, end="finished")
    report = replayed(tmp_path, remote)
    assert report == SyncReport("http://host", "run0", 3, True, "finished", (), None)
    assert replayed(tmp_path, remote).points == 0
    assert len(remote.only.points) == 3
    assert str(report) == "3 values sent to http://host, run run0: everything is there"
    assert report.to_json()["skipped"] == []


def test_a_run_whose_trainer_is_gone_is_closed(tmp_path: Path, remote: FakeRemote) -> None:
    a_run(tmp_path, end=None)
    assert replayed(tmp_path, remote).status == "killed"
    assert remote.only.status == "KILLED"
    calls = len(remote.calls)
    replayed(tmp_path, remote)
    assert "close" not in remote.calls[calls:]


def test_a_run_that_is_alive_is_not_closed(tmp_path: Path, remote: FakeRemote) -> None:
    a_run(tmp_path, end=None)
    with Journal(tmp_path):
        report = replayed(tmp_path, remote)
    assert (report.complete, report.status, remote.only.status) == (True, None, "RUNNING")


def test_a_run_that_ended_keeps_its_end(tmp_path: Path, remote: FakeRemote) -> None:
    a_run(tmp_path, end="failed")
    ship_all(shipper_of(tmp_path, remote))
    assert replayed(tmp_path, remote).status == "failed"
    assert remote.only.status == "FAILED"


def test_a_store_that_fails_is_named_and_given_up(tmp_path: Path, remote: FakeRemote) -> None:
    a_run(tmp_path, end="finished")
    remote.down = True
    report = replayed(tmp_path, remote, timeout_s=0)
    assert (report.complete, report.run_id, report.error) == (False, None, "no answer to find")
    assert str(report) == "0 values sent to http://host, run -: not everything is there yet: no answer to find"


def test_files_that_were_not_taken_are_tried_again(tmp_path: Path, remote: FakeRemote) -> None:
    a_run(tmp_path, end="finished")
    (tmp_path / "sample.txt").write_text("text")
    ship_all(shipper_of(tmp_path, remote))
    write_state(tmp_path, (read_state(tmp_path) or SenderState()).model_copy(update={"skipped": ("sample.txt",)}))
    remote.broken = {"log_file"}
    report = replayed(tmp_path, remote)
    assert report.skipped == ("sample.txt",)
    assert "not taken: sample.txt" in str(report)
    remote.broken = set()
    assert replayed(tmp_path, remote).skipped == ()
    assert remote.only.files["sample.txt"] == "text"


def test_a_folder_without_a_journal_cannot_be_synced(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not the folder of a run"):
        sync(tmp_path)


def test_two_senders_are_never_at_work_at_once(tmp_path: Path) -> None:
    a_run(tmp_path, end="finished")
    with sole_sender(tmp_path, lambda: False) as is_ours:
        assert is_ours
        with pytest.raises(LockError, match="is at work"):
            sync(tmp_path)


def test_a_sender_waits_for_the_one_before_it(tmp_path: Path) -> None:
    first = sole_sender(tmp_path, lambda: False)
    first.__enter__()
    waits: list[int] = []

    def wait() -> bool:
        waits.append(1)
        if len(waits) == 3:
            first.__exit__(None, None, None)
        return True

    with sole_sender(tmp_path, wait) as is_ours:
        assert is_ours
    assert len(waits) == 3


def test_a_file_system_without_locks_is_put_up_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(fd: int, how: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with sole_sender(tmp_path, lambda: False) as is_ours:
        assert is_ours
    assert "has no locks" in caplog.text


@pytest.mark.parametrize(
    ("given", "variable", "found"),
    [
        ("http://a", "http://b", "http://a"),
        (None, "http://b", "http://b"),
        (None, None, "sqlite:///HERE/mlflow.db"),
        ("sqlite:///sub/x.db?mode=rw", None, "sqlite:///HERE/sub/x.db?mode=rw"),
        ("sqlite:////abs/x.db", None, "sqlite:////abs/x.db"),
        ("sqlite:///:memory:", None, "sqlite:///:memory:"),
    ],
)
def test_the_store_is_the_given_one_or_the_environments_or_a_file_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, variable: str | None, found: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if variable is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", variable)
    assert resolve_uri(given) == found.replace("HERE", str(tmp_path))


def test_user_and_password_travel_beside_the_address() -> None:
    uri, variables = environment("https://me:p%40ss@host:5000/base")
    assert uri == "https://host:5000/base"
    assert (variables["MLFLOW_TRACKING_USERNAME"], variables["MLFLOW_TRACKING_PASSWORD"]) == ("me", "p@ss")
    for whole in ("postgresql://me:pass@host/db", "http://host", "sqlite:////a.db"):
        uri, variables = environment(whole)
        assert uri == whole
        assert "MLFLOW_TRACKING_USERNAME" not in variables


def test_the_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYPT_TEST_A", "old")
    monkeypatch.delenv("MYPT_TEST_B", raising=False)
    with with_environment({"MYPT_TEST_A": "new", "MYPT_TEST_B": "new"}):
        assert (os.environ["MYPT_TEST_A"], os.environ["MYPT_TEST_B"]) == ("new", "new")
    assert os.environ["MYPT_TEST_A"] == "old"
    assert "MYPT_TEST_B" not in os.environ


def test_a_password_that_was_not_kept_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    state = SenderState(uri="http://host/")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host/")
    assert kept_uri(state) == "http://me:secret@host/"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://other/")
    assert kept_uri(state) == "http://host/"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert kept_uri(state) == "http://host/"
    assert kept_uri(SenderState()) is None


def test_a_sender_goes_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    settings = Settings(
        uri="http://me:secret@host/", experiment="e", run_name="n", known_run_id="from the checkpoint",
        trainer_pid=1, drain_s=1, events_before=0,
    )  # fmt: skip
    fresh = settings.state(tmp_path)
    assert (fresh.uri, fresh.run_id, fresh.experiment, fresh.run_name) == (
        "http://host/",
        "from the checkpoint",
        "e",
        "n",
    )
    write_state(tmp_path, SenderState(run_uid="u", run_id="r", metrics=5, uri="http://old/"))
    state = settings.state(tmp_path)
    assert (state.run_uid, state.run_id, state.metrics, state.uri) == ("u", "r", 5, "http://host/")


def test_what_is_measured_after_the_end_is_sent_to_the_same_run(tmp_path: Path, remote: FakeRemote) -> None:
    from mypt_dist.run.evaluation.results import journalled, record

    a_run(tmp_path, end="finished")
    replayed(tmp_path, remote)
    path = record(tmp_path, 2, "wiki-val", {"kind": "perplexity", "metrics": {"loss": 1.5}})
    assert journalled(tmp_path) == 1
    report = replayed(tmp_path, remote)
    assert (report.complete, report.points, report.status) == (True, 1, "finished")
    stored = remote.only
    assert stored.history("eval/wiki-val/loss") == [(2, 1.5)]
    assert str(path.relative_to(tmp_path)) in stored.files
    assert stored.status == "FINISHED"
