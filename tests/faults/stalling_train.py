"""Under a launcher: train a run file; one rank stalls when it comes to a phase of a step, or of every step."""

import ctypes
import os
import signal
import sys
import time

from mypt_dist.cli import main
from mypt_dist.run import watching

_, run_file, rank, phase, step, how, *overrides = sys.argv

STALLS = {
    "sleep": lambda: time.sleep(1000),
    # Called without letting go of the interpreter's lock: no other thread runs. A signal ends one such sleep early.
    "hold-the-lock": lambda: [ctypes.PyDLL(None).sleep(1000) for _ in range(9)],
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "slow": lambda: time.sleep(0.2),
    "none": lambda: None,
}

enter = watching.RunWatch.enter


def stalling(watch: watching.RunWatch, entered: str) -> None:
    enter(watch, entered)
    if (os.environ["RANK"], entered) == (rank, phase) and step in (str(watch.step), "every"):
        print(f"stalling process {os.getpid()}", file=sys.stderr, flush=True)
        STALLS[how]()


watching.RunWatch.enter = stalling  # type: ignore[method-assign]
sys.exit(main(["train", run_file, *overrides]))
