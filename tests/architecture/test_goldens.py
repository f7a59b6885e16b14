"""Files that are made from code are as the code would make them: review shows what a change does to them."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import jsonschema
import pytest

from mypt_dist.config.presets import folder, names

ROOT = Path(__file__).parents[2]


def rewrite() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rewrite", ROOT / "tests/golden/rewrite.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_files_are_up_to_date() -> None:
    stale = [
        str(path.relative_to(ROOT))
        for path, content in rewrite().files().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != content
    ]
    assert stale == [], "run: make golden"


@pytest.mark.parametrize("name", [*names("configs"), *(f"sources/{name}" for name in names("configs/sources"))])
def test_shipped_files_name_a_schema_that_accepts_them(name: str) -> None:
    path = folder("configs") / f"{name}.json"
    content = json.loads(path.read_text())
    schema = json.loads((path.parent / content["$schema"]).read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(content)
    assert content["about"]["description"]


def test_the_schema_refuses_what_the_program_refuses() -> None:
    schema = json.loads((ROOT / "configs/schema/run.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid({"extends": "small", "data": {"path": "x"}, "train": {"steps": 1}})
    assert not validator.is_valid({"extends": "small", "trian": {}})
    assert not validator.is_valid({"data": {"path": "x"}}), "nothing extended: model and train are needed"
    assert not validator.is_valid({"extends": "small", "train": {"steps": "many"}})
