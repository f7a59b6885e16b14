"""A run that resumes goes on in the same record, and what it does again is not there twice."""

from pathlib import Path
from typing import Any

import pytest
from tracking_fakes import Clock, FakeRemote, StoredRun, finish, ship_all, shipper_of, start, train

from mypt_dist.tracking.journal import Journal
from mypt_dist.tracking.mlflow_sender.remote import RUN_UID, Unreachable


@pytest.fixture
def remote() -> FakeRemote:
    return FakeRemote()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def journal(tmp_path: Path, clock: Clock) -> Journal:
    return Journal(tmp_path, clock=clock)


def test_the_same_run_goes_on(tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote) -> None:
    start(journal, clock, lr=1, seed=7)
    train(journal, clock, [1, 2, 3])
    finish(journal, clock, "preempted")
    ship_all(shipper_of(tmp_path, remote))
    assert remote.only.status == "KILLED"
    start(journal, clock, resumed_from=3, lr=2, seed=7, added="x")
    ship_all(shipper_of(tmp_path, remote))
    run = remote.only
    assert run.status == "RUNNING"
    assert run.params == {"lr": "1", "seed": "7", "added": "x"}
    tags = {name: value for name, value in run.tags.items() if "resume" in name}
    assert tags == {"mypt.resume_count": "1", "resume.1.from_step": "3", "resume.1.lr": "2"}
    assert run.files["config/params.resume-1.json"] == '{\n "lr": 2,\n "seed": 7,\n "added": "x"\n}\n'
    assert run.tags["mypt.status"] == "running"


def test_a_run_is_running_again_before_its_start_event_is_written(
    tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote
) -> None:
    start(journal, clock)
    finish(journal, clock, "killed")
    ship_all(shipper_of(tmp_path, remote))
    shipper = shipper_of(tmp_path, remote, session=(tmp_path / "events.jsonl").stat().st_size)
    ship_all(shipper)
    assert (remote.only.status, shipper.state.ended) == ("RUNNING", None)


@pytest.mark.parametrize("session", [0, None])
def test_a_run_that_ended_is_not_running_because_a_sender_looks_at_it(
    tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote, session: int | None
) -> None:
    start(journal, clock)
    finish(journal, clock, "killed")
    ship_all(shipper_of(tmp_path, remote))
    ship_all(shipper_of(tmp_path, remote, session=session))
    assert remote.only.status == "KILLED"


def test_a_run_that_went_back_is_a_run_that_resumed(
    tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote
) -> None:
    start(journal, clock)
    train(journal, clock, range(1, 8))
    journal.event("rollback", step=7, resumed_from_step=4, reason="the loss is nan")
    train(journal, clock, range(5, 9))
    ship_all(shipper_of(tmp_path, remote))
    assert [step for step, _ in remote.only.history("train/loss")] == list(range(1, 9))
    assert remote.only.tags["rollback.at_7"] == "to 4: the loss is nan"


def test_steps_done_again_with_the_same_losses_are_sent_once(
    tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote
) -> None:
    start(journal, clock)
    train(journal, clock, range(1, 8))
    ship_all(shipper_of(tmp_path, remote))
    start(journal, clock, resumed_from=4)
    train(journal, clock, range(5, 11))
    ship_all(shipper_of(tmp_path, remote))
    for key in ("train/loss", "throughput/tokens_per_sec"):
        assert [step for step, _ in remote.only.history(key)] == list(range(1, 11))
    assert remote.only.tags["resume.1.steps_done_again"] == "5-7"


def test_steps_done_again_with_other_losses_are_sent_and_the_newer_counts(
    tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote
) -> None:
    start(journal, clock)
    train(journal, clock, range(1, 8))
    start(journal, clock, resumed_from=4)
    train(journal, clock, range(5, 9), loss=lambda step: 1.0)
    ship_all(shipper_of(tmp_path, remote))
    steps = [step for step, _ in remote.only.history("train/loss")]
    assert steps == [1, 2, 3, 4, 5, 6, 7, 5, 6, 7, 8]
    assert len(remote.only.history("throughput/tokens_per_sec")) == 11


def test_a_metric_that_is_new_at_a_step_done_again_is_sent(
    tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote
) -> None:
    start(journal, clock)
    train(journal, clock, [1, 2])
    start(journal, clock, resumed_from=1)
    train(journal, clock, [2])
    journal.log(2, {"val/loss": 3.0})
    ship_all(shipper_of(tmp_path, remote))
    assert remote.only.history("val/loss") == [(2, 3.0)]


def test_a_start_from_scratch_in_the_same_folder_does_everything_again(
    tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote
) -> None:
    start(journal, clock)
    train(journal, clock, [1, 2])
    start(journal, clock)
    train(journal, clock, [1, 2, 3])
    ship_all(shipper_of(tmp_path, remote))
    assert [step for step, _ in remote.only.history("train/loss")] == [1, 2, 3]
    assert remote.only.tags["resume.1.steps_done_again"] == "1-2"


