"""The order of the data is a pure function, whoever asks, in whatever portions."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mypt_dist.data.course import Cap, Phase, lay_out
from mypt_dist.data.interleave import EXACT_PERIOD, ROUNDED_PERIOD, interleave, is_exact, quotas
from mypt_dist.data.order import BLOCK, GENESIS, Order, Shuffle, SourceShape, Windows, chain
from mypt_dist.data.permute import derive_key, permute

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/data_order.json").read_text())
SHUFFLES: list[Shuffle] = ["full", "blocks"]


def ids(order: Order, first: int, count: int) -> list[tuple[int, int, int, int]]:
    s = order.samples(first, count)
    return list(zip(s.source.tolist(), s.epoch.tolist(), s.window.tolist(), s.start.tolist(), strict=True))


@given(st.integers(1, 5000), st.integers(0, 2**64 - 1))
def test_permute_is_a_bijection(length: int, seed: int) -> None:
    moved = permute(np.arange(length), length, derive_key(seed))
    assert np.array_equal(np.sort(moved), np.arange(length))


@pytest.mark.parametrize("length", range(1, 130))
def test_permute_is_a_bijection_for_every_small_length(length: int) -> None:
    assert set(permute(np.arange(length), length, derive_key("k", length)).tolist()) == set(range(length))


def test_permute_reaches_beyond_32_bits() -> None:
    length = 10**12 + 7
    where = np.random.default_rng(0).integers(0, length, 5000)
    moved = permute(where, length, derive_key(1))
    assert moved.min() >= 0
    assert moved.max() < length
    assert len(set(moved.tolist())) == len(set(where.tolist()))
    assert 0.45 < (moved > length // 2).mean() < 0.55


def chi_square(observed: np.ndarray) -> float:
    expected = observed.sum() / observed.size
    return float(((observed - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("length", [8, 24, 100])
def test_positions_look_as_uniform_as_a_true_shuffle(length: int) -> None:
    rounds = 2000
    ours, theirs = np.zeros((length, length)), np.zeros((length, length))
    rng = np.random.default_rng(5)
    rows = np.arange(length)
    for seed in range(rounds):
        ours[rows, permute(rows, length, derive_key(seed, "uniform"))] += 1
        theirs[rows, rng.permutation(length)] += 1
    # Degrees of freedom (n-1)^2: five standard deviations of the chi-square distribution around its mean.
    freedom = (length - 1) ** 2
    limit = freedom + 5 * (2 * freedom) ** 0.5
    assert chi_square(theirs) < limit
    assert chi_square(ours) < limit


def test_neighbours_look_as_uniform_as_in_a_true_shuffle() -> None:
    length = 4096
    gaps = []
    for seed in range(40):
        moved = permute(np.arange(length), length, derive_key(seed, "gaps"))
        gaps.append(np.diff(moved) % length)
    observed = np.bincount(np.concatenate(gaps) * 64 // length, minlength=64)
    assert chi_square(observed) < 63 + 5 * (2 * 63) ** 0.5


@given(st.lists(st.integers(1, 500), min_size=1, max_size=6))
def test_every_prefix_of_a_mixture_is_within_one_sample_of_its_share(weights: list[int]) -> None:
    sequence = interleave(quotas(weights))
    total = sum(weights)
    for samples in range(sequence.period + 1):
        for count, weight in zip(sequence.consumed(samples), weights, strict=True):
            assert abs(count - samples * weight / total) < 1


@given(st.lists(st.floats(0.001, 1000), min_size=2, max_size=5), st.integers(0, 10**12))
@settings(max_examples=20, deadline=None)
def test_any_weights_are_kept_to_one_in_the_longest_period(weights: list[float], first: int) -> None:
    sequence = interleave(quotas(weights))
    assert sequence.period <= EXACT_PERIOD
    shares = np.array(weights) / sum(weights)
    assert (
        np.abs(sequence.quota / sequence.period - shares).max()
        <= (0 if is_exact(weights) else len(weights) / ROUNDED_PERIOD) + 1e-12
    )
    sources, numbers = sequence.locate(np.arange(first, first + 50))
    for source in range(len(weights)):
        own = numbers[sources == source].tolist()
        assert own == list(range(sequence.consumed(first)[source], sequence.consumed(first)[source] + len(own)))


def test_equal_weights_alternate() -> None:
    assert interleave((1, 1)).source.tolist() == [0, 1]
    assert quotas([0.75, 0.25]) == (3, 1)
    assert quotas([0.1, 0.2, 0.7]) == (1, 2, 7)


@given(st.integers(1, 400), st.integers(1, 4000))
def test_windows_fit_wherever_they_start(context: int, extra: int) -> None:
    windows = Windows.of(context + extra, context)
    assert windows.count >= 1
    assert windows.max_offset + windows.count * windows.length <= context + extra
    if context + extra >= 2 * context + 1:
        assert windows.max_offset == context, "borders can move over a whole window"


@pytest.mark.parametrize("shuffle", SHUFFLES)
@given(tokens=st.integers(20, 60_000), context=st.integers(1, 12), seed=st.integers(0, 2**63 - 1))
@settings(max_examples=40, deadline=None)
def test_an_epoch_reads_every_window_once_and_no_token_twice(
    shuffle: Shuffle, tokens: int, context: int, seed: int
) -> None:
    order = Order([SourceShape("main", tokens)], context=context, seed=seed, shuffle=shuffle)
    windows = Windows.of(tokens, context)
    epoch = order.samples(2 * windows.count, windows.count)
    assert set(epoch.epoch.tolist()) == {2}
    assert sorted(epoch.window.tolist()) == list(range(windows.count))
    starts = np.sort(epoch.start)
    assert starts[0] >= 0
    assert starts[-1] + windows.length <= tokens
    assert (np.diff(starts) == windows.length).all()


@given(
    seed=st.integers(0, 2**63 - 1),
    tokens=st.lists(st.integers(30, 3000), min_size=1, max_size=3),
    portions=st.lists(st.integers(1, 70), min_size=1, max_size=8),
    shuffle=st.sampled_from(SHUFFLES),
)
@settings(max_examples=60, deadline=None)
def test_the_order_does_not_depend_on_how_it_is_asked_for(
    seed: int, tokens: list[int], portions: list[int], shuffle: Shuffle
) -> None:
    sources = [SourceShape(f"s{i}", n, weight=i + 1) for i, n in enumerate(tokens)]
    whole = ids(Order(sources, context=9, seed=seed, shuffle=shuffle), 0, sum(portions))
    pieces, position = [], 0
    for portion in portions:
        pieces += ids(Order(sources, context=9, seed=seed, shuffle=shuffle), position, portion)
        position += portion
    assert pieces == whole


@given(
    batches=st.sampled_from([4, 8, 12, 24]),
    plan=st.lists(st.tuples(st.sampled_from([1, 2, 4]), st.integers(1, 3)), min_size=1, max_size=5),
)
@settings(max_examples=40, deadline=None)
def test_any_plan_of_stops_and_rank_counts_gives_the_same_chain(batches: int, plan: list[tuple[int, int]]) -> None:
    sources = [SourceShape("a", 700, 0.7), SourceShape("b", 300, 0.3)]
    order = Order(sources, context=7, seed=11)
    expected, position = GENESIS, 0
    for _ in range(sum(steps for _, steps in plan)):
        expected = chain(expected, order.samples(position, batches))
        position += batches
    found, position = GENESIS, 0
    for ranks, steps in plan:
        resumed = Order(sources, context=7, seed=11)
        for _ in range(steps):
            share = batches // ranks
            parts = [resumed.samples(position + rank * share, share) for rank in reversed(range(ranks))]
            columns = [np.concatenate([getattr(p, c) for p in parts]) for c in ("source", "epoch", "window", "start")]
            found = chain(found, type(parts[0])(*columns))
            position += batches
    assert found == expected


@pytest.mark.parametrize("change", [{"seed": 12}, {"shuffle": "blocks"}, {"context": 8}, {"name": "b"}])
def test_what_the_order_depends_on(change: dict[str, object]) -> None:
    def starts(seed: int = 11, shuffle: Shuffle = "full", context: int = 7, name: str = "a") -> list[int]:
        return (
            Order([SourceShape(name, 60_000)], context=context, seed=seed, shuffle=shuffle)
            .samples(0, 99)
            .start.tolist()
        )

    assert starts() == starts()
    assert starts() != starts(**change)  # type: ignore[arg-type]


def test_borders_move_between_epochs() -> None:
    order = Order([SourceShape("a", 1000)], context=99, seed=1)
    count = Windows.of(1000, 99).count
    offsets = {int(order.samples(epoch * count, count).start.min()) for epoch in range(12)}
    assert len(offsets) > 6


def test_a_seek_to_the_trillionth_sample_needs_no_more_memory_than_the_first() -> None:
    order = Order([SourceShape("a", 10**14)], context=1024, seed=1)
    late = order.samples(10**12, 16)
    assert len(late) == 16
    assert late.epoch.tolist() == [10 * 1] * 16 or late.epoch.max() >= 10


def test_blocks_keep_neighbours_together() -> None:
    order = Order([SourceShape("a", 11 * BLOCK * 17)], context=10, seed=3, shuffle="blocks")
    windows = order.samples(0, Windows.of(11 * BLOCK * 17, 10).count).window
    jumps = np.abs(np.diff(windows // BLOCK)) > 0
    assert jumps.sum() < 40, "a full shuffle would change blocks at nearly every sample"


def test_epochs_count_every_source() -> None:
    order = Order([SourceShape("a", 110, 3), SourceShape("b", 110, 1)], context=9, seed=0)
    count = Windows.of(110, 9).count
    assert order.consumed(4 * count) == {"a": 3 * count, "b": count}
    assert order.epochs(4 * count) == {"a": 3.0, "b": 1.0}


def test_the_chain_forgets_the_order_within_a_step_but_not_between_steps() -> None:
    order = Order([SourceShape("a", 1000)], context=9, seed=0)
    first, second = order.samples(0, 8), order.samples(8, 8)
    assert chain(GENESIS, first[slice(None, None, -1)]) == chain(GENESIS, first)
    assert chain(chain(GENESIS, first), second) != chain(chain(GENESIS, second), first)


def test_golden_vectors() -> None:
    """These numbers are a promise to every checkpoint ever written: a change here breaks their resumption."""
    sources = [SourceShape("web", 100_000, 0.7), SourceShape("code", 30_000, 0.3)]
    found = {}
    for shuffle in SHUFFLES:
        order = Order(sources, context=16, seed=1337, shuffle=shuffle)
        found[shuffle] = {
            "first": [list(row) for row in ids(order, 0, 12)],
            "late": [list(row) for row in ids(order, 10**9, 4)],
            "chain": chain(chain(GENESIS, order.samples(0, 12)), order.samples(12, 12)),
        }
    phases = [Phase(7, {"code": 1.0}), Phase(20, {"web": 0.35, "code": 0.65})]
    course = lay_out({"web": 0.7, "code": 0.3}, phases, {"code": Cap(2000, "drop")}, None)
    changed = lay_out({"web": 0.9, "code": 0.1}, phases, past=course.past(10**4))
    curriculum = {
        "first": [list(row) for row in ids(Order(sources, context=16, seed=1337, course=course), 0, 24)],
        "late": [list(row) for row in ids(Order(sources, context=16, seed=1337, course=course), 10**9, 4)],
        "stretches": [[first, dict(quota)] for first, quota in changed.past(10**9).stretches],
    }
    digest = hashlib.sha256(permute(np.arange(99_991), 99_991, derive_key(7, "golden")).tobytes()).hexdigest()
    assert {"orders": found, "curriculum": curriculum, "permutation": digest} == GOLDEN
