"""The journal: what a run reports is a whole line or no line, and never a reason to stop."""

import errno
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tracking_fakes import Clock

from mypt_dist.errors import ConfigError
from mypt_dist.tracking.journal import Journal, is_being_written, read_events, read_metrics
from mypt_dist.tracking.lines import LineWriter, is_line_start, read_lines


def rows(run_dir: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


class FullDisk:
    """`os.write` on a disk with so many bytes left."""

    def __init__(self, free: int) -> None:
        self.free = free

    def __call__(self, fd: int, data: memoryview) -> int:
        if self.free == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = os.write(fd, data[: self.free])
        self.free -= written
        return written


def test_a_row_is_one_json_object_with_step_and_time_first(tmp_path: Path) -> None:
    with Journal(tmp_path, clock=Clock(1_700_000_000.25)) as journal:
        journal.log(10, {"train/loss": 4.5, "train/tokens": 81920})
    line = (tmp_path / "metrics.jsonl").read_text()
    assert line == '{"step": 10, "time": 1700000000250, "train/loss": 4.5, "train/tokens": 81920}\n'


def test_a_value_that_is_not_finite_becomes_null(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.log(1, {"a": float("nan"), "b": float("inf"), "c": -float("inf"), "d": 0.0})
    (row,) = rows(tmp_path)
    assert [row[key] for key in "abcd"] == [None, None, None, 0.0]


@settings(deadline=None, max_examples=50)
@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_a_finite_value_comes_back_as_it_went_in(value: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    run_dir = tmp_path_factory.mktemp("run")
    with Journal(run_dir) as journal:
        journal.log(1, {"x": value})
    assert read_metrics(run_dir)[0]["x"] == value


@pytest.mark.parametrize("name", ["step", "time"])
def test_a_metric_cannot_take_the_name_of_a_column(tmp_path: Path, name: str) -> None:
    with Journal(tmp_path) as journal, pytest.raises(ValueError, match="no metric can be called"):
        journal.log(1, {name: 1.0})


def test_an_event_knows_how_many_bytes_of_rows_came_before_it(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.event("start", params={"a": 1})
        journal.log(1, {"x": 1.0})
        journal.event("checkpoint", step=1, manifest="checkpoints/step-1/manifest.json")
    start, checkpoint = read_events(tmp_path)
    assert (start["kind"], start["params"], start["metrics_bytes"]) == ("start", {"a": 1}, 0)
    assert checkpoint["metrics_bytes"] == (tmp_path / "metrics.jsonl").stat().st_size


def test_urls_in_events_lose_user_password_and_query(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.event(
            "start", tags={"repo": "https://me:canary@host/repo?key=canary"}, dataset=[{"source": "s3://b/c"}]
        )
    assert "canary" not in (tmp_path / "events.jsonl").read_text()
    (event,) = read_events(tmp_path)
    assert event["tags"] == {"repo": "https://host/repo"}
    assert event["dataset"] == [{"source": "s3://b/c"}]


def test_a_torn_last_line_is_cut_off_when_the_journal_is_opened(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "time": 1, "x": 1.0}\n{"step": 2, "ti')
    with Journal(tmp_path) as journal:
        journal.log(3, {"x": 3.0})
    assert [row["step"] for row in rows(tmp_path)] == [1, 3]


@pytest.mark.parametrize("length", [1, 65_535, 65_536, 65_537, 200_000])
def test_a_torn_line_of_any_length_is_cut_off(tmp_path: Path, length: int) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"whole\n" + b"x" * length)
    writer = LineWriter(path)
    writer.close()
    assert path.read_bytes() == b"whole\n"


def test_a_file_of_nothing_but_a_torn_line_becomes_empty(tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b"x" * 70_000)
    LineWriter(tmp_path / "lines").close()
    assert (tmp_path / "lines").read_bytes() == b""


def test_lines_wait_while_the_disk_is_full(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    disk = FullDisk(100)
    journal = Journal(tmp_path, write=disk)
    with caplog.at_level(logging.WARNING):
        for step in range(1, 6):
            journal.log(step, {"x": float(step)})
        journal.event("checkpoint", step=5, manifest="m")
        journal.log(6, {"x": 6.0})
        assert [record.message for record in caplog.records] == [
            "the run's journal cannot be written (No space left on device): training goes on, the newest 10000 lines "
            "wait in memory"
        ]
        assert len(rows(tmp_path)) == 2
        disk.free = 1 << 20
        journal.log(7, {"x": 7.0})
    assert caplog.records[-1].message == "the run's journal can be written again; 0 lines were lost"
    journal.close()
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]
    (event,) = read_events(tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()[: event["metrics_bytes"]]
    assert [json.loads(line)["step"] for line in before.splitlines()] == [1, 2, 3, 4, 5], "events keep their place"
    assert "lines_lost" not in event


def test_the_oldest_rows_are_dropped_and_counted_when_too_many_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mypt_dist.tracking.journal.WAITING_LINES", 5)
    disk = FullDisk(0)
    journal = Journal(tmp_path, write=disk)
    journal.event("start", resumed_from_step=None)
    for step in range(1, 21):
        journal.log(step, {"x": 1.0})
    assert journal.lost == 16
    disk.free = 1 << 20
    journal.event("finish", status="finished")
    journal.close()
    assert [row["step"] for row in rows(tmp_path)] == [17, 18, 19, 20]
    assert [(event["kind"], event["lines_lost"]) for event in read_events(tmp_path)] == [("start", 16), ("finish", 16)]


def test_where_only_events_wait_the_oldest_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mypt_dist.tracking.journal.WAITING_LINES", 2)
    disk = FullDisk(0)
    with Journal(tmp_path, write=disk) as journal:
        for step in range(4):
            journal.event("checkpoint", step=step)
        disk.free = 1 << 20
    assert [event["step"] for event in read_events(tmp_path)] == [2, 3]


@settings(deadline=None, max_examples=50)
@given(free=st.lists(st.integers(0, 120), min_size=1, max_size=8))
def test_whatever_a_full_disk_tears_later_lines_are_whole(
    free: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    run_dir = tmp_path_factory.mktemp("run")
    disk = FullDisk(0)
    with Journal(run_dir, write=disk) as journal:
        for step, room in enumerate(free):
            disk.free = room
            journal.log(step, {"x": 1.0})
        disk.free = 1 << 20
        journal.log(99, {"x": 1.0})
    steps = [row["step"] for row in rows(run_dir)]
    assert steps[-1] == 99
    assert len(steps) == len(free) + 1 - journal.lost


def test_a_device_that_is_full_is_survived_for_real() -> None:
    writer = LineWriter.__new__(LineWriter)
    writer.fd, writer.end, writer._torn, writer._write = os.open("/dev/full", os.O_WRONLY), 0, False, os.write
    with pytest.raises(OSError, match="No space left"):
        writer.append(b"line\n")
    writer.close()


def test_an_event_on_a_full_disk_is_counted_too(tmp_path: Path) -> None:
    with Journal(tmp_path, write=FullDisk(0)) as journal:
        journal.event("finish", status="finished")
    assert journal.lost == 1
    assert read_events(tmp_path) == []


def test_logging_after_the_end_is_harmless(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.close()
    journal.close()
    journal.log(1, {"x": 1.0})
    assert journal.lost == 1


def test_a_folder_that_cannot_be_made_is_the_users_business(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"run folder .*file/run cannot be written"):
        Journal(tmp_path / "file" / "run")


def test_the_last_value_of_a_step_wins_metric_by_metric(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        for step, loss in [(1, 5.0), (2, 4.0), (3, 3.0), (2, 4.5), (3, 3.5), (4, 2.5)]:
            journal.log(step, {"train/loss": loss})
        journal.log(2, {"val/loss": 4.25})
    read = read_metrics(tmp_path)
    assert [(row["step"], row["train/loss"]) for row in read] == [(1, 5.0), (2, 4.5), (3, 3.5), (4, 2.5)]
    assert read[1]["val/loss"] == 4.25


def test_unreadable_lines_are_skipped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = '{"step": 1, "time": 1, "x": 1.0}\n'
    bad = [
        "nonsense\n",
        "[1]\n",
        '{"time": 1}\n',
        '{"step": "1", "time": 1}\n',
        '{"step": true, "time": 1}\n',
        "\xff\n",
    ]
    (tmp_path / "metrics.jsonl").write_text("".join([good, *bad]), encoding="latin-1")
    assert read_metrics(tmp_path) == [{"step": 1, "time": 1, "x": 1.0}]
    assert f"{len(bad)} lines are not readable" in caplog.text


def test_a_folder_without_a_journal_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"it has no metrics\.jsonl"):
        read_metrics(tmp_path)
    assert read_events(tmp_path) == []


def test_a_line_that_is_still_being_written_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"one\ntwo\nthr")
    assert list(read_lines(path)) == [(b"one\n", 4), (b"two\n", 8)]
    assert list(read_lines(path, 4)) == [(b"two\n", 8)]
    assert list(read_lines(path, 0, 4)) == [(b"one\n", 4)]
    assert [is_line_start(path, offset) for offset in (0, 3, 4, 8, 11, 99)] == [True, False, True, True, False, False]
    assert not is_line_start(tmp_path / "missing", 4)


def open_journal_in_a_process(run_dir: Path, then: str) -> subprocess.Popen[bytes]:
    script = f"""
import os, sys, time
from pathlib import Path
from mypt_dist.tracking.journal import Journal
journal = Journal(Path({str(run_dir)!r}))
{then}
print("ready", flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


A_CHILD_THAT_OUTLIVES_IT = """
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, b"x")
    time.sleep(5)
    os._exit(0)
os.read(read, 1)
"""


@pytest.mark.parametrize("then", ["", A_CHILD_THAT_OUTLIVES_IT])
def test_an_open_journal_is_a_sign_of_life_that_ends_with_its_process(tmp_path: Path, then: str) -> None:
    process = open_journal_in_a_process(tmp_path, then)
    try:
        assert is_being_written(tmp_path) is True
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    assert is_being_written(tmp_path) is False


def test_a_folder_without_a_journal_is_not_being_written(tmp_path: Path) -> None:
    assert is_being_written(tmp_path) is False


def test_a_file_system_without_locks_cannot_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(fd: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with Journal(tmp_path):
        assert is_being_written(tmp_path) is None


def test_a_journal_opens_although_another_one_shows_a_sign_of_life(tmp_path: Path) -> None:
    with Journal(tmp_path) as first, Journal(tmp_path) as second:
        first.log(1, {"x": 1.0})
        second.log(2, {"x": 2.0})
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]


def test_a_disk_that_cannot_sync_does_not_stop_an_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("os.fsync", fsync)
    with Journal(tmp_path) as journal:
        journal.event("finish", status="finished")
    assert [event["kind"] for event in read_events(tmp_path)] == ["finish"]


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """The names of the files that were put on the disk, in order."""
    names: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        names.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        real(fd)

    monkeypatch.setattr("os.fsync", fsync)
    return lambda: names


def test_events_are_durable_and_rows_before_them_first(tmp_path: Path, synced: Callable[[], list[str]]) -> None:
    with Journal(tmp_path) as journal:
        journal.log(1, {"x": 1.0})
        assert synced() == []
        journal.event("checkpoint", step=1, manifest="m")
    assert synced() == ["metrics.jsonl", "events.jsonl"]
