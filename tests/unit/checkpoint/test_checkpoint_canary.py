"""A loss that is computed again when a model is loaded."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mypt_dist.checkpoint import Canary, canary_problem


def canary(loss: float, batch: str = "abc") -> Canary:
    return Canary(loss=loss.hex(), batch=batch)


@given(st.floats())
def test_every_loss_has_a_spelling_and_agrees_with_itself(loss: float) -> None:
    assert canary_problem(canary(loss), canary(loss), same_world=True) is None


def test_in_the_same_world_the_last_bit_counts() -> None:
    problem = canary_problem(canary(2.5), canary(math.nextafter(2.5, 3)), same_world=True)
    assert problem is not None
    assert "2.5000000000000004 here and was 2.5 when it was saved: every bit must agree" in problem


@pytest.mark.parametrize(("loss", "agrees"), [(2.5 * (1 + 9e-4), True), (2.5 * (1 + 2e-3), False), (math.nan, False)])
def test_in_another_world_the_order_of_sums_may_differ_but_not_the_model(loss: float, agrees: bool) -> None:
    assert (canary_problem(canary(2.5), canary(loss), same_world=False) is None) is agrees


def test_losses_of_two_batches_are_not_compared() -> None:
    assert canary_problem(canary(2.5), canary(9.0, batch="other"), same_world=True) is None


@pytest.mark.parametrize("loss", ["2.5", "0x", "", "NaN", "0x1.8p+1 "])
def test_only_the_exact_spelling_is_accepted(loss: str) -> None:
    with pytest.raises(ValidationError):
        Canary(loss=loss, batch="abc")
