"""Under a launcher: train until a step; each rank tells what it held and what saving, and loading before, took.

weigh.py FOLDER RUN_FILE STOP      writes FOLDER/STOP-RANK.json: {"state", "saving", "loading"} in bytes
"""

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.distributed.tensor import DTensor

from mypt_dist.checkpoint import CheckpointStore
from mypt_dist.engine import Trainable
from mypt_dist.run.build import train
from mypt_dist.run.checkpointing import Checkpointing
from mypt_dist.run.config import RunConfig

told: dict[str, int] = {}


def state_bytes(trainable: Trainable) -> int:
    """Of weights, master weights and the optimizer's state, every storage once, with whatever padding it has."""
    parameters = list(trainable.module.parameters())
    # ZeRO-3 keeps a part of every weight, and small weights whole besides.
    weights = [*parameters, *(p.ds_tensor for p in parameters if hasattr(p, "ds_tensor"))]
    local = [w.to_local() if isinstance(w, DTensor) else w.detach() for w in weights]
    state = [tensor.flat for tensor in trainable._held(moments=True)]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in [*local, *state]}
    return sum(storages.values())


def anonymous_bytes() -> int:
    """Memory of this process that no file stands behind: mapped checkpoints are the page cache's."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")))


@contextmanager
def weighed(name: str) -> Iterator[None]:
    """Record by how much the block's peak stood above its start."""
    before, ended, peak = anonymous_bytes(), threading.Event(), 0

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.002):
            peak = max(peak, anonymous_bytes())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        told[name] = max(peak, anonymous_bytes()) - before


restore, save, write = Checkpointing.restore, Checkpointing.save, CheckpointStore.save


def restored(checkpointing: Checkpointing, *arguments: Any) -> Any:
    with weighed("loading"):
        return restore(checkpointing, *arguments)


def saved(checkpointing: Checkpointing, *arguments: Any) -> Any:
    told["state"] = state_bytes(checkpointing.trainable)
    return save(checkpointing, *arguments)


def written(store: CheckpointStore, *arguments: Any, **named: Any) -> Any:
    # Without the canary, which is a forward pass as any other.
    with weighed("saving"):
        return write(store, *arguments, **named)


Checkpointing.restore, Checkpointing.save = restored, saved  # type: ignore[method-assign]
CheckpointStore.save = written  # type: ignore[method-assign]
train(RunConfig.load(sys.argv[2], [f"train.stop_after={sys.argv[3]}"]))
Path(sys.argv[1], f"{sys.argv[3]}-{os.environ['RANK']}.json").write_text(json.dumps(told))
