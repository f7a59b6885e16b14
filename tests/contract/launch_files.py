"""The files of other programs below `launch/`: read, checked by small schemas, and their commands tried."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from referencing import Registry, Resource

from mypt_dist.config.presets import folder

LAUNCH = folder("launch")
SCHEMAS = Path(__file__).parent / "schemas"


def documents(path: Path) -> list[dict[str, Any]]:
    """Of a YAML file."""
    return list(yaml.safe_load_all(path.read_text()))


def check(content: Mapping[str, Any], schema: str) -> None:
    """Raise where ``content`` is not what ``schemas/NAME.schema.json`` describes."""
    resources = {path.name: Resource.from_contents(json.loads(path.read_text())) for path in SCHEMAS.iterdir()}
    contents = resources[f"{schema}.schema.json"].contents
    jsonschema.Draft202012Validator.check_schema(contents)
    registry: Registry[Any] = Registry().with_resources(resources.items())
    jsonschema.Draft202012Validator(contents, registry=registry).validate(content)


def launched(arguments: Sequence[str], environment: Mapping[str, str], cwd: Path) -> dict[str, Any]:
    """What `mypt launch` would execute, asked of it where nothing else is set."""
    command = [sys.executable, "-m", "mypt_dist", *arguments, "--json"]
    clean = {"PATH": os.environ["PATH"], "PYTHONPATH": str(LAUNCH.parent)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=clean | environment, cwd=cwd)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result
