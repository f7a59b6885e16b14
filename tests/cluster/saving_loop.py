"""Saves one checkpoint after another and prints the number of each once it is safe.

``saving_loop.py ROOT [--hastily]``; hastily means to wait for nothing: a save is acknowledged when the system has
taken the data.
"""

import sys
from pathlib import Path

from checkpoint_doubles import QuickFiles, random_state, save_dealt

from mypt_dist.checkpoint import CheckpointStore, Disk, Files, Retention
from mypt_dist.world import Solo


def main() -> None:
    """Save until killed."""
    root, hastily = Path(sys.argv[1]), "--hastily" in sys.argv
    disk = Disk(files=QuickFiles() if hastily else Files(), threads=1)
    store = CheckpointStore(root, Solo(), Retention(keep_last=2, keep_best=None), disk=disk)
    for number in range(1, 1_000_000):
        save_dealt(store, Solo(), number, random_state(number))
        print(number, flush=True)


if __name__ == "__main__":
    main()