def test_a_sender_that_starts_amid_steps_done_again_knows_what_was_sent(
    tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote
) -> None:
    start(journal, clock)
    train(journal, clock, range(1, 6))
    start(journal, clock, resumed_from=2)
    train(journal, clock, [3])
    ship_all(shipper_of(tmp_path, remote))
    train(journal, clock, [4, 5, 6])
    ship_all(shipper_of(tmp_path, remote))
    assert [step for step, _ in remote.only.history("train/loss")] == [1, 2, 3, 4, 5, 6]


def test_rows_written_while_the_sender_looks_belong_to_the_event_before_them(
    tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote
) -> None:
    """A resume between the sender's look at the events and its look at the rows."""
    start(journal, clock)
    train(journal, clock, [1, 2])
    shipper = shipper_of(tmp_path, remote)
    real, looks = shipper._next_event, []

    def look() -> Any:
        found = real()
        looks.append(found)
        if len(looks) == 4:
            start(journal, clock, resumed_from=1)
            train(journal, clock, [2, 3])
        return found

    shipper._next_event = look  # type: ignore[method-assign]
    ship_all(shipper)
    assert looks[3] is None, "the resume must fall between the two looks"
    assert [step for step, _ in remote.only.history("train/loss")] == [1, 2, 3]


def test_a_run_of_another_journal_is_continued_by_its_id(
    tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote
) -> None:
    remote.runs["old"] = StoredRun("demo", {RUN_UID: "u1", "mypt.resume_count": "2"}, 0, status="KILLED")
    start(journal, clock, resumed_from=100)
    shipper = shipper_of(tmp_path, remote, run_id="old")
    ship_all(shipper)
    assert remote.only.tags["mypt.resume_count"] == "3"
    assert remote.only.tags["resume.3.from_step"] == "100"
    assert (shipper.state.run_uid, shipper.state.run_id, remote.only.status) == ("u1", "old", "RUNNING")


def test_a_run_that_nobody_gave_an_id_gets_one(
    tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote
) -> None:
    remote.runs["foreign"] = StoredRun("demo", {"mypt.resume_count": "many"}, 0)
    start(journal, clock)
    shipper = shipper_of(tmp_path, remote, run_id="foreign")
    ship_all(shipper)
    assert remote.only.tags[RUN_UID] == shipper.state.run_uid


def test_a_deleted_run_is_followed_by_a_new_one_with_the_whole_history(
    tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote
) -> None:
    start(journal, clock, lr=1)
    train(journal, clock, [1, 2])
    ship_all(shipper_of(tmp_path, remote))
    remote.runs["run0"].deleted = True
    start(journal, clock, resumed_from=2, lr=2)
    train(journal, clock, [3])
    ship_all(shipper_of(tmp_path, remote))
    assert remote.only is remote.runs["run1"]
    assert remote.only.tags["mypt.resumed_from"] == "run0"
    assert remote.only.params == {"lr": "1"}
    assert remote.only.tags["resume.1.lr"] == "2"
    assert [step for step, _ in remote.only.history("train/loss")] == [1, 2, 3]


def test_a_run_deleted_while_it_is_sent_is_followed_by_a_new_one(
    tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote
) -> None:
    start(journal, clock)
    train(journal, clock, [1])
    shipper = shipper_of(tmp_path, remote)
    ship_all(shipper)
    remote.runs["run0"].deleted = True
    train(journal, clock, [2])
    with pytest.raises(Unreachable):
        shipper.step()
    ship_all(shipper)
    assert [step for step, _ in remote.only.history("train/loss")] == [1, 2]


def test_another_store_gets_the_whole_history_and_the_first_one_is_found_again(
    tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote
) -> None:
    start(journal, clock)
    train(journal, clock, [1])
    ship_all(shipper_of(tmp_path, remote))
    other = FakeRemote()
    other.runs["run0 is taken here"] = StoredRun("x", {}, 0)
    ship_all(shipper_of(tmp_path, other))
    assert len(other.runs["run1"].points) == 2
    train(journal, clock, [2])
    ship_all(shipper_of(tmp_path, remote))
    assert len(remote.only.points) == 4


def test_a_journal_shorter_than_what_was_sent_is_sent_from_its_beginning(
    tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote
) -> None:
    train(journal, clock, [1, 2])
    shipper = shipper_of(tmp_path, remote)
    ship_all(shipper)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text(lines[0] + '{"step": 2, "time": 9, "train/loss": 0.5, "long": 1}\n')
    ship_all(shipper_of(tmp_path, remote))
    assert remote.only.history("train/loss") == [(1, 10.0), (2, 5.0), (2, 0.5)]
