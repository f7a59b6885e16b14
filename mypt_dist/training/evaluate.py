"""Loss on fixed windows of each evaluation set: every rank takes its share, the sums are joined once a set."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from mypt_dist.data.loader import EvalWindows
from mypt_dist.engine import Engine
from mypt_dist.engine.host import peers_may_be_lost
from mypt_dist.training.damage import together

ASK_EVERY = 16
"""Batches of an evaluation between two questions to all ranks whether to stop."""


def evaluate_all(
    engine: Engine, model: nn.Module, sets: Mapping[str, EvalWindows], stopping: Callable[[], bool] = lambda: False
) -> dict[str, float]:
    """`evaluate` for the windows of each prefix, one after the other; those that come before a wish to stop."""
    metrics: dict[str, float] = {}
    for prefix, windows in sets.items():
        metrics |= evaluate(engine, model, windows, stopping, prefix)
    return metrics


def evaluate(
    engine: Engine,
    model: nn.Module,
    windows: EvalWindows,
    stopping: Callable[[], bool] = lambda: False,
    prefix: str = "val",
) -> dict[str, float]:
    """``val/loss`` in nats per token, ``val/ppl``, ``val/bpb`` in bits per byte, ``val/accuracy``: how many of the
    learned tokens are the likeliest. The model is left in training mode.

    Of the tokens that are learned, each with its weight, as the loss in training is.

    Nothing if ``stopping`` says on any rank that the run is about to end: a deadline does not wait for a measurement.
    """
    total = torch.zeros(2, dtype=torch.float64)
    batches = together(engine, windows.batches, "evaluation")
    # Where weights are sharded, forward passes are collectives.
    with evaluating(model), torch.no_grad(), peers_may_be_lost():
        for number, batch in enumerate(batches):
            # Every rank has as many batches, so all of them ask together.
            if number % ASK_EVERY == 0 and engine.sum(stopping())[0]:
                return {}
            there = batch.to(engine.device)
            total += model(there.input_ids, **there.keywords(), count_right=True).cpu()
    nats, right, weight, targets, num_bytes = engine.sum(
        *total.tolist(),
        sum(batch.divisor for batch in batches),
        sum(batch.num_targets for batch in batches),
        windows.num_bytes(batches),
    )
    return {**language_metrics(prefix, nats, weight, num_bytes), f"{prefix}/accuracy": right / max(targets, 1)}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Without dropout inside, in training mode afterwards."""
    model.eval()
    try:
        yield model
    finally:
        model.train()


def language_metrics(prefix: str, nats: float, weight: float, num_bytes: float) -> dict[str, float]:
    """Loss per token, perplexity and bits per byte from sums. ``weight``: of all targets, their number by default."""
    loss = nats / (weight or 1.0)
    metrics = {f"{prefix}/loss": loss, f"{prefix}/ppl": _exp(loss)}
    if num_bytes:
        metrics[f"{prefix}/bpb"] = nats / math.log(2) / num_bytes
    return metrics


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf


Evaluate = Callable[[int], dict[str, float]]
"""Metrics after so many steps."""
