"""Run files: what may stand in one, how they are put together, and what is said about mistakes."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mypt_dist.config import load_mapping, read_json
from mypt_dist.config.load import parse_override
from mypt_dist.config.strict_json import MAX_BYTES, parse_json
from mypt_dist.config.strict_yaml import parse_yaml
from mypt_dist.errors import ConfigError


def write(path: Path, value: Any) -> str:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return str(path)


def test_a_file_wins_over_what_it_extends_and_an_override_over_both(tmp_path: Path) -> None:
    write(tmp_path / "base.json", {"train": {"steps": 1, "seed": 7}, "name": "base", "about": {"description": "b"}})
    run = write(tmp_path / "run.json", {"extends": "base.json", "train": {"steps": 2}})
    assert load_mapping(run) == {"extends": ["base.json"], "train": {"steps": 2, "seed": 7}}
    assert load_mapping(run, ["train.steps=3", "out=runs/x"])["train"]["steps"] == 3


def test_parents_are_merged_in_order(tmp_path: Path) -> None:
    write(tmp_path / "a.json", {"train": {"steps": 1, "seed": 1}})
    write(tmp_path / "b.yaml", "train: {steps: 2}")
    run = write(tmp_path / "run.yaml", "extends: [a.json, b.yaml]\ntrain: {batch_size: 4}")
    assert load_mapping(run)["train"] == {"steps": 2, "seed": 1, "batch_size": 4}


def test_another_type_replaces_a_part_instead_of_merging_into_it(tmp_path: Path) -> None:
    write(tmp_path / "base.json", {"model": {"type": "gpt", "activation": "relu", "n_layer": 2}})
    run = write(tmp_path / "run.json", {"extends": "base.json", "model": {"type": "llama", "n_layer": 3}})
    assert load_mapping(run)["model"] == {"type": "llama", "n_layer": 3}


def test_a_preset_is_found_by_its_name(tmp_path: Path) -> None:
    run = write(tmp_path / "run.json", {"extends": "small", "train": {"steps": 5}})
    assert load_mapping(run)["model"]["n_embd"] == 384


@pytest.mark.parametrize("name", ["smal", "presets/smal", "small.jsn"])
def test_an_unknown_name_gets_the_nearest_one(name: str) -> None:
    with pytest.raises(ConfigError, match=r"neither a file nor a preset, did you mean '(presets/)?small"):
        load_mapping(name)


def test_a_circle_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.json", {"extends": "b.json"})
    write(tmp_path / "b.json", {"extends": "a.json"})
    with pytest.raises(ConfigError, match=r"extend each other: a\.json -> b\.json -> a\.json"):
        load_mapping(str(tmp_path / "a.json"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": -Infinity}', "-Infinity is not a JSON number"),
        ('{"a": {"b": 1, "b": 2}}', "the key 'b' stands twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[1]", "must hold a mapping, got list"),
        ('{"extends": 3}', "extends must be a file or preset name"),
        ('{"extends": ["a", 3]}', "extends must be a file or preset name"),
    ],
)
def test_json_that_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_mapping(write(tmp_path / "run.json", text))
    assert "run.json" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "'a' stands twice"),
        ("a: [", "not valid YAML"),
        ("a: !!python/object/apply:os.system [id]", "not valid YAML"),
        ("? [1, 2]\n: 3", "not valid YAML"),
        ("[" * 20_000, "not valid YAML"),
    ],
)
def test_yaml_that_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_mapping(write(tmp_path / "run.yaml", text))


def test_yaml_numbers_are_those_of_version_1_2() -> None:
    value = parse_yaml("{a: 3e-5, b: 1.5, c: 10, d: off_by_one, e: .5, f: 1e3, g: -2E+4, h: 12_3}", "here")
    assert value == {"a": 3e-5, "b": 1.5, "c": 10, "d": "off_by_one", "e": 0.5, "f": 1000.0, "g": -20000.0, "h": 123}


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder"):
        read_json(tmp_path)
    with pytest.raises(ConfigError, match="no such file"):
        read_json(tmp_path / "absent.json")
    (tmp_path / "latin.json").write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(ConfigError, match="not UTF-8 text: byte 7 is 0xe9"):
        read_json(tmp_path / "latin.json")
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(ConfigError, match="at most"):
        read_json(tmp_path / "huge.json")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=3", 3),
        ("a.b=3e-4", 3e-4),
        ("a.b=true", True),
        ("a.b=null", None),
        ("a.b=relu", "relu"),
        ("a.b=", ""),
        ("a.b=runs/x=y", "runs/x=y"),
        ('a.b=[1, "c"]', [1, "c"]),
        ('a.b={"c": 1}', {"c": 1}),
    ],
)
def test_an_override_is_json_or_else_a_string(text: str, value: Any) -> None:
    assert parse_override(text) == (["a", "b"], value)


@pytest.mark.parametrize("text", ["a.b", "=3", "a..b=3", ".a=1", "a.=1"])
def test_a_malformed_override_is_explained(text: str) -> None:
    with pytest.raises(ConfigError, match=r"an override is written key.path=value"):
        parse_override(text)


@pytest.mark.parametrize("text", ["a=NaN", "a=[1", 'a={"b": 1, "b": 2}', "a=Infinity"])
def test_an_override_that_means_to_be_json_must_be_json(text: str) -> None:
    with pytest.raises(ConfigError, match="the value of a is not valid JSON"):
        parse_override(text)


def test_a_value_cannot_be_overridden_as_a_section(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot override train\.steps\.x: 'steps' is a value"):
        load_mapping(write(tmp_path / "run.json", {"train": {"steps": 1}}), ["train.steps.x=2"])


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text(),
        lambda v: st.lists(v) | st.dictionaries(st.text(), v),
    )
)
def test_what_json_writes_is_read_back(value: Any) -> None:
    assert parse_json(json.dumps(value), "here") == value


@pytest.mark.parametrize("value", ["1e999", "-1e999", "18446744073709551616", "9" * 400])
def test_numbers_that_nobody_can_compute_with_are_refused(value, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(f'{{"train": {{"steps": {value}}}}}')
    with pytest.raises(ConfigError, match=r"(?s)run\.json is not valid JSON: .*(beyond all numbers|more than 64)"):
        load_mapping(str(path))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]\n", "more than 30 values"),
        ("a: &a [*a]\n", "within itself"),
        ("a: 18446744073709551616\n", "more than 64"),
    ],
)
def test_aliases_of_yaml_cannot_fill_the_memory(text, reason, tmp_path, monkeypatch):
    monkeypatch.setattr("mypt_dist.config.strict_yaml.MAX_VALUES", 30)
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"is not valid YAML: .*{reason}"):
        load_mapping(str(path))


def test_aliases_of_yaml_may_be_used(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("a: &a {b: 1}\nc: *a\n")
    assert load_mapping(str(path)) == {"a": {"b": 1}, "c": {"b": 1}, "extends": []}
