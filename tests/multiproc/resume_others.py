"""Under a launcher: resume a list of runs one after another, and tell what each rank held right after loading.

resume_others.py STOP RUN_FILE…      writes OUT/loaded-RANK.json for each: [[name, start, length, sha256], …]
"""

import hashlib
import json
import os
import sys
from pathlib import Path

from mypt_dist.checkpoint import Checkpoint
from mypt_dist.run.build import train
from mypt_dist.run.checkpointing import Checkpointing
from mypt_dist.run.config import RunConfig
from mypt_dist.training.state import TrainState

restore = Checkpointing.restore


def restore_and_tell(checkpointing: Checkpointing, checkpoint: Checkpoint) -> TrainState:
    state = restore(checkpointing, checkpoint)
    held = [
        [t.name, t.start, t.flat.numel(), hashlib.sha256(t.flat.detach().cpu().numpy().tobytes()).hexdigest()]
        for t in checkpointing.trainable.local_state()
    ]
    folder = checkpoint.folder.parents[1]
    (folder / f"loaded-{os.environ['RANK']}.json").write_text(json.dumps(held))
    return state


Checkpointing.restore = restore_and_tell  # type: ignore[method-assign]
for run_file in sys.argv[2:]:
    outcome = train(RunConfig.load(run_file, [f"train.stop_after={sys.argv[1]}"]))
    assert outcome.state.step == int(sys.argv[1]), outcome
    assert Path(outcome.folder).is_dir()
