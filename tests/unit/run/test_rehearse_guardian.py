"""However a rehearsal ends, nothing of it is left: processes in sessions of their own, folders."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mypt_dist.run.rehearse.household import MARK, kill, mark, members

PLAY = """
import os, subprocess, sys, time
from contextlib import nullcontext
from pathlib import Path
from mypt_dist.run.rehearse.guardian import guarded
from mypt_dist.run.rehearse.household import MARK, mark
token, folder, safe = sys.argv[1:]
Path(folder).mkdir()
with guarded(token, Path(folder)) if safe == "safe" else nullcontext():
    for node in (0, 1):
        environ = {**os.environ, MARK: mark(token, node)}
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env=environ, start_new_session=True,
                         stdout=subprocess.DEVNULL)
    print("playing", flush=True)
    time.sleep(600)
"""


def playing(token: str, folder: Path, safe: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", PLAY, token, str(folder), safe]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "playing\n"
    return process


def gone(token: str, folder: Path, seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not members(token) and not folder.exists():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_behind_however_it_ends(number: signal.Signals, tmp_path: Path) -> None:
    token, folder = f"test-{os.getpid()}-{number}", tmp_path / "play"
    process = playing(token, folder, "safe")
    assert len(members(token)) == 2
    process.send_signal(number)
    process.communicate()
    assert gone(token, folder)


def test_without_the_guardian_processes_and_folder_stay(tmp_path: Path) -> None:
    token, folder = f"twin-{os.getpid()}", tmp_path / "play"
    process = playing(token, folder, "unsafe")
    process.kill()
    process.communicate()
    try:
        assert len(members(token)) == 2
        assert folder.exists()
    finally:
        kill(lambda: members(token))


def test_only_the_marked_processes_of_a_node_are_killed() -> None:
    token = f"house-{os.getpid()}"
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    started = [subprocess.Popen(sleep, env={**os.environ, MARK: mark(token, node)}) for node in (0, 1)]
    other = subprocess.Popen(sleep)
    try:
        assert {process.pid for process in members(token)} == {process.pid for process in started}
        assert kill(lambda: members(token, 1)) == 1
        assert started[1].wait(60) == -signal.SIGKILL
        assert psutil.pid_exists(started[0].pid)
        assert other.poll() is None
    finally:
        for process in (*started, other):
            process.kill()
            process.wait()
