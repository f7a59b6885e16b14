"""The sender's logic against a server that fails: every point once, in order, and a true end."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tracking_fakes import Clock, FakeRemote, Killed, StoredRun, finish, ship_all, shipper_of, start, train

from mypt_dist.tracking.journal import Journal
from mypt_dist.tracking.mlflow_sender import happenings
from mypt_dist.tracking.mlflow_sender.payload import Point
from mypt_dist.tracking.mlflow_sender.remote import RUN_UID, Unreachable
from mypt_dist.tracking.mlflow_sender.state import SenderState, read_state, state_path, write_state


@pytest.fixture
def remote() -> FakeRemote:
    return FakeRemote()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def journal(tmp_path: Path, clock: Clock) -> Journal:
    return Journal(tmp_path, clock=clock)


def test_a_run_arrives_whole(tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote) -> None:
    journal.event(
        "start",
        params={"model": {"layers": 6}, "lr": 3e-4},
        tags={"mlflow.source.git.commit": "abc", "world_size": 2},
        dataset=[{"name": "code", "fingerprint": "d" * 64, "context": "train"}],
        resumed_from_step=None,
    )
    train(journal, clock, [1, 2])
    manifest = tmp_path / "checkpoints" / "step-2" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    journal.event("checkpoint", step=2, manifest="checkpoints/step-2/manifest.json")
    (tmp_path / "sample.txt").write_text("text")
    journal.event("artifact", path="sample.txt")
    journal.event("an event of the future", x=1)
    finish(journal, clock, reason="all steps done")
    shipper = shipper_of(tmp_path, remote)
    ship_all(shipper)
    run = remote.only
    assert run.name == "demo"
    assert run.params == {"model.layers": "6", "lr": "0.0003"}
    assert run.history("train/loss") == [(1, 10.0), (2, 5.0)]
    assert next(iter(run.points)) == Point("train/loss", 10.0, 1_700_000_001_000, 1)
    assert run.files == {
        "config/params.json": '{\n "model": {\n  "layers": 6\n },\n "lr": 0.0003\n}\n',
        "checkpoints/step-2/manifest.json": "{}",
        "sample.txt": "text",
    }
    assert [dataset.digest for dataset in run.datasets] == ["d" * 32]
    assert run.tags == {
        RUN_UID: shipper.state.run_uid,
        "mlflow.source.git.commit": "abc",
        "world_size": "2",
        "mypt.status": "finished",
        "mypt.reason": "all steps done",
        "mypt.checkpoint.last": "2",
    }
    assert (run.status, run.start_time, run.end_time) == ("FINISHED", 1_700_000_000_000, 1_700_000_003_000)
    assert shipper.state == read_state(tmp_path)
    assert shipper.state.points == 4


@pytest.mark.parametrize(
    "end",
    [
        ("finished", "FINISHED"),
        ("stopped", "FINISHED"),
        ("failed", "FAILED"),
        ("killed", "KILLED"),
        ("preempted", "KILLED"),
        ("something new", "FAILED"),
    ],
)
def test_the_end_is_told_as_it_was(
    tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote, end: tuple[str, str]
) -> None:
    said, status = end
    start(journal, clock)
    finish(journal, clock, said)
    ship_all(shipper_of(tmp_path, remote))
    assert (remote.only.status, remote.only.tags["mypt.status"]) == (status, said)


def test_nothing_is_created_before_the_journal_has_a_line(tmp_path: Path, journal: Journal, remote: FakeRemote) -> None:
    assert shipper_of(tmp_path, remote).step() is False
    assert remote.calls == []


def test_a_journal_without_a_start_event_is_shipped_too(
    tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote
) -> None:
    train(journal, clock, [1])
    ship_all(shipper_of(tmp_path, remote))
    assert remote.only.history("train/loss") == [(1, 10.0)]
    assert remote.only.start_time == 1_700_000_001_000


def test_rows_go_in_large_batches(tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote) -> None:
    train(journal, clock, range(1, 2001))
    ship_all(shipper_of(tmp_path, remote))
    assert remote.calls.count("log_points") == 4
    assert len(remote.only.points) == 4000


def test_a_row_of_more_metrics_than_a_batch_may_have_arrives(
    tmp_path: Path, journal: Journal, remote: FakeRemote
) -> None:
    journal.log(1, {f"m{index}": float(index) for index in range(2500)})
    journal.log(2, {"m0": 1.0})
    ship_all(shipper_of(tmp_path, remote))
    assert len(remote.only.points) == 2501


def test_a_failing_server_gets_smaller_batches_until_it_recovers(
    tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote
) -> None:
    train(journal, clock, range(1, 501))
    sizes: list[int] = []
    remote.refuse = lambda call, what: sizes.append(len(what)) is not None if call == "log_points" else False  # type: ignore[arg-type]
    real = remote._call

    def slow(name: str, effect: Callable[[], object], what: object = None) -> object:
        if name == "log_points" and len(what) > 200:  # type: ignore[arg-type]
            raise Unreachable("timed out")
        return real(name, effect, what)

    remote._call = slow  # type: ignore[method-assign]
    ship_all(shipper_of(tmp_path, remote))
    assert len(remote.only.points) == 1000
    assert max(sizes) <= 200


def test_broken_lines_are_passed_over(tmp_path: Path, remote: FakeRemote) -> None:
    (tmp_path / "metrics.jsonl").write_text('nonsense\n{"step": 1, "time": 5, "a": 1.0}\n{"step": 2, "ti')
    (tmp_path / "events.jsonl").write_text(
        'nonsense\n{"kind": "checkpoint", "metrics_bytes": 0}\n{"kind": "start"}\n{"kind": 3, "metrics_bytes": 0}\n'
    )
    ship_all(shipper_of(tmp_path, remote))
    assert remote.only.history("a") == [(1, 1.0)]


def test_one_point_that_is_refused_does_not_take_its_neighbours_with_it(
    tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote
) -> None:
    train(journal, clock, range(1, 101))
    remote.refuse = lambda call, what: call == "log_points" and any(p.step == 50 and "loss" in p.key for p in what)  # type: ignore[attr-defined]
    ship_all(shipper_of(tmp_path, remote))
    assert [step for step, _ in remote.only.history("train/loss")] == [s for s in range(1, 101) if s != 50]
    assert len(remote.only.history("throughput/tokens_per_sec")) == 100


def test_a_run_whose_creation_goes_unanswered_is_found_again(
    tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote
) -> None:
    start(journal, clock)
    remote.faults = {1: "answer lost"}
    ship_all(shipper_of(tmp_path, remote))
    assert remote.calls[:3] == ["find", "create", "find"]
    assert len(remote.runs) == 1


@pytest.mark.parametrize("end", ["finished", None])
def test_a_run_that_appears_after_the_search_for_it_is_deleted_as_a_ghost(
    tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote, end: str | None
) -> None:
    start(journal, clock, a=1)
    shipper = shipper_of(tmp_path, remote)
    ship_all(shipper)
    remote.runs["ghost"] = StoredRun("demo", {RUN_UID: shipper.state.run_uid}, 0)
    remote.runs["a copy with data"] = StoredRun("demo", {RUN_UID: shipper.state.run_uid}, 0, params={"a": "1"})
    if end is None:
        shipper.close_as_killed()
    else:
        finish(journal, clock, end)
        ship_all(shipper)
    assert [name for name, run in remote.runs.items() if run.deleted] == ["ghost"]


def test_no_run_is_created_while_its_id_cannot_be_kept(
    tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote
) -> None:
    start(journal, clock)
    (tmp_path / "tracking").write_text("a file where the folder should be")
    with pytest.raises(Unreachable, match="state cannot be written"):
        shipper_of(tmp_path, remote).step()
    assert remote.runs == {}


def test_a_full_disk_does_not_stop_the_sender(
    tmp_path: Path, journal: Journal, clock: Clock, remote: FakeRemote
) -> None:
    start(journal, clock)
    shipper = shipper_of(tmp_path, remote)
    shipper.step()
    state_path(tmp_path).unlink()
    (tmp_path / "tracking").rmdir()
    (tmp_path / "tracking").write_text("")
    train(journal, clock, [1, 2])
    ship_all(shipper)
    assert len(remote.only.points) == 4


def test_the_last_error_is_kept_until_it_is_over(tmp_path: Path, remote: FakeRemote) -> None:
    shipper = shipper_of(tmp_path, remote)
    shipper.remember("refused")
    assert (read_state(tmp_path) or SenderState()).error == "refused"
    shipper.remember(None)
    assert (read_state(tmp_path) or SenderState(error="x")).error is None


def test_a_state_that_is_none_is_as_good_as_missing(tmp_path: Path) -> None:
    write_state(tmp_path, SenderState(run_id="a"))
    assert read_state(tmp_path) is not None
    state_path(tmp_path).write_text('{"run_uid": "a", "run_id": "b", "a field of the future": 1}')
    assert (read_state(tmp_path) or SenderState()).run_id == "b"
    state_path(tmp_path).write_text("{")
    assert read_state(tmp_path) is None


def test_the_state_is_replaced_as_a_whole_and_only_when_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_state(tmp_path, SenderState(run_uid="before"))
    happened: list[str] = []
    monkeypatch.setattr("os.fsync", lambda fd: happened.append("fsync"))

    def power_cut(aside: Path, target: Path) -> None:
        happened.append("rename")
        raise OSError("power cut")

    monkeypatch.setattr("pathlib.Path.replace", power_cut)
    with pytest.raises(OSError, match="power cut"):
        write_state(tmp_path, SenderState(run_uid="after"))
    assert happened == ["fsync", "rename"]
    assert (read_state(tmp_path) or SenderState()).run_uid == "before"
    assert [path.name for path in (tmp_path / "tracking").iterdir()] == ["mlflow.json"]


def history(run_dir: Path, sessions: Sequence[tuple[int, int, bool]]) -> None:
    """Write a journal of sessions of (steps to go back, steps to do, whether the losses are the same again)."""
    clock = Clock()
    with Journal(run_dir, clock=clock) as journal:
        step = 0
        for number, (back, steps, same) in enumerate(sessions):
            step = max(0, step - back)
            start(journal, clock, resumed_from=step if number else None, session=number)
            train(
                journal, clock, range(step + 1, step + steps + 1), lambda s, n=number, k=same: 10 / s + (0 if k else n)
            )  # type: ignore[misc]
            step += steps
        finish(journal, clock)


def ship_through_kills(run_dir: Path, remote: FakeRemote) -> None:
    while True:
        try:
            ship_all(shipper_of(run_dir, remote))
        except Killed:
            continue
        return


SESSIONS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6), st.booleans()), min_size=1, max_size=4)
FAULTS = st.dictionaries(
    st.integers(0, 60), st.sampled_from(["lost", "answer lost", "killed before", "killed after"]), max_size=12
)


@settings(deadline=None, max_examples=100)
@given(sessions=SESSIONS, faults=FAULTS)
def test_whatever_fails_and_whoever_is_killed_the_store_ends_up_the_same(
    sessions: list[tuple[int, int, bool]], faults: dict[int, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Sent exactly once and in order: the store holds what it would have held had nothing gone wrong."""
    calm, rough = FakeRemote(), FakeRemote()
    rough.faults = faults
    for remote in (calm, rough):
        run_dir = tmp_path_factory.mktemp("run")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(happenings, "FILE_ATTEMPTS", 100)  # no file is given up, so that both may be compared
            patch.setattr("os.fsync", lambda fd: None)
            history(run_dir, sessions)
            ship_through_kills(run_dir, remote)
    expected, found = calm.only, rough.only
    assert list(found.points) == list(expected.points)
    found.tags[RUN_UID] = expected.tags[RUN_UID]
    assert found == expected
    steps = [step for step, _ in expected.history("train/loss")]
    if all(same for _, _, same in sessions):
        assert len(set(steps)) == len(steps)
