"""Under a launcher: start a run, and tell what each rank held right after the start's weights were loaded.

start_and_tell.py RUN_FILE      writes OUT/loaded-RANK.json: [[name, start, length, sha256], …]
"""

import hashlib
import json
import os
import sys

from mypt_dist.engine import Engine, Trainable
from mypt_dist.run.build import train
from mypt_dist.run.config import RunConfig
from mypt_dist.run.starting import Start

load = Start.load
config = RunConfig.load(sys.argv[1])


def load_and_tell(start: Start, engine: Engine, trainable: Trainable) -> None:
    load(start, engine, trainable)
    held = [
        [t.name, t.start, t.flat.numel(), hashlib.sha256(t.flat.detach().cpu().numpy().tobytes()).hexdigest()]
        for t in trainable.local_state()
    ]
    (config.folder / f"loaded-{os.environ['RANK']}.json").write_text(json.dumps(held))


Start.load = load_and_tell  # type: ignore[method-assign]
train(config)
