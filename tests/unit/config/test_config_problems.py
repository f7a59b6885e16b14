"""Every mistake in a file is reported, at once, under the key that the user wrote."""

from typing import Any

import pytest

from mypt_dist.config import validate
from mypt_dist.config.problems import near_miss
from mypt_dist.errors import ConfigError
from mypt_dist.run.config import RunConfig

RUN: dict[str, Any] = {
    "model": {"type": "gpt", "vocab_size": 64, "context": 8, "n_layer": 1, "n_head": 1, "n_embd": 8},
    "data": {"path": "somewhere"},
    "train": {"steps": 1, "batch_size": 4},
}


def message(**changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        validate(RunConfig, {**RUN, **changes}, "run.json")
    return str(caught.value)


def test_a_valid_run_is_equal_after_a_round_trip() -> None:
    run = validate(RunConfig, RUN, "run.json")
    assert validate(RunConfig, run.model_dump(mode="json"), "again") == run


def test_all_problems_are_reported_at_once() -> None:
    text = message(
        model={"type": "gpt", "n_layr": 2, "context": 8, "n_head": 1, "n_embd": 8},
        train={"steps": "many", "stepz": 3},
        optimizer={"type": "adamw", "lr": -1},
    )
    assert text.splitlines()[0] == "run.json is not valid:"
    assert "  model.n_layr: unknown key, did you mean 'n_layer'?" in text
    assert "  model.n_layer: is missing" in text
    assert "  train.steps: input should be a valid integer" in text
    assert "got 'many'" in text
    assert "  train.stepz: unknown key, did you mean 'steps'?" in text
    assert "  train.batch_size: is missing" in text
    assert "  optimizer.lr: input should be greater than 0, got -1" in text


def test_an_unknown_part_gets_the_nearest_name() -> None:
    text = message(model={"type": "gtp"})
    assert "model: there is no type 'gtp', did you mean 'gpt'? (known: gpt, llama)" in text


def test_a_part_without_a_type_is_told_so() -> None:
    assert "model: needs a 'type'" in message(model={"n_layer": 1})


def test_a_key_that_resembles_nothing_gets_the_list() -> None:
    assert "unknown key (known: about, checkpoints, data, " in message(zzzz=1)


def test_a_wrong_section_is_named() -> None:
    assert "train: input should be a valid dictionary" in message(train=3)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"train": {"steps": 1, "batch_size": 6, "micro_batch": 4}}, "must divide batch_size 6: one of 1, 2, 3, 6"),
        ({"data": {}}, "data: needs either path (one dataset) or sources"),
        ({"data": {"path": "a", "sources": {"b": {"path": "c"}}}}, "data: needs either path"),
        ({"data": {"sources": {"b": {"path": "c", "weight": -1}}}}, "data.sources.b.weight: input should be greater"),
        ({"data": {"sources": {"b": {"path": "c", "weight": 0}}}}, "data: weights: no source has a weight above 0"),
        (
            {"data": {"sources": {"b": {"path": "c"}}, "phases": [{"until_step": 1, "weights": {"x": 1}}]}},
            "data: phases.0.weights names 'x', the sources are b",
        ),
        ({"data": {"sources": {"b": {"pth": "c"}}}}, "data.sources.b.pth: unknown key, did you mean 'path'?"),
        ({"name": "../x"}, "name: string should match pattern"),
        ({"optimizer": {"lr": float("nan")}}, "optimizer.lr: input should be a finite number"),
    ],
)
def test_cross_field_rules(changes: dict[str, Any], expected: str) -> None:
    assert expected in message(**changes)


def test_near_misses() -> None:
    assert near_miss("stepz", ["steps", "seed"]) == ", did you mean 'steps'?"
    assert near_miss("q", ["steps"]) == ""
