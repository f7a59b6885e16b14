"""One run in a folder: who holds the lock, when it is taken over, and who is told."""

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from checkpoint_doubles import QuickFiles, quick_disk

from mypt_dist.checkpoint import Files, Lease, RunLock
from mypt_dist.checkpoint.process import Process
from mypt_dist.errors import ConfigError, LockError

HERE = Process.this()
ELSEWHERE = HERE.model_copy(update={"host": "node-7", "pid": 4242})
GONE = HERE.model_copy(update={"pid": 2**22 + 1, "started": "5"})
"""Linux gives no process so high a number."""


@dataclass
class Clock:
    """Time passes only when somebody sleeps; meanwhile ``meanwhile`` happens."""

    now: float = 0.0
    meanwhile: Callable[[float], None] = field(default=lambda now: None)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile(self.now)

    def lease(self) -> Lease:
        return Lease(renew_s=1e6, lease_s=20, poll_s=1, clock=lambda: self.now, sleep=self.sleep)


def lock(folder: Path, clock: Clock | None = None, *, process: Process = HERE, files: Files | None = None) -> RunLock:
    return RunLock(folder, (clock or Clock()).lease(), disk=quick_disk(files), process=process)


def content(folder: Path) -> dict[str, Any]:
    loaded = json.loads((folder / "run.lock").read_text())
    assert isinstance(loaded, dict)
    return loaded


def abandoned(folder: Path, process: Process) -> RunLock:
    """A lock whose holder will not renew it any more."""
    left = lock(folder, process=process)
    left.acquire()
    return left


