"""Under a launcher: a few real steps of the loop for each named cell; every rank writes what it holds afterwards.

five_steps.py FOLDER CELL…
CELL = MASKS:ACCUMULATION:OPTIMIZER[:bf16][:held][:recomputed][:compiled][:mutant]
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mypt_dist.data.batch import IGNORE, Batch
from mypt_dist.data.order import Order, Samples, SourceShape
from mypt_dist.engine import Engine, StepRecipe, Trainable
from mypt_dist.models.gpt import GPTConfig
from mypt_dist.optim.adamw import AdamWConfig
from mypt_dist.optim.muon import MuonConfig
from mypt_dist.run.build import compile_blocks
from mypt_dist.training.config import TrainConfig
from mypt_dist.training.guard import Entry
from mypt_dist.training.loop import Metrics, Step, Trainer
from mypt_dist.training.schedule import ScheduleConfig
from mypt_dist.training.signals import StopRequest
from mypt_dist.training.state import TrainState

VOCAB, CONTEXT, BATCH, STEPS = 61, 24, 16, 5

OPTIMIZERS = {
    "adamw": lambda model: AdamWConfig(lr=1e-3).build(model),
    "muon": lambda model: MuonConfig(lr=1e-3).build(model),
    # With rate 1 the change of the weights is the gradient itself.
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=1.0),
}


@dataclass
class FakeLoader:
    """Sixteen examples a step, other ones in every step.

    ``ragged``: between 1 and 24 of the targets of each count, like chat turns behind prompts of any length.
    ``packed``: several documents in each, which must not see each other, and whose last tokens have no target; the
    others weigh between 0 and 2 each.
    """

    masks: str
    micro_batch: int
    rank: int
    ranks: int
    context: int = CONTEXT

    def step(self, position: int) -> Step:
        rng = np.random.default_rng(position)
        ids = torch.from_numpy(rng.integers(0, VOCAB, (BATCH, CONTEXT + 1)))
        labels, segments, weights = ids[:, 1:].clone(), None, None
        if self.masks == "ragged":
            for row, hidden in enumerate(rng.integers(0, CONTEXT, BATCH)):
                labels[row, :hidden] = IGNORE
        if self.masks == "packed":
            ends = torch.from_numpy(rng.random((BATCH, CONTEXT)) < 0.2)
            labels[ends] = IGNORE
            segments = ends.cumsum(1) - ends.long()
            weights = torch.from_numpy(rng.random((BATCH, CONTEXT), np.float32)) * 2
        share = BATCH // self.ranks
        mine = range(self.rank * share, (self.rank + 1) * share, self.micro_batch)
        whole = Batch(ids[:, :-1], labels, 0, segments, weights)
        return Step([_batch(slice(i, i + self.micro_batch), whole) for i in mine], SAMPLES, lambda: 1)

    def metrics(self, position: int) -> dict[str, float]:
        return {}


def _batch(rows: slice, whole: Batch) -> Batch:
    def some(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[rows]

    labels, weights = whole.labels[rows], some(whole.label_weights)
    learned = labels != IGNORE
    total = None if weights is None else float(weights[learned].double().sum())
    return Batch(whole.input_ids[rows], labels, int(learned.sum()), some(whole.segment_ids), weights, total)


SAMPLES: Samples = Order([SourceShape("a", 10**4)], context=CONTEXT, seed=0).samples(0, BATCH)


class Unsaved:
    def due(self, state: TrainState) -> bool:
        return False

    def vote(self) -> tuple[float, ...]:
        return ()

    def heard(self, sums: Sequence[float]) -> None: ...


class Silent:
    def stepped(self, state: TrainState) -> None: ...

    def measured(self, state: TrainState, metrics: Metrics) -> None: ...

    def noted(self, state: TrainState, entry: Entry) -> None: ...


def train(cell: str) -> dict[str, NDArray[np.float64]]:
    """Losses and gradient norms of the steps, and the ranges of weights and their first values that this rank holds."""
    masks, accumulation, optimizer_name, *rest = cell.split(":")
    engine = Engine(precision="bf16" if "bf16" in rest else "fp32")
    micro_batch = BATCH // engine.size // int(accumulation)
    torch.manual_seed(0)
    shape = {"vocab_size": VOCAB, "context": CONTEXT, "n_layer": 2, "n_head": 2, "n_embd": 32}
    model = GPTConfig(**shape, activation_checkpointing="recomputed" in rest).build()
    if "compiled" in rest:
        compile_blocks(model)
    first = {name: p.detach().clone().view(-1) for name, p in model.named_parameters()}
    optimizer = OPTIMIZERS[optimizer_name](model)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    max_norm = 1e9 if optimizer_name == "sgd" else 1.0
    recipe = StepRecipe(max_norm, micro_batch, int(accumulation), hold_gradients="held" in rest)
    trainable = engine.prepare(model, optimizer, recipe)
    loader = FakeLoader(masks, micro_batch, engine.rank, engine.size)
    if "mutant" in rest:
        normalise_wrongly(engine, trainable, loader)
    trainer = Trainer(
        config=TrainConfig(steps=STEPS, batch_size=BATCH, schedule=ScheduleConfig(shape="constant", warmup=0)),
        engine=engine,
        trainable=trainable,
        loader=loader,  # type: ignore[arg-type]  # the same verbs
        evaluate=lambda step: {},
        saving=Unsaved(),  # type: ignore[arg-type]  # the verbs that steps need
        observer=Silent(),
        stop=StopRequest(),
        flops_per_token=1,
        peak_flops=1.0,
    )
    state, rows = TrainState(), []
    for _ in range(1 if optimizer_name == "sgd" else STEPS):
        step, targets, _ = trainer.prepare(state)
        result = trainer.train_step(state, step, targets)
        state = result.state
        metrics = result.metrics()
        rows.append((metrics["train/loss"], metrics["train/grad_norm"]))
    found = {"losses": np.array([row[0] for row in rows]), "norms": np.array([row[1] for row in rows])}
    for tensor in trainable.local_state():
        if tensor.name.startswith("model/"):
            name = tensor.name.removeprefix("model/")
            found[f"now/{name}@{tensor.start}"] = tensor.flat.detach().double().numpy()
            start = first[name][tensor.start : tensor.start + tensor.flat.numel()]
            found[f"first/{name}@{tensor.start}"] = start.double().numpy()
    engine.close()
    return found


def normalise_wrongly(engine: Engine, trainable: Trainable, loader: FakeLoader) -> None:
    """Average the means of micro-batches and ranks, as many trainers do, instead of dividing by the step's targets."""
    mine = [[batch.num_targets for batch in loader.step(step * BATCH).micro_batches] for step in range(STEPS)]
    totals = engine.sum(*(sum(counts) for counts in mine))
    factors = iter(
        total / count / (len(counts) * engine.size)
        for total, counts in zip(totals, mine, strict=True)
        for count in counts
    )
    right = trainable.backward
    trainable.backward = lambda loss: right(loss * next(factors))  # type: ignore[method-assign]


if __name__ == "__main__":
    for wanted in sys.argv[2:]:
        np.savez(Path(sys.argv[1]) / f"{wanted}-{os.environ['RANK']}.npz", **train(wanted))
