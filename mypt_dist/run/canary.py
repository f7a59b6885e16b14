"""A loss that is saved with every checkpoint and computed again on loading: hashes prove bytes, this proves code."""

import hashlib
import logging
import platform
from functools import cache
from pathlib import Path

import torch

from mypt_dist.checkpoint import Canary, Manifest, canary_problem
from mypt_dist.data.batch import Batch
from mypt_dist.engine import Engine, Trainable
from mypt_dist.engine.host import peers_may_be_lost
from mypt_dist.errors import CheckpointError
from mypt_dist.run.provenance import code_version
from mypt_dist.training.evaluate import evaluating
from mypt_dist.world import JSON

log = logging.getLogger(__name__)


class CanaryBatch:
    """One fixed window of the training data, the same on every rank whatever their number."""

    def __init__(self, batch: Batch, trainable: Trainable, engine: Engine, precision: str) -> None:
        self._batch, self._trainable, self._engine = batch, trainable, engine
        tokens = batch.input_ids.contiguous().numpy().tobytes() + batch.labels.contiguous().numpy().tobytes()
        self._name = f"{precision}:{hashlib.sha256(tokens).hexdigest()}"

    def sing(self) -> Canary:
        """Its loss now, as rank 0 computes it. A collective where weights are sharded."""
        there = self._batch.to(self._engine.device)
        with evaluating(self._trainable.module) as model, torch.no_grad(), peers_may_be_lost():
            nats = model(there.input_ids, **there.keywords())
        return Canary(loss=float(nats).hex(), batch=self._name)

    def check(self, saved: Manifest) -> None:
        """Raise `CheckpointError` on every rank if the loaded model is not the one that was saved."""
        if saved.canary is None:
            return
        mine = self.sing()
        # Rank 0's, so that all ranks come to one verdict.
        loss = self._engine.all_gather(mine.loss)[0]
        now = Canary(loss=str(loss), batch=mine.batch)
        if problem := canary_problem(saved.canary, now, same_world=False):
            raise CheckpointError(
                f"the checkpoint of step {saved.step} holds what was written, but {problem}: this code or this machine "
                "computes something else. Use the version that wrote it "
                f"({saved.code.get('version')} {saved.code.get('commit') or ''})"
            )
        same = saved.engine == engine_entry(self._engine) and saved.world_size == self._engine.size
        if same and saved.code.get("torch") == code_version()["torch"]:
            problem = canary_problem(saved.canary, now, same_world=True)
            if problem and self._engine.is_main:
                log.warning("resuming at step %d is not exact: %s", saved.step, problem)


def engine_entry(engine: Engine) -> dict[str, JSON]:
    """What bits depend on, for the manifest: the engine, and the hardware that computes."""
    cpu = engine.device.type == "cpu"
    return {
        "name": engine.name,
        "device": engine.device.type,
        "hardware": _processor() if cpu else torch.cuda.get_device_name(engine.device),
        "threads": torch.get_num_threads() if cpu else 0,
    }


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