def test_the_lock_file_is_there_while_it_is_held_and_gone_afterwards(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "new"
    with lock(folder) as held:
        assert content(folder)["process"]["pid"] == os.getpid()
        assert held.still_mine()
    assert list(folder.iterdir()) == []
    assert not held.still_mine()
    held.release()


def test_a_second_run_is_refused_with_host_process_and_since_when(tmp_path: Path) -> None:
    with lock(tmp_path) as held:
        since = content(tmp_path)["since"]
        with pytest.raises(LockError) as caught:
            lock(tmp_path).acquire()
        assert f"is in use by process {os.getpid()} on {HERE.host} since {since}: stop that run" in str(caught.value)
        assert held.still_mine()


def test_a_live_process_of_another_program_start_is_really_asked_about(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib\nfrom mypt_dist.checkpoint import RunLock\n"
        "RunLock(pathlib.Path(sys.argv[1])).acquire()\nprint('held', flush=True)\nsys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(LockError, match=f"process {child.pid} on"):
            lock(tmp_path).acquire()
        child.kill()
        child.wait()
        with lock(tmp_path) as held:
            assert held.still_mine()


def test_the_lock_of_a_process_that_is_gone_is_taken_over_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = abandoned(tmp_path, GONE)
    clock = Clock()
    with lock(tmp_path, clock) as held:
        assert clock.now == 0
        assert held.still_mine()
        assert not left.still_mine()
        assert "took over the lock of a run that has ended: process 4194305 on" in caplog.text
    left.release()


def test_the_lock_of_another_machine_is_taken_over_after_a_lease_without_renewal(tmp_path: Path) -> None:
    left = abandoned(tmp_path, ELSEWHERE)
    clock = Clock()
    with lock(tmp_path, clock) as held:
        assert clock.now == 20
        assert held.still_mine()
        assert not left.still_mine()
    left.release()
    assert [path.name for path in tmp_path.iterdir()] == []


def test_the_lock_of_another_machine_that_is_renewed_stays(tmp_path: Path) -> None:
    other = abandoned(tmp_path, ELSEWHERE)
    clock = Clock(meanwhile=lambda now: other.renew() if now == 19 else None)
    with pytest.raises(LockError, match="in use by process 4242 on node-7"):
        lock(tmp_path, clock).acquire()
    assert other.still_mine()
    other.release()


def test_the_same_number_on_another_start_of_the_machine_is_watched_not_trusted(tmp_path: Path) -> None:
    left = abandoned(tmp_path, HERE.model_copy(update={"boot_id": "before"}))
    clock = Clock()
    with lock(tmp_path, clock):
        assert clock.now == 20
    left.release()


@pytest.mark.parametrize("garbage", [b"", b"{}", b"\xff\xfe", b"x" * 5000, b'{"pid": 1}'])
def test_a_lock_file_that_says_nothing_is_watched_for_a_lease(tmp_path: Path, garbage: bytes) -> None:
    (tmp_path / "run.lock").write_bytes(garbage)
    clock = Clock()
    with lock(tmp_path, clock) as held:
        assert clock.now == 20
        assert held.still_mine()


def test_a_lock_that_is_just_being_taken_is_not_stolen(tmp_path: Path) -> None:
    (tmp_path / "run.lock").write_bytes(b"")
    clock = Clock(meanwhile=lambda now: (tmp_path / "run.lock").write_bytes(b"{") and None)
    with pytest.raises(LockError, match="in use by another process that is just taking it"):
        lock(tmp_path, clock).acquire()


def test_a_lock_let_go_while_it_is_watched_is_taken(tmp_path: Path) -> None:
    other = abandoned(tmp_path, ELSEWHERE)
    clock = Clock(meanwhile=lambda now: other.release())
    with lock(tmp_path, clock) as held:
        assert clock.now == 1
        assert held.still_mine()


def test_a_run_that_was_taken_over_knows_says_so_once_and_deletes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asleep = abandoned(tmp_path, ELSEWHERE)
    with lock(tmp_path) as held:
        before = content(tmp_path)
        asleep.renew()
        assert "was taken over by another run" in caplog.text
        assert not asleep.still_mine()
        asleep.release()
        assert content(tmp_path) == before
        assert held.still_mine()


class Between(QuickFiles):
    """Does something just before the stale lock is renamed: what another contender may do then."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._actions = [action]

    def rename(self, old: Path, new: Path) -> None:
        while self._actions:
            self._actions.pop()()
        super().rename(old, new)


def test_of_two_that_take_over_the_same_lock_only_one_gets_it(tmp_path: Path) -> None:
    left = abandoned(tmp_path, GONE)
    winner = lock(tmp_path)
    late = lock(tmp_path, files=Between(winner.acquire))
    with pytest.raises(LockError):
        late.acquire()
    assert winner.still_mine()
    assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]
    winner.release()
    left.release()


def test_a_third_that_comes_while_a_lock_is_put_back_keeps_it_and_the_second_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Third(Between):
        def link(self, old: Path, new: Path) -> None:
            third.acquire()
            super().link(old, new)

    left = abandoned(tmp_path, GONE)
    winner, third = lock(tmp_path), lock(tmp_path)
    late = lock(tmp_path, files=Third(winner.acquire))
    with pytest.raises(LockError):
        late.acquire()
    assert [one.still_mine() for one in (winner, third, late)] == [False, True, False]
    assert "changed hands twice" in caplog.text
    for one in (left, winner, third):
        one.release()


def test_a_lock_that_vanishes_before_it_is_taken_away_is_simply_taken(tmp_path: Path) -> None:
    left = abandoned(tmp_path, GONE)
    with lock(tmp_path, files=Between((tmp_path / "run.lock").unlink)) as held:
        assert held.still_mine()
    left.release()


def test_many_that_start_at_once_leave_exactly_one_holder(tmp_path: Path) -> None:
    left = abandoned(tmp_path, GONE)
    contenders = [lock(tmp_path) for _ in range(8)]
    refused: list[LockError] = []

    def contend(one: RunLock) -> None:
        try:
            one.acquire()
        except LockError as error:
            refused.append(error)

    threads = [threading.Thread(target=contend, args=(one,)) for one in contenders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(one.still_mine() for one in contenders) == 1
    for one in [*contenders, left]:
        one.release()


def test_a_lock_that_never_stands_still_is_given_up(tmp_path: Path) -> None:
    class Stuck(QuickFiles):
        def create(self, path: Path) -> int:
            raise FileExistsError

    with pytest.raises(LockError, match="contended for by several runs"):
        lock(tmp_path, files=Stuck()).acquire()


def test_renewing_changes_the_counter_and_nothing_else(tmp_path: Path) -> None:
    with lock(tmp_path) as held:
        before, size = content(tmp_path), (tmp_path / "run.lock").stat().st_size
        for _ in range(12):
            held.renew()
        assert content(tmp_path) == {**before, "renewed": 12}
        assert (tmp_path / "run.lock").stat().st_size == size


def test_a_thread_renews_it_until_it_is_released(tmp_path: Path) -> None:
    renewed = threading.Event()

    class Watching(QuickFiles):
        def write_at(self, descriptor: int, data: bytes, offset: int) -> int:
            if b'"renewed": 3' in data:
                renewed.set()
            return super().write_at(descriptor, data, offset)

    with RunLock(tmp_path, Lease(renew_s=0.001), disk=quick_disk(Watching()), process=HERE):
        assert renewed.wait(30)
    assert not [thread for thread in threading.enumerate() if thread.name == "run-lock" and thread.is_alive()]


def test_a_renewal_that_fails_is_told_and_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(QuickFiles):
        broken = False

        def write_at(self, descriptor: int, data: bytes, offset: int) -> int:
            if self.broken:
                raise OSError(5, "Input/output error")
            return super().write_at(descriptor, data, offset)

    files = Failing()
    with caplog.at_level(logging.WARNING), lock(tmp_path, files=files) as held:
        files.broken = True
        held.renew()
        assert "could not be renewed" in caplog.text
        files.broken = False
        held.renew()
        assert content(tmp_path)["renewed"] == 2


def test_a_lock_that_can_not_be_deleted_is_left_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(QuickFiles):
        def unlink(self, path: Path) -> None:
            raise OSError(30, "Read-only file system")

    with lock(tmp_path, files=Failing()):
        pass
    assert "is left over, the next run will take it over" in caplog.text


@pytest.mark.parametrize("call", ["create", "write_at", "make_folder", "status"])
def test_a_folder_that_can_not_be_written_is_bad_input(tmp_path: Path, call: str) -> None:
    class ReadOnly(QuickFiles):
        pass

    def refuse(*args: object) -> None:
        raise OSError(30, "Read-only file system")

    setattr(ReadOnly, call, refuse)
    folder = tmp_path / "run"
    with pytest.raises(ConfigError, match=r"the run folder .*/run can not be used: Read-only file system"):
        lock(folder, files=ReadOnly()).acquire()
    assert not (folder / "run.lock").exists()


def test_a_folder_under_a_file_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="can not be used"):
        lock(tmp_path / "file" / "run").acquire()
