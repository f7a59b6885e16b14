"""The supervisor with children that end as they are told: real processes, real signals."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from mypt_dist.launch.command import LAUNCHER, Command
from mypt_dist.launch.exit_notes import FOLDER
from mypt_dist.launch.supervision import Job, Patience, child, supervise
from mypt_dist.launch.supervision.child import Stop, attempt
from mypt_dist.launch.supervision.verdict import Ending

FAKE = Path(__file__).parent / "fake_launcher.py"
QUICK = Patience(first_wait_s=0.01, longest_wait_s=0.01)


def fake(code: int | str, *ranks: int | str, **environ: str) -> Command:
    return Command(environ, [sys.executable, str(FAKE), LAUNCHER, json.dumps([code, *ranks])])


class Attempts:
    """Commands, one for each attempt, the last one for all that follow."""

    def __init__(self, *commands: Command) -> None:
        self.commands = list(commands)
        self.ranks: list[int] = []

    def __call__(self, ranks: int) -> Command:
        self.ranks.append(ranks)
        return self.commands[min(len(self.ranks), len(self.commands)) - 1]


def run(attempts: Attempts, **changes: object) -> int:
    job = Job(command=attempts, ranks=4, newest_step=lambda: 0, patience=QUICK)
    return supervise(replace(job, **changes))  # type: ignore[arg-type]


def wait_until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(("codes", "expected"), [((1, 2, 7), 2), ((1, 7, 3), 3), ((1, 1, 7), 1), ((0, 0, 0), 0)])
def test_what_would_fail_again_is_not_started_again(codes: tuple[int, ...], expected: int) -> None:
    attempts = Attempts(fake(*codes))
    assert run(attempts) == expected
    assert len(attempts.ranks) == 1


def test_a_killed_rank_is_replaced_and_the_run_ends_well() -> None:
    attempts = Attempts(fake(1, 7, "kill"), fake(1, 9, 7), fake("kill", "stay", "stay"), fake(0, 0, 0))
    assert run(attempts) == 0
    assert attempts.ranks == [4, 4, 4, 4]


def test_a_lone_rank_needs_no_notes() -> None:
    def alone(code: str) -> Command:
        return Command({}, [sys.executable, "-c", f"import os, signal; {code}"])

    killed = "os.kill(os.getpid(), signal.SIGSEGV)"
    attempts = Attempts(alone(killed), alone("os._exit(9)"), alone("pass"))
    assert run(attempts) == 0
    assert len(attempts.ranks) == 3
    assert run(Attempts(alone(killed)), patience=replace(QUICK, restarts=0)) == 139
    assert run(Attempts(alone("raise SystemExit(6)"))) == 6


def test_a_crash_loop_ends_with_the_real_code_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    attempts = Attempts(fake(1, 7, "kill"))
    with caplog.at_level("WARNING", logger="mypt_dist"):
        assert run(attempts) == 7
    assert len(attempts.ranks) == 4
    assert "given up after 3 restarts at step 0 without a new checkpoint; rank 1 died" in caplog.text


def test_progress_makes_the_supervisor_patient_again() -> None:
    attempts = Attempts(*[fake(1, "kill")] * 6, fake(0, 0))
    steps = iter(range(100))
    assert run(attempts, newest_step=lambda: next(steps), patience=replace(QUICK, restarts=1)) == 0
    assert len(attempts.ranks) == 7


def signalled(tmp_path: Path, *signals: tuple[float, signal.Signals], what: str = "stay") -> int:
    """Exit code of a supervisor of two ranks that is sent each signal so many seconds after the one before."""
    attempts = Attempts(fake(1, what, what, FAKE_PIDS=str(tmp_path)))

    def send() -> None:
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
        for seconds, number in signals:
            time.sleep(seconds)
            os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    code = run(attempts)
    sender.join()
    assert len(attempts.ranks) == 1
    assert not any(alive(int(path.name)) for path in tmp_path.iterdir())
    return code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_reaches_the_ranks_and_nothing_is_restarted(number: signal.Signals, tmp_path: Path) -> None:
    assert signalled(tmp_path, (0, number)) == 128 + number


def test_a_second_request_ends_everything_at_once(tmp_path: Path) -> None:
    assert signalled(tmp_path, (0, signal.SIGTERM), (1.2, signal.SIGINT), what="deaf") == 130


def test_signals_at_once_are_one_request(tmp_path: Path) -> None:
    """A job's every process is told, and its launcher tells the ranks again."""
    assert signalled(tmp_path, (0, signal.SIGTERM), (0.05, signal.SIGTERM), what="slow") == 143


def test_after_an_announcement_the_stricter_signal_is_passed_on_too(tmp_path: Path) -> None:
    assert signalled(tmp_path, (0, signal.SIGUSR1), (1.2, signal.SIGTERM), what="announced") == 143


