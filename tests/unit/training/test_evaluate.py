"""Sums over validation windows, and the numbers made of them."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mypt_dist.data.batch import IGNORE
from mypt_dist.data.loader import BatchShape, EvalWindows, TokenGather
from mypt_dist.data.stream import TokenStream
from mypt_dist.engine import Engine
from mypt_dist.training.evaluate import evaluate, language_metrics

VOCAB, CONTEXT, END = 11, 4, 10
BYTES = np.full(VOCAB, 3, dtype=np.uint16)


class Asked(nn.Module):
    """Two nats for every target, half of them right; remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[tuple[int, ...], bool, bool, bool]] = []

    def forward(self, ids: Tensor, *, labels: Tensor, segment_ids: Tensor | None, count_right: bool) -> Tensor:
        assert count_right
        self.asked.append((tuple(ids.shape), segment_ids is not None, self.training, torch.is_grad_enabled()))
        return torch.tensor([2.0, 0.5], dtype=torch.float64) * (labels != IGNORE).sum()


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.close()


def windows(document_end: int | None, limit: int = 5) -> EvalWindows:
    stream = TokenStream("text", [np.arange(60, dtype=np.uint16) % VOCAB])
    gather = TokenGather([stream], BYTES, VOCAB, document_end=document_end)
    return EvalWindows(gather, BatchShape(2, 2, CONTEXT), [60], limit)


@pytest.mark.parametrize("document_end", [None, END])
def test_every_window_counts_once_whatever_documents_see(engine: Engine, document_end: int | None) -> None:
    model = Asked()
    metrics = evaluate(engine, model, windows(document_end))
    assert metrics["val/loss"] == 2.0
    assert metrics["val/accuracy"] == 0.5
    assert metrics["val/ppl"] == pytest.approx(math.exp(2))
    assert metrics["val/bpb"] == pytest.approx(2 / math.log(2) / 3)
    masked = document_end is not None
    assert model.asked == [(shape, masked, False, False) for shape in ((2, 4), (2, 4), (1, 4))]
    assert model.training


def test_metrics_follow_from_sums() -> None:
    assert language_metrics("a", 0.0, 0.0, 0.0) == {"a/loss": 0.0, "a/ppl": 1.0}
    assert language_metrics("a", 1e6, 1.0, 0.0)["a/ppl"] == math.inf
