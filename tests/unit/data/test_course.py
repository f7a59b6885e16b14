"""Weights that change on the way: exactly where they are meant to, and as if the run had never been interrupted."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mypt_dist.data.course import Cap, Course, End, Past, Phase, lay_out
from mypt_dist.data.interleave import exact_shares
from mypt_dist.data.order import GENESIS, Order, SourceShape, Windows, chain

NAMES = ("a", "b", "c")
CONTEXT = 7

weight_tables = st.fixed_dictionaries({name: st.integers(0, 9) for name in NAMES}).filter(lambda w: any(w.values()))
caps = st.dictionaries(
    st.sampled_from(NAMES), st.builds(Cap, st.integers(1, 60), st.sampled_from(["drop", "stop", "error"])), max_size=3
)


@st.composite
def curricula(draw: st.DrawFn) -> tuple[dict[str, int], list[Phase], dict[str, Cap]]:
    """Own weights, up to three phases, and some caps."""
    ends = sorted(draw(st.sets(st.integers(1, 120), max_size=3)))
    phases = [Phase(until, draw(weight_tables)) for until in ends]
    return draw(weight_tables), phases, draw(caps)


def sources(course: Course, end: int) -> list[str]:
    """The source of every sample, one at a time: the slow way."""
    found = []
    for sample in range(end):
        stretch = course.stretches[bisect_right([s.first for s in course.stretches], sample) - 1]
        before, after = stretch.consumed(sample), stretch.consumed(sample + 1)
        (name,) = (name for name in after if after[name] != before[name])
        found.append(name)
    return found


def lasts(course: Course, most: int = 150) -> int:
    return min(most, course.end.sample) if course.end else most


def meant(
    own: Mapping[str, float], phases: Sequence[Phase], limits: Mapping[str, Cap], sample: int, counts: Mapping[str, int]
) -> dict[str, float]:
    """Weights that hold for a sample before which sources gave ``counts``, straight from the words of the run file."""
    table = next((phase.weights for phase in phases if sample < phase.until), own)
    full = {name for name, cap in limits.items() if cap.then == "drop" and counts.get(name, 0) >= cap.samples}
    return {name: weight for name, weight in table.items() if weight and name not in full}


@given(curricula())
@settings(deadline=None)
def test_every_sample_comes_from_the_weights_that_hold_for_it_and_within_one_of_its_share(
    curriculum: tuple[dict[str, int], list[Phase], dict[str, Cap]],
) -> None:
    own, phases, limits = curriculum
    course = lay_out(own, phases, limits)
    counts: dict[str, int] = dict.fromkeys(NAMES, 0)
    held: dict[str, float] = {}
    begun, base = 0, dict(counts)
    for sample, name in enumerate(sources(course, lasts(course))):
        weights = meant(own, phases, limits, sample, counts)
        if weights != held and exact(weights) != exact(held):
            begun, base = sample, dict(counts)
        held = weights
        counts[name] += 1
        for one, share in exact(weights).items():
            assert abs(counts[one] - base[one] - (sample + 1 - begun) * share) < 1
        assert course.consumed(sample + 1).get(name) == counts[name]
        for one, cap in limits.items():
            assert counts[one] <= cap.samples or one not in weights
    if course.end and course.end.sample <= 150:
        weights = meant(own, phases, limits, course.end.sample, counts)
        assert not weights or any(counts[n] >= limits[n].samples for n in course.end.sources)


def exact(weights: Mapping[str, float]) -> dict[str, object]:
    return dict(zip(weights, exact_shares(list(weights.values())), strict=True)) if weights else {}


@given(curricula(), st.lists(st.integers(0, 40), max_size=4))
@settings(deadline=None)
def test_a_course_that_is_laid_out_anew_on_every_resume_is_that_of_an_undisturbed_run(
    curriculum: tuple[dict[str, int], list[Phase], dict[str, Cap]], lives: list[int]
) -> None:
    undisturbed = lay_out(*curriculum)
    past = Past()
    for samples in lives:
        at = min(past.samples + samples, lasts(undisturbed, 10**6))
        course = lay_out(*curriculum, past)
        past = course.past(at)
    resumed = lay_out(*curriculum, past)
    assert resumed.past(10**6) == undisturbed.past(10**6)
    assert resumed.end == undisturbed.end
    for samples in range(0, lasts(undisturbed), 7):
        assert resumed.consumed(samples) == undisturbed.consumed(samples)


@given(curricula(), curricula(), st.integers(0, 100))
@settings(deadline=None)
def test_whatever_is_changed_on_a_resume_the_past_stays_what_it_was(
    before: tuple[dict[str, int], list[Phase], dict[str, Cap]],
    after: tuple[dict[str, int], list[Phase], dict[str, Cap]],
    samples: int,
) -> None:
    old = lay_out(*before)
    samples = min(samples, lasts(old))
    new = lay_out(*after, old.past(samples))
    assert sources(new, samples) == sources(old, samples)
    for name, count in old.consumed(samples).items():
        assert new.consumed(samples).get(name, 0) == count
    if lasts(new) > samples:
        own, phases, limits = after
        assert exact(active(new, samples)) == exact(meant(own, phases, limits, samples, old.consumed(samples)))


def active(course: Course, sample: int) -> Mapping[str, int]:
    return course.stretches[bisect_right([s.first for s in course.stretches], sample) - 1].quota


@given(
    curricula(),
    st.lists(st.integers(40, 900), min_size=3, max_size=3),
    st.lists(st.tuples(st.sampled_from([1, 2, 4]), st.integers(1, 4)), min_size=1, max_size=4),
    st.sampled_from([4, 8, 12]),
)
@settings(max_examples=40, deadline=None)
def test_any_plan_of_resumes_and_rank_counts_gives_the_same_chain_and_every_window_once_an_epoch(
    curriculum: tuple[dict[str, int], list[Phase], dict[str, Cap]],
    tokens: list[int],
    lives: list[tuple[int, int]],
    batch: int,
) -> None:
    shapes = [SourceShape(name, count) for name, count in zip(NAMES, tokens, strict=True)]

    def order(past: Past) -> Order:
        return Order(shapes, context=CONTEXT, seed=5, course=lay_out(*curriculum, past))

    whole, found, past, position = GENESIS, GENESIS, Past(), 0
    undisturbed = order(Past())
    seen: list[tuple[int, int, int]] = []
    for ranks, steps in lives:
        resumed = order(past)
        for _ in range(steps):
            if position + batch > lasts(resumed.course, 10**6):
                break
            share = batch // ranks
            parts = [resumed.samples(position + rank * share, share) for rank in range(ranks)]
            samples = undisturbed.samples(position, batch)
            for column in ("source", "epoch", "window", "start"):
                assert [v for p in parts for v in getattr(p, column)] == getattr(samples, column).tolist()
            whole, found = chain(whole, samples), chain(found, resumed.samples(position, batch))
            seen += zip(samples.source.tolist(), samples.epoch.tolist(), samples.window.tolist(), strict=True)
            position += batch
        past = resumed.course.past(position)
    assert found == whole
    assert len(set(seen)) == len(seen), "a window comes once in an epoch"
    for source, shape in enumerate(shapes):
        count = Windows.of(shape.tokens, CONTEXT).count
        mine = [(epoch, window) for s, epoch, window in seen if s == source]
        complete = {(epoch, window) for epoch in range(len(mine) // count) for window in range(count)}
        assert complete <= set(mine), "an epoch begins when the one before is over"


@pytest.mark.parametrize("far", [10**12, 10**12 + 317])
def test_a_seek_equals_a_walk_behind_a_trillion_samples(far: int) -> None:
    phases = [Phase(10**11, {"a": 0.35, "b": 0.65}), Phase(far, {"a": 0.2, "b": 0.3, "c": 0.5})]
    limits = {"c": Cap(int(0.3 * far), "drop")}
    shapes = [SourceShape(name, 10**10 + number) for number, name in enumerate(NAMES)]
    order = Order(shapes, context=CONTEXT, seed=5, course=lay_out(dict.fromkeys(NAMES, 1.0), phases, limits))
    walk = order.samples(far - 500, 1000)
    for offset in (0, 313, 500, 777):
        seek = order.samples(far - 500 + offset, 20)
        assert seek.start.tolist() == walk.start[offset : offset + 20].tolist()
        assert seek.source.tolist() == walk.source[offset : offset + 20].tolist()


def test_a_switch_comes_exactly_at_its_sample() -> None:
    course = lay_out({"a": 0, "b": 1}, [Phase(13, {"a": 1})])
    assert sources(course, 20) == ["a"] * 13 + ["b"] * 7


def test_equal_weights_of_neighbouring_phases_are_one_stretch() -> None:
    phases = [Phase(5, {"a": 0.5, "b": 0.5}), Phase(9, {"a": 3, "b": 3})]
    assert [s.first for s in lay_out({"a": 1, "b": 2}, phases).stretches] == [0, 9]


def test_a_dropped_source_gives_exactly_its_limit_and_the_others_share_its_weight() -> None:
    course = lay_out({"a": 2, "b": 1, "c": 1}, caps={"a": Cap(10, "drop")})
    assert [dict(s.quota) for s in course.stretches] == [{"a": 2, "b": 1, "c": 1}, {"b": 1, "c": 1}]
    switch = course.stretches[1].first
    assert sources(course, 200)[switch - 1] == "a"
    assert course.consumed(200)["a"] == 10
    assert abs(course.consumed(200)["b"] - course.consumed(200)["c"]) <= 2


def test_a_course_ends_where_one_more_sample_would_be_due_or_nothing_is_left() -> None:
    stopped = lay_out({"a": 3, "b": 1}, caps={"b": Cap(5, "stop")})
    assert stopped.end is not None
    assert sources(stopped, stopped.end.sample + 1)[-1] == "b"
    assert stopped.consumed(stopped.end.sample)["b"] == 5
    assert str(stopped.end) == "data.sources.b is exhausted"
    dry = lay_out({"a": 3, "b": 1}, caps={name: Cap(5, "drop") for name in ("a", "b")})
    assert dry.end == End(10, ("a", "b"), "stop")
    assert str(dry.end) == "data.sources.a, data.sources.b are exhausted"


def test_a_source_that_comes_back_goes_on_where_it_was() -> None:
    first = lay_out({"a": 1, "b": 1})
    without = lay_out({"b": 1}, past=first.past(10))
    again = lay_out({"a": 1, "b": 1}, past=without.past(20))
    assert again.consumed(20) == {"a": 5, "b": 15}
    assert again.consumed(30) == {"a": 10, "b": 20}
    assert again.past(25) == Past(25, ((0, {"a": 1, "b": 1}), (10, {"b": 1}), (20, {"a": 1, "b": 1})))


def test_a_source_whose_time_has_not_come_has_given_nothing() -> None:
    course = lay_out({"a": 1, "b": 1}, [Phase(10, {"a": 1})])
    order = Order([SourceShape(name, 500) for name in "ab"], context=CONTEXT, seed=5, course=course)
    assert order.positions(4)["b"] == {"samples": 0, "tokens": 0, "epochs": 0.0}


def test_samples_of_a_removed_source_are_not_asked_for() -> None:
    course = lay_out({"b": 1}, past=lay_out({"a": 1, "b": 1}).past(10))
    order = Order([SourceShape("b", 500)], context=CONTEXT, seed=5, course=course)
    assert order.first_known == 10
    assert order.samples(10, 3).source.tolist() == [0, 0, 0]
    assert order.positions(12) == {
        "a": {"samples": 5, "tokens": 5 * CONTEXT},
        "b": {"samples": 7, "tokens": 7 * CONTEXT, "epochs": 7 / Windows.of(500, CONTEXT).count},
    }
    with pytest.raises(AssertionError):
        order.samples(0, 4)
