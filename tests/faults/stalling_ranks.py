"""One of several small ranks that go through the phases of a run, under watch but without torch; one of them stalls.

They meet by files in a folder where real ones would meet in a collective.
"""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

from mypt_dist.run.watching import RunWatch
from mypt_dist.watch.config import WatchConfig

_, folder, rank, ranks, victim, phase, step, how, watched = sys.argv

STALLS = {
    "sleep": lambda: time.sleep(1000),
    # Called without letting go of the interpreter's lock: no other thread runs. A signal ends one such sleep early.
    "hold-the-lock": lambda: [ctypes.PyDLL(None).sleep(1000) for _ in range(9)],
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
}
UNLOCKED = ("start", "rendezvous")
STARTING = ("data", "model", "restore")
STEP = ("data_wait", "vote", "compute", "forward", "backward", "compute", "optimizer")
BETWEEN = ("loop", "evaluate", "save")


def meet(where: str) -> None:
    place = Path(folder) / "meetings" / where
    place.mkdir(parents=True, exist_ok=True)
    (place / rank).touch()
    while len(list(place.iterdir())) < int(ranks):
        time.sleep(0.02)


def at(watch: RunWatch, entered: str) -> None:
    watch.enter(entered)
    if (rank, entered, watch.step) == (victim, phase, int(step)):
        STALLS[how]()


limits = {"first_step_s": 10, "step_s": 4, "evaluate_s": 4, "save_s": 4, "grace_s": 2, "heartbeat_s": 0.5}
config = WatchConfig.model_validate({**limits, "watchdog": watched == "watched"})
with RunWatch(config, Path(folder), {"RANK": rank, "WORLD_SIZE": ranks}) as watch:
    for entered in UNLOCKED:
        at(watch, entered)
    meet("lock")
    if rank == "0":
        watch.forget_others()
    meet("locked")
    watch.publish()
    for entered in STARTING:
        at(watch, entered)
    with watch.training(0):
        for number in range(1, 5):
            for entered in STEP:
                at(watch, entered)
                if entered == "vote":
                    meet(f"step-{number}")
            watch.stepped(number)
            for entered in BETWEEN:
                at(watch, entered)
    at(watch, "end")
    meet("end")
