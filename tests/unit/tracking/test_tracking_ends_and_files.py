"""Files never hold numbers up, and a run ends as it ended even if nobody said so."""

import json
from pathlib import Path

import pytest
from tracking_fakes import Clock, FakeRemote, finish, ship_all, shipper_of, start, train

from mypt_dist.tracking.journal import Journal
from mypt_dist.tracking.mlflow_sender import happenings
from mypt_dist.tracking.mlflow_sender.remote import Unreachable


@pytest.fixture
def remote() -> FakeRemote:
    return FakeRemote()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def journal(tmp_path: Path, clock: Clock) -> Journal:
    return Journal(tmp_path, clock=clock)


def test_a_checkpoint_that_was_rotated_away_is_passed_over(
    tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote
) -> None:
    journal.event("checkpoint", step=5, manifest="checkpoints/step-5/manifest.json")
    shipper = shipper_of(tmp_path, remote)
    ship_all(shipper)
    assert remote.only.tags["mypt.checkpoint.last"] == "5"
    assert shipper.state.skipped == ()


def test_no_file_outside_of_the_run_is_sent(tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote) -> None:
    (tmp_path.parent / "secret.txt").write_text("canary")
    (tmp_path / "link.txt").symlink_to(tmp_path.parent / "secret.txt")
    for name in ("../secret.txt", str(tmp_path.parent / "secret.txt"), "link.txt"):
        journal.event("artifact", path=name)
    ship_all(shipper_of(tmp_path, remote))
    assert remote.only.files == {}


@pytest.mark.parametrize("how", ["refused", "broken"])
def test_a_file_that_cannot_be_stored_does_not_hold_the_numbers_up(
    tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote, how: str
) -> None:
    (tmp_path / "sample.txt").write_text("text")
    if how == "broken":
        remote.broken = {"log_file", "log_text"}
    else:
        remote.refuse = lambda call, what: call in ("log_file", "log_text")
    start(journal, clock)
    journal.event("artifact", path="sample.txt")
    train(journal, clock, [1])
    shipper = shipper_of(tmp_path, remote)
    ship_all(shipper, patience=1 if how == "refused" else 100)
    assert len(remote.only.points) == 2
    assert shipper.state.skipped == ("sample.txt",)
    assert remote.calls.count("log_file") == (1 if how == "refused" else 3)
    remote.broken, remote.refuse = set(), lambda call, what: False
    finish(journal, clock)
    ship_all(shipper)
    assert remote.only.files == {"sample.txt": "text"}
    assert shipper.state.skipped == ()


def test_a_file_waits_while_no_request_is_answered(
    tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote
) -> None:
    train(journal, clock, [1])
    shipper = shipper_of(tmp_path, remote)
    ship_all(shipper)
    (tmp_path / "sample.txt").write_text("text")
    journal.event("artifact", path="sample.txt")
    remote.down = True
    for _ in range(5):
        with pytest.raises(Unreachable):
            shipper.step()
    assert shipper.state.skipped == ()
    remote.down = False
    ship_all(shipper)
    assert remote.only.files == {"sample.txt": "text"}


def test_what_is_good_to_have_may_be_refused(
    tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote
) -> None:
    journal.event("start", params={"a": 1}, tags={"b": 2}, dataset=[{"name": "d", "fingerprint": "e"}])
    train(journal, clock, [1])
    remote.refuse = lambda call, what: call in ("log_params", "set_tags", "log_datasets")
    ship_all(shipper_of(tmp_path, remote), patience=1)
    assert len(remote.only.points) == 2


def test_a_run_without_an_end_is_killed_at_its_last_sign_of_life(
    tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote
) -> None:
    start(journal, clock)
    train(journal, clock, [1, 2])
    shipper = shipper_of(tmp_path, remote)
    ship_all(shipper)
    shipper.close_as_killed()
    run = remote.only
    assert (run.status, run.tags["mypt.status"], run.end_time) == ("KILLED", "killed", int(clock.now * 1000))
    assert "left no word" in run.tags["mypt.reason"]


def test_a_run_that_told_its_end_is_not_killed(
    tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote
) -> None:
    start(journal, clock)
    finish(journal, clock)
    shipper = shipper_of(tmp_path, remote)
    ship_all(shipper)
    shipper.close_as_killed()
    assert remote.only.status == "FINISHED"


def test_a_run_that_was_never_created_is_not_killed(tmp_path: Path, journal: Journal, remote: FakeRemote) -> None:
    shipper = shipper_of(tmp_path, remote)
    ship_all(shipper)
    shipper.close_as_killed()
    assert remote.calls == []


def test_a_deleted_run_cannot_be_killed(tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote) -> None:
    start(journal, clock)
    shipper = shipper_of(tmp_path, remote)
    ship_all(shipper)
    remote.runs["run0"].deleted = True
    with pytest.raises(Unreachable):
        shipper.close_as_killed()
    shipper.state = shipper.state.model_copy(update={"skipped": ("a.txt",)})
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(Unreachable):
        shipper.retry_skipped()


def test_tables_are_sent_and_the_newest_are_named_as_such(
    tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(happenings, "MAX_TABLES", 2)
    (tmp_path / "answers").mkdir()
    names = [f"answers/step-{step:08}.json" for step in (5, 10, 15)]
    for name in names:
        (tmp_path / name).write_text('{"columns": ["answer"], "data": [["Yes."]]}')
        journal.event("table", step=5, path=name)
    ship_all(shipper_of(tmp_path, remote))
    assert [*remote.only.files] == names
    tables = [{"path": name, "type": "table"} for name in names[1:]]
    assert json.loads(remote.only.tags["mlflow.loggedArtifacts"]) == tables
