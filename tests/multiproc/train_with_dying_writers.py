"""Under a launcher: train a run file while the writer of rank 1 dies or stops, by the book of a scenario.

train_with_dying_writers.py RUN_FILE once|always|rank-killed FOLDER
"""

import os
import signal
import sys
from pathlib import Path

from mypt_dist.checkpoint import BackgroundSaves
from mypt_dist.errors import MyptError
from mypt_dist.run.build import train
from mypt_dist.run.config import RunConfig

_, run_file, scenario, name = sys.argv
RANK, FOLDER = int(os.environ["RANK"]), Path(name)

vote = BackgroundSaves.vote


def vote_and_hurt(self: BackgroundSaves) -> tuple[float, float]:
    """Before it votes, rank 1 hurts a writer that is at work, and rank 0 itself once that is done."""
    flight, pid = self._flight, self._writer.pid  # type: ignore[attr-defined]
    if pid is not None:
        (FOLDER / f"writer-{RANK}").write_text(str(pid))
    if RANK == 1 and flight is not None and flight.answer is None:
        if scenario == "always" or (scenario == "once" and flight.write.step == 200):
            os.kill(pid, signal.SIGKILL)
        if scenario == "rank-killed":
            os.kill(pid, signal.SIGSTOP)
            (FOLDER / "stopped").touch()
    if RANK == 0 and (FOLDER / "stopped").exists() and scenario == "rank-killed":
        os.kill(os.getpid(), signal.SIGKILL)
    return vote(self)


BackgroundSaves.vote = vote_and_hurt  # type: ignore[method-assign]

try:
    train(RunConfig.load(run_file))
except MyptError as error:
    print(f"rank {RANK}: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