def test_a_signal_while_waiting_for_a_restart_ends_the_wait() -> None:
    attempts = Attempts(fake(1, "kill"))
    patience = Patience(first_wait_s=1000, longest_wait_s=1000)

    def fails(command: Command, stop: Stop) -> Ending:
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
        return Ending(1, {0: None})

    assert run(attempts, patience=patience, attempt=fails) == 143


def test_a_launcher_that_does_not_notice_the_end_of_its_ranks_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "LOOK_EVERY_S", 0.2)
    monkeypatch.setattr(child, "LINGERS_S", 0.5)
    attempts = Attempts(fake("linger", 7, 9), fake("linger", 2))
    assert run(attempts) == 2
    assert len(attempts.ranks) == 2


def test_one_whose_ranks_are_done_may_wait_for_other_machines(tmp_path: Path) -> None:
    for name in ("0.began", "0.ended", "1.began"):
        (tmp_path / name).write_text("0" if name == "0.ended" else "")
    lone = subprocess.Popen(["sleep", "60"], env={**os.environ, FOLDER: str(tmp_path)})
    try:
        wait_until(lambda: child.marked(tmp_path) == [lone.pid])
        assert child._left_alone(lone.pid, tmp_path), "one rank died without a word"
        (tmp_path / "1.ended").write_text("0")
        assert not child._left_alone(lone.pid, tmp_path)
    finally:
        lone.kill()
        lone.wait()


def test_ranks_that_outlive_their_launcher_are_ended_before_the_next_attempt(tmp_path: Path) -> None:
    command = fake("kill", "deaf", "deaf", FAKE_PIDS=str(tmp_path))
    assert attempt(command, Stop()) == Ending(-signal.SIGKILL, {0: None, 1: None})
    assert not any(alive(int(path.name)) for path in tmp_path.iterdir())


def test_they_would_live_on_if_they_were_not_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin of the test above."""
    monkeypatch.setattr("mypt_dist.launch.supervision.child.end_marked", lambda folder: None)
    attempt(fake("kill", "deaf", FAKE_PIDS=str(tmp_path)), Stop())
    wait_until(lambda: list(tmp_path.iterdir()))
    (pid,) = (int(path.name) for path in tmp_path.iterdir())
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)


@contextmanager
def killed_supervisor(tmp_path: Path, before: str = "") -> Iterator[list[int]]:
    """The ranks of a supervisor that was a process of its own, executed ``before``, and is killed."""
    ranks = f"t.fake(1, 'stay', 'stay', FAKE_PIDS={str(tmp_path)!r})"
    imports = "import test_supervision as t, mypt_dist.launch.supervision.child as child"
    code = f"{imports}\n{before}\nt.run(t.Attempts({ranks}))"
    path = os.pathsep.join([str(FAKE.parent), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    pids = [int(path.name) for path in tmp_path.iterdir()]
    assert all(alive(pid) for pid in pids)
    process.kill()
    process.wait()
    yield pids
    for pid in filter(alive, pids):
        os.kill(pid, signal.SIGKILL)


def test_ranks_do_not_outlive_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    with killed_supervisor(tmp_path) as ranks:
        wait_until(lambda: not any(alive(pid) for pid in ranks))


def test_they_would_if_the_launcher_were_not_tied_to_it(tmp_path: Path) -> None:
    """The twin of the test above."""
    with killed_supervisor(tmp_path, before="child.tied = list") as ranks:
        time.sleep(2)
        assert all(alive(pid) for pid in ranks)
        launchers = {int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in ranks}
    for pid in launchers:
        wait_until(lambda pid=pid: not alive(pid))


def test_lasting_failures_go_on_with_fewer_ranks() -> None:
    allowed = {3: 2, 1: 1}
    attempts = Attempts(*[fake(1, "kill")] * 4, fake(0, 0))
    assert run(attempts, at_most=allowed.get, patience=replace(QUICK, restarts=1)) == 0
    assert attempts.ranks == [4, 4, 2, 2, 1]


def test_fewer_ranks_have_an_end_too() -> None:
    allowed = {3: 2}
    attempts = Attempts(fake(1, "kill"))
    assert run(attempts, at_most=allowed.get, patience=replace(QUICK, restarts=1)) == 7
    assert attempts.ranks == [4, 4, 2, 2]


def test_ranks_follow_the_devices_that_are_left(caplog: pytest.LogCaptureFixture) -> None:
    devices = iter([4, 3, 1])
    attempts = Attempts(fake(1, "kill"))
    assert run(attempts, at_most={3: 2, 2: 2}.get, devices=lambda: next(devices)) == 7
    assert attempts.ranks == [4, 2]
    assert "1 devices are left, and no allowed number of ranks fits them" in caplog.text
    assert run(Attempts(fake(0, 0)), devices=lambda: 3) == 2


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False
