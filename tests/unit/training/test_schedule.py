from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mypt_dist.training.schedule import ScheduleConfig, factor

SHAPES = st.sampled_from(["cosine", "wsd", "linear", "constant"])


@given(SHAPES, st.integers(1, 500), st.integers(0, 600), st.floats(0, 1))
def test_the_rate_stays_between_nothing_and_the_peak(shape: str, steps: int, warmup: int, floor: float) -> None:
    config = ScheduleConfig.model_validate({"shape": shape, "warmup": warmup, "floor": floor})
    rates = [factor(step, steps, config) for step in range(steps)]
    assert all(0 < rate <= 1 or (rate == 0 and floor == 0) for rate in rates)
    after = rates[warmup:]
    assert all(a >= b - 1e-12 for a, b in pairwise(after)), "it never rises after the warm-up"


def test_known_points() -> None:
    cosine = ScheduleConfig(warmup=10, floor=0.1)
    assert factor(0, 110, cosine) == pytest.approx(1 / 11)
    assert factor(10, 110, cosine) == 1.0
    assert factor(60, 110, cosine) == pytest.approx(0.55)
    assert factor(110, 110, cosine) == pytest.approx(0.1)
    linear = ScheduleConfig(shape="linear", floor=0.0)
    assert factor(25, 100, linear) == 0.75
    wsd = ScheduleConfig(shape="wsd", decay=20, floor=0.0)
    assert [factor(s, 100, wsd) for s in (0, 79, 80, 90)] == [1.0, 1.0, 1.0, 0.5]
    assert factor(79, 100, ScheduleConfig(shape="wsd")) == 1.0
    assert factor(81, 100, ScheduleConfig(shape="wsd")) < 1.0
    assert factor(99, 100, ScheduleConfig(shape="constant", warmup=4)) == 1.0


@given(st.integers(1, 64), st.integers(0, 99), SHAPES)
def test_tokens_are_steps_in_another_unit(tokens: int, step: int, shape: str) -> None:
    in_steps = ScheduleConfig.model_validate({"shape": shape, "warmup": 7, "decay": 30})
    in_tokens = ScheduleConfig.model_validate(
        {"shape": shape, "warmup": 7 * tokens, "decay": 30 * tokens, "unit": "tokens"}
    )
    assert factor(step, 100, in_tokens, tokens) == pytest.approx(factor(step, 100, in_steps))
