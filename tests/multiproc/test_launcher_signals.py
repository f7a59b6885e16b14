"""SIGUSR1 to the launcher: passed on to the ranks, nobody left behind."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from mypt_dist.launch.command import command
from mypt_dist.launch.files import read_launch_file
from mypt_dist.launch.plan import Place, plan

pytestmark = pytest.mark.multiproc

RANK = """
import os, pathlib, signal, sys, time
heard = []
signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
pathlib.Path(sys.argv[1], os.environ["RANK"]).write_text(str(os.getpid()))
while not heard:
    time.sleep(0.05)
time.sleep(1.0)  # a checkpoint
pathlib.Path(sys.argv[1], os.environ["RANK"] + ".saved").touch()
"""


def send_usr1(tmp_path: Path, **environ: str) -> int:
    """Exit code of a launcher of two ranks that is sent SIGUSR1."""
    found = command(plan(read_launch_file("cpu"), Place()), [], {}, 2)
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    arguments = [*found.arguments[: found.arguments.index("-m", 3)], str(script), str(tmp_path)]
    launcher = subprocess.Popen(
        arguments, env={**os.environ, **found.environment, **environ}, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not all((tmp_path / rank).exists() and (tmp_path / rank).read_text() for rank in "01"):
        assert time.monotonic() < deadline
        assert launcher.poll() is None
        time.sleep(0.05)
    launcher.send_signal(signal.SIGUSR1)
    return launcher.wait(timeout=120)


def test_the_ranks_hear_it_and_have_time_to_save(tmp_path: Path) -> None:
    assert send_usr1(tmp_path) != -signal.SIGUSR1
    assert all((tmp_path / f"{rank}.saved").exists() for rank in "01")


def test_by_itself_the_launcher_would_die_and_leave_them(tmp_path: Path) -> None:
    """The twin of the test above."""
    assert send_usr1(tmp_path, PET_SIGNALS_TO_HANDLE="SIGTERM") == -signal.SIGUSR1
    for rank in "01":
        os.kill(int((tmp_path / rank).read_text()), signal.SIGKILL)
