"""Names and values arrive in MLflow as they are, or as near as its limits allow and told apart."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mypt_dist.tracking.mlflow_sender.payload import (
    MAX_BATCH_BYTES,
    MAX_ENTRIES,
    Dataset,
    Point,
    batches,
    clip,
    datasets,
    params,
    points,
    safe_name,
    tags,
)

NAMES = st.text(max_size=300) | st.lists(st.sampled_from([".", "..", "/", "a", "@", " ", ":"]), max_size=8).map("".join)


@pytest.mark.parametrize(
    "name", ["train/loss", "a.b-c_d e:f", "throughput/tokens_per_sec", "größe", ".hidden", "a" * 250]
)
def test_a_name_that_mlflow_takes_stays_as_it_is(name: str) -> None:
    assert safe_name(name) == name


@pytest.mark.parametrize(
    "name", ["acc@5", "a//b", "../a", "a/../b", "/a", "a/", ".", "..a", "", "a" * 251, "a\n", "p(x)=1"]
)
def test_a_name_that_mlflow_refuses_is_changed(name: str) -> None:
    assert safe_name(name) != name


@settings(deadline=None)
@given(name=NAMES)
def test_mlflow_takes_every_name_that_comes_out(name: str) -> None:
    from mlflow.utils.validation import _validate_metric_name, _validate_param_name, _validate_tag_name

    for validate in (_validate_metric_name, _validate_param_name, _validate_tag_name):
        validate(safe_name(name))
    assert len(safe_name(name)) <= 250


@settings(deadline=None)
@given(one=NAMES, other=NAMES)
def test_two_names_never_become_one(one: str, other: str) -> None:
    assert one == other or safe_name(one) != safe_name(other)


def test_a_lone_surrogate_in_a_name_is_survived() -> None:
    assert safe_name("a\ud800").startswith("a_-")


def test_the_points_of_a_row_are_its_finite_numbers() -> None:
    row = {
        "step": 7, "time": 1000, "a": 1, "b": 2.5, "c": None, "d": "text", "e": True,
        "f": math.nan, "g": math.inf, "h": 10**400, "i@": 0.0,
    }  # fmt: skip
    assert points(row) == [
        Point("a", 1.0, 1000, 7),
        Point("b", 2.5, 1000, 7),
        Point(safe_name("i@"), 0.0, 1000, 7),
    ]


def test_a_configuration_becomes_dotted_params() -> None:
    tree = {"model": {"type": "gpt", "layers": 6, "tied": True, "rope": None}, "betas": [0.9, 0.95], "empty": {}}
    assert params(tree) == {
        "model.type": "gpt", "model.layers": "6", "model.tied": "true", "model.rope": "null",
        "betas": "[0.9, 0.95]", "empty": "{}",
    }  # fmt: skip


def test_a_param_that_is_too_long_is_cut_and_its_end_still_counts() -> None:
    one, other = params({"a": "x" * 7000 + "1"})["a"], params({"a": "x" * 7000 + "2"})["a"]
    assert len(one) == len(other) == 6000
    assert one != other
    assert params({"a": "x" * 6000})["a"] == "x" * 6000


def test_tags_may_be_longer_than_params() -> None:
    assert tags({"note": "x" * 8000, "world": 2, "long": "y" * 8001}) == {
        "note": "x" * 8000, "world": "2", "long": clip("y" * 8001, 8000),
    }  # fmt: skip


def test_a_dataset_used_twice_is_one_input_with_both_uses() -> None:
    fingerprint = "f" * 64
    entries = [
        {"name": "code", "fingerprint": fingerprint, "path": "data/code", "context": "train", "tokens": 5},
        {"name": "code", "fingerprint": fingerprint, "path": "data/code", "context": "val", "tokens": 5},
        {"name": "other", "fingerprint": "abc"},
    ]
    assert datasets(entries) == [
        Dataset("code", "f" * 32, "data/code", "train, val", '{"tokens": 5}'),
        Dataset("other", "abc", "other", "", "{}"),
    ]


@settings(deadline=None)
@given(sizes=st.lists(st.integers(0, 6000), max_size=250))
def test_batches_hold_everything_within_the_limits(sizes: list[int]) -> None:
    entries = {f"p{index}": "é" * size for index, size in enumerate(sizes)}
    found = list(batches(entries))
    assert {name: value for batch in found for name, value in batch.items()} == entries
    assert all(0 < len(batch) <= MAX_ENTRIES for batch in found)
    assert all(sum(6 * len(value) for value in batch.values()) <= MAX_BATCH_BYTES for batch in found)


def test_batches_are_full_before_the_next_one_begins() -> None:
    assert [len(batch) for batch in batches({f"p{index}": "" for index in range(250)})] == [100, 100, 50]
    assert [len(batch) for batch in batches({f"p{index}": "é" * 6000 for index in range(30)})] == [13, 13, 4]
    assert list(batches({})) == []
