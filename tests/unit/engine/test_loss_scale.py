"""fp16's loss scale: overflows change nothing but the scale, which survives a checkpoint."""

import json
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from mypt_dist.engine import Engine, StepRecipe, Trainable


@pytest.fixture
def engine() -> Iterator[Engine]:
    """One that trains in fp16 as on a GPU: autocast and scaling work on a CPU too, Accelerate just leaves them out."""
    engine = Engine()
    engine._accelerator.state._mixed_precision = "fp16"
    engine._accelerator.native_amp = True
    engine._accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
    yield engine
    engine.close()


def trainable(engine: Engine) -> Trainable:
    torch.manual_seed(0)
    layer = nn.Linear(4, 1, bias=False)
    return engine.prepare(layer, torch.optim.AdamW(layer.parameters(), lr=0.1), StepRecipe(max_norm=1.0))


def step(prepared: Trainable, scale: float = 1.0) -> bool:
    prepared.backward(prepared.model(torch.ones(1, 4)).sum() * scale)
    return prepared.update().skipped


def test_an_overflow_is_skipped_and_halves_the_scale(engine: Engine) -> None:
    prepared = trainable(engine)
    assert not step(prepared)
    before = [tensor.flat.clone() for tensor in prepared.local_state()]
    assert step(prepared, 1e38)
    assert all(torch.equal(a, b.flat) for a, b in zip(before, prepared.local_state(), strict=True))
    assert prepared.scaler_state() == {"scale": 512.0, "steps_since_change": 0}
    assert not step(prepared)


def test_the_norm_is_that_of_the_unscaled_gradient(engine: Engine) -> None:
    prepared = trainable(engine)
    prepared.backward(prepared.model(torch.full((1, 4), 3.0)).sum())
    assert prepared.update().norm == pytest.approx(6.0)


def test_the_scale_goes_on_where_it_was(engine: Engine) -> None:
    prepared = trainable(engine)
    step(prepared, 1e38)
    step(prepared)
    step(prepared)
    saved = json.loads(json.dumps(prepared.scaler_state()))
    assert saved == {"scale": 512.0, "steps_since_change": 2}
    engine._accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3)
    other = trainable(engine)
    other.load_scaler_state(saved)
    assert other.scaler_state() == saved
    step(other)
    assert other.scaler_state() == {"scale": 1024.0, "steps_since_change": 0}, "the third good step since the overflow"
