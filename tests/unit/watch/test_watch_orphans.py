"""What becomes of ranks whose launcher is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mypt_dist.watch.guard import state_of

LAUNCHER = """
import os, subprocess, sys, time
rank = "import os, time\\n" + sys.argv[1] + "\\nos.write(1, b'%d\\\\n' % os.getpid())\\ntime.sleep(100)"
for number in range(2):
    subprocess.Popen([sys.executable, "-c", rank], env={**os.environ, "LOCAL_RANK": str(number)})
time.sleep(100)
"""
SAFEGUARD = "from mypt_dist.watch.orphans import die_with_launcher; die_with_launcher(os.environ)"


@pytest.mark.parametrize(("safeguard", "survivors"), [(SAFEGUARD, 0), ("", 2)], ids=["asked for", "mutation twin"])
def test_ranks_die_with_their_launcher_because_they_ask_for_it(safeguard: str, survivors: int) -> None:
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, safeguard], stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    ranks = [int(launcher.stdout.readline()) for _ in range(2)]
    try:
        launcher.kill()
        launcher.wait()
        deadline = time.monotonic() + (30 if safeguard else 1)
        while time.monotonic() < deadline and alive(ranks) != survivors:
            time.sleep(0.05)
        if not safeguard:
            time.sleep(1)
        assert alive(ranks) == survivors
    finally:
        for rank in ranks:
            if alive([rank]):
                os.kill(rank, signal.SIGKILL)
        launcher.stdout.close()


def alive(processes: list[int]) -> int:
    return sum(state_of(process) not in ("", "Z", "X") for process in processes)


def test_without_a_launcher_nothing_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mypt_dist.watch import orphans

    monkeypatch.setattr(orphans, "die_with_parent", lambda: pytest.fail("a shell is no launcher"))
    orphans.die_with_launcher({"PATH": "/bin"})


def test_a_rank_whose_launcher_was_gone_before_ends_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    from mypt_dist import lifeline
    from mypt_dist.watch import orphans

    sent: list[tuple[int, int]] = []
    parents = iter([500, 1])
    monkeypatch.setattr(orphans.os, "getppid", lambda: next(parents))
    monkeypatch.setattr(orphans.os, "kill", lambda pid, number: sent.append((pid, number)))
    monkeypatch.setattr(lifeline.sys, "platform", "none")
    orphans.die_with_launcher({"LOCAL_RANK": "0"})
    assert sent == [(os.getpid(), signal.SIGKILL)]
