"""Under a launcher: train a run file while the writer of rank 1 dies or stops, by the book of a scenario."""

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from mypt_dist.errors import MyptError
from mypt_dist.run.build import train
from mypt_dist.run.config import RunConfig
from mypt_dist.run.saving import RunSaving
from mypt_dist.training.state import TrainState

_, run_file, scenario, folder = sys.argv
RANK = int(os.environ["RANK"])

begin, vote = RunSaving.begin, RunSaving.vote


def begin_and_hurt(self: RunSaving, state: TrainState, metrics: Mapping[str, float]) -> None:
    begin(self, state, metrics)
    pid = self.background._writer.pid  # type: ignore[union-attr,attr-defined]
    if pid is None:
        # Rank 1's writer starts with the first order for it.
        return
    (Path(folder) / f"writer-{RANK}").write_text(str(pid))


def vote_and_hurt(self: RunSaving) -> object:
    writer = self.background._writer  # type: ignore[union-attr]
    pid, flight = writer.pid, self.background._flight  # type: ignore[union-attr,attr-defined]
    if RANK == 1 and pid is not None and flight is not None and flight.answer is None:
        (Path(folder) / "writer-1").write_text(str(pid))
        first = flight.write.step == 5
        if scenario == "always" or (scenario == "once" and first):
            os.kill(pid, signal.SIGKILL)
        if scenario == "rank killed":
            os.kill(pid, signal.SIGSTOP)
    if RANK == 0 and scenario == "rank killed" and self._now == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return vote(self)


RunSaving.begin = begin_and_hurt  # type: ignore[method-assign]
RunSaving.vote = vote_and_hurt  # type: ignore[method-assign,assignment]

try:
    train(RunConfig.load(run_file))
except MyptError as error:
    print(f"rank {RANK}: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
