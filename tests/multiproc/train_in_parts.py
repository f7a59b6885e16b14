"""Under a launcher: train a run file until each of the given steps in turn, building everything anew each time."""

import sys

from mypt_dist.run.build import train
from mypt_dist.run.config import RunConfig

_, run_file, *stops = sys.argv
for stop in stops:
    outcome = train(RunConfig.load(run_file, [f"train.stop_after={stop}"]))
    assert outcome.state.step == int(stop), outcome
