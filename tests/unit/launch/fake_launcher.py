"""``fake_launcher.py accelerate.commands.launch [CODE, RANK…]`` starts ranks in their own sessions, as torchrun does.

A RANK is the exit code it ends with, "kill" for one that kills itself, "stay" for one that stays until a signal comes
and then ends with 128 + signal, "slow" the same a second later, "announced" only at SIGTERM, "deaf" never. The launcher
passes signals on, dies of SIGKILL itself if CODE is "kill", and never ends of itself if it is "linger".
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from mypt_dist.launch.exit_notes import noted


def launch(code: int | str, ranks: list[int | str]) -> int:
    started = []

    def pass_on(number: int, frame: object) -> None:
        for rank in started:
            rank.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, pass_on)
    for number, what in enumerate(ranks):
        environ = {**os.environ, "RANK": str(number)}
        command = [sys.executable, __file__, "rank", str(what)]
        started.append(subprocess.Popen(command, env=environ, start_new_session=True))
    if code == "kill":
        while len(list(Path(os.environ["MYPT_EXIT_NOTES"]).glob("*.began"))) < len(ranks):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    for rank in started:
        rank.wait()
    return linger() if code == "linger" else int(code)


def linger() -> int:
    while True:
        time.sleep(0.05)


def rank(what: str) -> int:
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: received.append(number))
    if pids := os.environ.get("FAKE_PIDS"):
        (Path(pids) / str(os.getpid())).touch()
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    while what == "stay" and not received:
        time.sleep(0.05)
    while what == "slow" and not received:
        time.sleep(0.05)
    if what == "slow":
        time.sleep(1.0)
    while what == "deaf" or (what == "announced" and signal.SIGTERM not in received):
        time.sleep(0.05)
    return 128 + received[-1] if received else int(what)


if __name__ == "__main__":
    if sys.argv[1] == "rank":
        raise SystemExit(noted(lambda: rank(sys.argv[2]), os.environ))
    of_launcher, *of_ranks = json.loads(sys.argv[2])
    raise SystemExit(launch(of_launcher, of_ranks))
