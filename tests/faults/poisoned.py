"""Under a launcher: training in which one rank's numbers go wrong; each rank tells what became of its state.

poisoned.py FOLDER RUN_FILE RANK STEP[,STEP…] [flip]     writes FOLDER/told-RANK.json

At the steps, counted in calls, the gradient of RANK is NaN, or with ``flip`` one bit of one of its weights is turned
over before the step. Told is of every update: its number, whether it was skipped, and whether the state was changed.
"""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from mypt_dist.engine import Update
from mypt_dist.engine.trainable import Accept
from mypt_dist.errors import MyptError
from mypt_dist.run.build import train
from mypt_dist.run.config import RunConfig
from mypt_dist.training.loop import Trainer

FOLDER, RUN_FILE, RANK, STEPS, *REST = sys.argv[1:]
BAD = {int(step) for step in STEPS.split(",")}
told: list[dict[str, Any]] = []


def state_hash(trainer: Trainer) -> str:
    digest = hashlib.sha256()
    for tensor in trainer.trainable._held(moments=True):
        digest.update(tensor.flat.detach().clone().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def poison(trainer: Trainer) -> None:
    trainable, mine = trainer.trainable, os.environ["RANK"] == RANK
    backward, update = trainable.backward, trainable.update

    def poisoned(loss: torch.Tensor) -> None:
        bad = mine and len(told) + 1 in BAD and not REST
        backward(loss * torch.nan if bad else loss)

    def watched(accept: Accept) -> Update:
        number = len(told) + 1
        if REST and mine and number in BAD:
            trainable.replicas()[0].view(-1).view(torch.uint8)[5] ^= 4
        before = state_hash(trainer)
        done = update(accept)
        told.append({"call": number, "skipped": done.skipped, "changed": state_hash(trainer) != before})
        return done

    trainable.backward, trainable.update = poisoned, watched  # type: ignore[method-assign]


prepared = Trainer.__post_init__


def prepare(trainer: Trainer) -> None:
    prepared(trainer)
    poison(trainer)


Trainer.__post_init__ = prepare  # type: ignore[method-assign]
code = 0
try:
    train(RunConfig.load(RUN_FILE))
except MyptError as error:
    print(f"poisoned: {error}", file=sys.stderr)
    code = error.exit_code
Path(FOLDER, f"told-{os.environ['RANK']}.json").write_text(json.dumps({"code": code, "updates": told}))
