"""Each filter on logits against numbers worked out by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mypt_dist.generation import filters

INF = math.inf


def _row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float32)


def test_ids_that_the_tokenizer_does_not_have_get_no_probability() -> None:
    assert filters.without_unused(_row(1, 2, 3, 4), 2).tolist() == [[1, 2, -INF, -INF]]
    assert filters.without_unused(_row(1, 2), 2).tolist() == [[1, 2]]


def test_the_penalty_makes_recent_tokens_less_likely_whatever_their_sign() -> None:
    logits = torch.tensor([[2.0, -2.0, 4.0, 0.0], [2.0, -2.0, 4.0, 0.0]])
    penalised = filters.penalised(logits, [[0, 1, 1], [3, 2]], 2.0)
    assert penalised.tolist() == [[1, -4, 4, 0], [2, -2, 2, 0]]
    assert filters.penalised(logits, [[0], [0]], 1.0) is logits


def test_a_penalty_keeps_masked_ids_masked() -> None:
    assert filters.penalised(_row(-INF, 1), [[0]], 0.5).tolist() == [[-INF, 1]]


def test_top_k_keeps_the_largest() -> None:
    assert filters.top_k(_row(1, 4, 3, 2), 2).tolist() == [[-INF, 4, 3, -INF]]
    assert filters.top_k(_row(1, 4, 3, 2), 0).tolist() == [[1, 4, 3, 2]]
    assert filters.top_k(_row(1, 4, 3, 2), 9).tolist() == [[1, 4, 3, 2]]


def test_top_p_keeps_the_fewest_that_reach_the_mass() -> None:
    logits = _row(0.1, 0.5, 0.15, 0.25).log()

    def kept(p: float) -> list[int]:
        return filters.top_p(logits, p)[0].isfinite().nonzero().flatten().tolist()

    assert kept(0.01) == [1]
    assert kept(0.5) == [1]
    assert kept(0.51) == [1, 3]
    assert kept(0.8) == [1, 2, 3]
    assert kept(1.0) == [0, 1, 2, 3]
    assert torch.equal(filters.top_p(logits, 0.6)[0, [1, 3]], logits[0, [1, 3]])


def test_a_draw_inverts_the_cumulated_probabilities() -> None:
    logits = _row(0.2, 0.0, 0.5, 0.3).log().expand(5, 4)
    uniforms = torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71], dtype=torch.float64)
    assert filters.drawn(logits, uniforms).tolist() == [0, 0, 2, 2, 3]


@settings(deadline=None)
@given(
    st.lists(st.floats(-30, 30), min_size=1, max_size=12),
    st.lists(st.booleans(), min_size=12, max_size=12),
    st.sampled_from([0.0, 1e-300, 0.5, 1 - 2**-53]) | st.floats(0, 1, exclude_max=True),
)
def test_an_id_without_probability_is_never_drawn(values: list[float], masked: list[bool], uniform: float) -> None:
    logits = torch.tensor([[-INF if mask else value for value, mask in zip(values, masked, strict=False)]])
    if logits.isfinite().any():
        drawn = filters.drawn(logits, torch.tensor([uniform], dtype=torch.float64))
        assert logits[0, drawn[0]].isfinite()


def test_draws_follow_the_probabilities() -> None:
    probabilities = torch.tensor([0.1, 0.6, 0.3])
    uniforms = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    counts = filters.drawn(probabilities.log().expand(20_000, 3), uniforms).bincount(minlength=3)
    assert (counts / 20_000).tolist() == pytest.approx(probabilities.tolist(), abs=0.01)
