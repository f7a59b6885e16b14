"""A real guard beside a small process: no torch, no ranks."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mypt_dist.watch import flight_recorder, stacks
from mypt_dist.watch.guard import state_of

RANK = """
import ctypes, os, signal, sys, time
from pathlib import Path
from mypt_dist.watch.rank import Watch
watch = Watch(Path(sys.argv[1]), rank=0, size=2, grace_s=1.0, heartbeat_s=0.2)
watch.start()
watch.publish()
print(watch._guard.pid, flush=True)
def at(phase, limit_s=60.0):
    watch.enter(phase, 4, limit_s)
{body}
"""


def start(folder: Path, body: str, ranks: int = 2) -> "subprocess.Popen[str]":
    code = RANK.replace("{body}", body).replace("size=2", f"size={ranks}")
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def eventually(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def guard_of(rank: "subprocess.Popen[str]") -> int:
    assert rank.stdout is not None
    return int(rank.stdout.readline())


@pytest.mark.parametrize(
    ("stall", "codes", "stack"),
    [
        ("time.sleep(100)", {9}, "in <module>"),
        # The lock is never free: the rank can run nothing, and is killed.
        ("ctypes.PyDLL(None).sleep(100); ctypes.PyDLL(None).sleep(100)", {9, -9}, "in <module>"),
        ("os.kill(os.getpid(), signal.SIGSTOP)", {-9}, "the process is stopped"),
        ("signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65)); time.sleep(100)", {9}, "in <module>"),
    ],
    ids=["sleeps", "holds the lock", "is stopped", "blocks its signals"],
)
def test_a_rank_that_stalls_is_reported_and_ended(tmp_path: Path, stall: str, codes: set[int], stack: str) -> None:
    rank = start(tmp_path, f"at('forward', 0.5)\n{stall}")
    _, errors = rank.communicate(timeout=60)
    assert rank.returncode in codes, errors
    assert "[rank 0] hangs" in errors
    assert "in phase forward of step 4" in errors
    (path,) = (tmp_path / "hangs").iterdir()
    assert stack in path.read_text()
    assert '"hung": true' in (tmp_path / "heartbeat.json").read_text()


def test_a_rank_that_goes_on_is_left_alone_and_its_end_is_told(tmp_path: Path) -> None:
    body = "for _ in range(40):\n    at('forward', 9.0)\n    time.sleep(0.05)\nat('end')\nwatch.stop(); watch.stop()"
    rank = start(tmp_path, body)
    guard = guard_of(rank)
    _, errors = rank.communicate(timeout=60)
    assert (rank.returncode, errors) == (0, "")
    assert '"ended": true' in (tmp_path / "heartbeat.json").read_text()
    assert not Path(f"/proc/{guard}").exists()


def test_before_the_folder_is_ours_a_hang_is_told_on_stderr_alone(tmp_path: Path) -> None:
    rank = start(tmp_path, "watch._public = False\nat('rendezvous', 0.3)\ntime.sleep(100)")
    _, errors = rank.communicate(timeout=60)
    assert rank.returncode == 9
    assert "in phase rendezvous" in errors
    assert "Stacks of rank 0" in errors
    assert list(tmp_path.iterdir()) == []


def test_a_guard_is_small_and_dies_with_its_rank(tmp_path: Path) -> None:
    rank = start(tmp_path, "at('forward')\ntime.sleep(100)")
    guard = guard_of(rank)
    eventually((tmp_path / "heartbeat.json").exists, "a heartbeat")
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{guard}/status").read_text().splitlines() if ":" in line)
    assert int(fields["VmRSS"].split()[0]) < 40_000, "kB"
    assert "torch" not in Path(f"/proc/{guard}/maps").read_text()
    rank.kill()
    rank.communicate()
    eventually(lambda: state_of(guard) in ("", "Z"), "the guard outlives its rank")


def test_a_guard_that_is_killed_is_started_again(tmp_path: Path) -> None:
    body = "import mypt_dist.watch.rank as module\nmodule.RESTART_S = 0.1\nat('forward')\ntime.sleep(100)"
    rank = start(tmp_path, body)
    os.kill(guard_of(rank), signal.SIGKILL)
    eventually((tmp_path / "heartbeat.json").exists, "no heartbeat before, one after")
    (tmp_path / "heartbeat.json").unlink()
    eventually((tmp_path / "heartbeat.json").exists, "a heartbeat of the new guard")
    rank.kill()
    rank.communicate()


def test_a_run_of_one_rank_that_was_stopped_goes_on_when_it_is_continued(tmp_path: Path) -> None:
    body = "at('forward', 1.5)\nprint('there', flush=True)\ntime.sleep(100)"
    rank = start(tmp_path, body, ranks=1)
    guard_of(rank)
    assert rank.stdout is not None
    assert rank.stdout.readline() == "there\n"
    os.kill(rank.pid, signal.SIGSTOP)
    time.sleep(4)
    assert state_of(rank.pid) == "T"
    os.kill(rank.pid, signal.SIGCONT)
    assert rank.communicate(timeout=60)[1].count("hangs:") == 1, "only after it was continued"


def test_a_full_disk_does_not_keep_a_hang_from_being_ended(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    rank = start(tmp_path / "file", "at('forward', 0.3)\ntime.sleep(100)")
    _, errors = rank.communicate(timeout=60)
    assert rank.returncode == 9
    assert "hangs" in errors
    assert "in <module>" in errors, "the stacks, where no file can be written"


def test_the_innermost_frame_of_the_main_thread_is_found() -> None:
    text = (
        'Thread 0x1 (most recent call first):\n  File "/a/threading.py", line 5 in wait\n\n'
        'Current thread 0x2 (most recent call first):\n  File "/x/torch/distributed/distributed_c10d.py", line 7 in '
        'all_reduce\n  File "/y/mypt_dist/engine/host.py", line 3 in sum\n'
    )
    assert stacks.innermost(text) == ("distributed/distributed_c10d.py:7 all_reduce", True)
    assert stacks.innermost("") == ("", False)


def test_the_flight_recorder_is_asked_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(flight_recorder.PIPE, raising=False)
    assert flight_recorder.ask(3) == ""
    monkeypatch.setenv(flight_recorder.PIPE, f"{tmp_path}/pipe_")
    monkeypatch.setenv(flight_recorder.FILE, "/dumps/rank_")
    assert flight_recorder.ask(3) == "", "no pipe"
    os.mkfifo(tmp_path / "pipe_3.pipe")
    assert flight_recorder.ask(3) == "", "nobody reads it"
    reader = os.open(tmp_path / "pipe_3.pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert flight_recorder.ask(3) == "NCCL's record of collectives: /dumps/rank_3"
    assert os.read(reader, 1) == b"1"
    os.close(reader)
