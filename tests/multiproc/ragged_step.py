"""Under a launcher: real training steps on ragged masks; the gradient of each goes to a file.

Plain SGD with rate 1 makes the change of the weights the gradient itself.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mypt_dist.data.batch import IGNORE, Batch
from mypt_dist.data.order import Order, Samples, SourceShape
from mypt_dist.engine import Engine, StepRecipe
from mypt_dist.models.gpt import GPTConfig
from mypt_dist.training import loop
from mypt_dist.training.config import TrainConfig
from mypt_dist.training.loss import loss_sum
from mypt_dist.training.schedule import ScheduleConfig
from mypt_dist.training.signals import StopRequest
from mypt_dist.training.state import TrainState

VOCAB, CONTEXT, BATCH = 61, 24, 16


@dataclass
class RaggedLoader:
    """Sixteen examples of which between 1 and 24 targets count: like chat turns behind prompts of any length."""

    micro_batch: int
    rank: int
    ranks: int
    context: int = CONTEXT

    def step(self, position: int) -> loop.Step:
        rng = np.random.default_rng(3)
        ids = torch.from_numpy(rng.integers(0, VOCAB, (BATCH, CONTEXT + 1)))
        labels = ids[:, 1:].clone()
        for row, hidden in enumerate(rng.integers(0, CONTEXT, BATCH)):
            labels[row, :hidden] = IGNORE
        share = BATCH // self.ranks
        mine = range(self.rank * share, (self.rank + 1) * share, self.micro_batch)
        parts = [slice(i, i + self.micro_batch) for i in mine]
        batches = [Batch(ids[p, :-1], labels[p], int((labels[p] != IGNORE).sum())) for p in parts]
        return loop.Step(batches, samples(), lambda: 1)

    def epochs(self, position: int) -> dict[str, float]:
        return {}


def samples() -> Samples:
    return Order([SourceShape("a", 10**4)], context=CONTEXT, seed=0).samples(0, BATCH)


class Silent:
    def stepped(self, state: TrainState) -> None: ...

    def measured(self, state: TrainState, metrics: loop.Metrics) -> None: ...


def step(out: Path, micro_batch: int, mutant: bool) -> None:
    """One step from fresh weights; a mutant averages the means of micro-batches and ranks, as most trainers do."""
    engine = Engine()
    loop.loss_sum = mean_of_means(engine, micro_batch) if mutant else loss_sum
    torch.manual_seed(0)
    model = GPTConfig(vocab_size=VOCAB, context=CONTEXT, n_layer=2, n_head=2, n_embd=32).build()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    optimizer.param_groups[0]["initial_lr"] = 1.0
    trainer = loop.Trainer(
        config=TrainConfig(steps=1, batch_size=BATCH, schedule=ScheduleConfig(shape="constant")),
        engine=engine,
        trainable=engine.prepare(model, optimizer, StepRecipe(max_norm=1e9)),
        loader=RaggedLoader(micro_batch, engine.rank, engine.size),  # type: ignore[arg-type]  # the same two verbs
        evaluate=dict,
        save=lambda state, metrics: None,
        observer=Silent(),
        stop=StopRequest(),
        flops_per_token=1,
        peak_flops=1.0,
    )
    result = trainer.train_step(TrainState())
    loss = result.metrics()["train/loss"]
    if engine.is_main:
        gradient = {name: (before[name] - p.detach()).double() for name, p in model.named_parameters()}
        np.savez(out, loss=loss, tokens=result.state.tokens, **{n: g.numpy() for n, g in gradient.items()})
    engine.close()


def mean_of_means(engine: Engine, micro_batch: int) -> Callable[[Tensor, Tensor], Tensor]:
    loader = RaggedLoader(micro_batch, engine.rank, engine.size)
    (targets,) = engine.sum(sum(batch.num_targets for batch in loader.step(0).micro_batches))
    rounds = BATCH // micro_batch

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        # The loop divides by the targets of the step: what is left is the mean over micro-batches and ranks.
        return loss_sum(logits, labels) / (labels != IGNORE).sum() * (targets / rounds)

    return loss


if __name__ == "__main__":
    for cell in sys.argv[2:]:
        size, _, kind = cell.partition("-")
        step(Path(f"{sys.argv[1]}-{cell}.npz"), int(size), mutant=kind == "mutant")
