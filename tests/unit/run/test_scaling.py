"""Scaling laws: against what their papers say, and against themselves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mypt_dist.run.scaling import BESIROGLU, HOFFMANN, Law, rule_of_flops, rule_of_tokens

LAWS = st.sampled_from([BESIROGLU, HOFFMANN])
CHINCHILLA = 5.76e23
"""The budget of Gopher, and of Chinchilla: 70 billion parameters, 1.4 trillion tokens."""


def test_chinchilla_is_about_what_is_advised_for_its_budget() -> None:
    for best in (rule_of_flops(CHINCHILLA), BESIROGLU.of_flops(CHINCHILLA)):
        assert best.parameters == pytest.approx(70e9, rel=0.05)
        assert best.tokens == pytest.approx(1.4e12, rel=0.08)


def test_the_published_fit_asks_for_a_smaller_model_as_its_authors_say() -> None:
    # Their table A3: 40 billion parameters for this budget by approach 3.
    assert HOFFMANN.of_flops(CHINCHILLA).parameters == pytest.approx(40e9, rel=0.2)


@given(LAWS, st.floats(1e15, 1e25))
def test_no_other_model_of_the_same_budget_has_a_lower_loss(law: Law, flops: float) -> None:
    best = law.of_flops(flops)
    assert best.flops == pytest.approx(flops)
    for factor in (0.5, 0.9, 1.1, 2.0):
        assert law.at(best.parameters * factor, best.tokens / factor) > law.at(best.parameters, best.tokens)


@given(LAWS, st.floats(1e15, 1e25))
def test_a_budget_may_be_told_by_any_of_its_three_sides(law: Law, flops: float) -> None:
    best = law.of_flops(flops)
    assert law.of_tokens(best.tokens).parameters == pytest.approx(best.parameters)
    assert law.of_parameters(best.parameters).tokens == pytest.approx(best.tokens)


@given(st.floats(1e15, 1e25))
def test_the_rule_is_20_tokens_a_parameter(flops: float) -> None:
    best = rule_of_flops(flops)
    assert best.flops == pytest.approx(flops)
    assert best.tokens == pytest.approx(20 * best.parameters)
    assert rule_of_tokens(best.tokens).parameters == pytest.approx(best.parameters)
