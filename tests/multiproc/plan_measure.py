"""Under a launcher: two steps of a real engine; the main rank tells the most that its tensors and its process took.

plan_measure.py RUNFILE KEY=VALUE...    prints {"base", "tensors", "process", "steady"} in bytes
"""

import functools
import gc
import json
import sys
import weakref
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mypt_dist.engine import Engine, StepRecipe, Trainable
from mypt_dist.run.batching import batch_shape
from mypt_dist.run.config import RunConfig
from mypt_dist.run.plan.process import most_resident


class Live(TorchDispatchMode):
    """Bytes of every storage that is seen, also while it is resized: FSDP2 frees weights so."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.storages: dict[int, tuple[Any, int]] = {}

    def see(self, tensor: Tensor) -> None:
        if tensor.device.type == "meta":
            return
        storage = tensor.untyped_storage()
        known = self.storages.get(id(storage))
        if known is None:
            gone = functools.partial(self.gone, id(storage))
            known = self.storages[id(storage)] = (weakref.ref(storage, gone), 0)
        self.storages[id(storage)] = (known[0], storage.nbytes())
        self.live += storage.nbytes() - known[1]
        self.peak = max(self.peak, self.live)

    def gone(self, key: int, _: object) -> None:
        self.live -= self.storages.pop(key)[1]

    def __enter__(self) -> Any:
        resize, live = torch.UntypedStorage.resize_, self

        def watched(storage: torch.UntypedStorage, size: int) -> None:
            resize(storage, size)
            known = live.storages.get(id(storage))
            if known is not None:
                live.storages[id(storage)] = (known[0], storage.nbytes())
                live.live += storage.nbytes() - known[1]
                live.peak = max(live.peak, live.live)

        torch.UntypedStorage.resize_ = watched
        return super().__enter__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(kind is DTensor for kind in types):
            return NotImplemented
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.see(leaf)
        return result


def step(trainable: Trainable, ids: Tensor, passes: int) -> None:
    for number in range(passes):
        with trainable.micro_batch(last=number == passes - 1):
            loss = trainable.model(ids, labels=ids)
            trainable.backward(loss / 1000)
            del loss
    trainable.update()
    gc.collect()


def main(run_file: str, *overrides: str) -> None:
    config = RunConfig.load(run_file, overrides)
    engine = Engine(precision=config.train.precision)
    shape = batch_shape(config.train, config.model.context, engine.rank, engine.size)
    base = most_resident()
    with Live() as live:
        model = config.model.build()
        recipe = StepRecipe(1.0, shape.micro_batch, shape.micro_batches, config.train.hold_gradients)
        trainable = engine.prepare(model, config.optimizer.build(model), recipe)
        del model
        ids = torch.zeros((shape.micro_batch, shape.context), dtype=torch.int64)
        step(trainable, ids, shape.micro_batches)
        live.peak = live.live
        step(trainable, ids, shape.micro_batches)
    if engine.is_main:
        told = {"base": base, "tensors": live.peak, "process": most_resident(), "steady": live.live}
        print(json.dumps(told), flush=True)
    engine.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
