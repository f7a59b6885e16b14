"""Rewrites what the tests compare with: resolved presets, exported schemas, the run-file page, what `mypt launch`
executes. Review the diff."""

import json
import os
import sys
from collections.abc import Sequence
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

from mypt_dist.cli import main
from mypt_dist.config import load_mapping
from mypt_dist.config.presets import names
from mypt_dist.launch.files import targets
from mypt_dist.run.config import RunConfig
from mypt_dist.run.reference import run_file_page, sources_file_page
from mypt_dist.run.schema import What, json_schema

ROOT = Path(__file__).parents[2]
SCHEMAS: tuple[What, ...] = ("run", "preset", "mixture", "sources")
GOLDEN = Path(__file__).parent / "presets.json"
COMMANDS = Path(__file__).parent / "launch_commands.json"
SCHEDULERS = Path(__file__).parent / "schedulers.json"
"""What each scheduler tells the second of two nodes, and what has to be said besides."""


def resolved() -> dict[str, Any]:
    """Every shipped preset and run file, as a run would see it, with what a preset leaves open filled in."""
    found = {}
    for name in names("configs"):
        mapping = load_mapping(name)
        mapping.setdefault("data", {"path": "DATA"})
        mapping["train"] = {"steps": 1, **mapping.get("train", {})}
        found[name] = RunConfig.model_validate(mapping).model_dump(mode="json")
    return found


def launch_commands() -> dict[str, dict[str, str]]:
    """What `mypt launch TARGET … --dry-run` prints, by scheduler and target."""
    several = [target.name for target in targets() if target.engine != "single"]
    return {
        scheduler: {
            target: dry_run([target, "quickstart", *told["options"]], told["environment"]) for target in several
        }
        for scheduler, told in json.loads(SCHEDULERS.read_text()).items()
    }


def dry_run(arguments: Sequence[str], environment: dict[str, str]) -> str:
    """Of `mypt launch`, on a machine with eight cores."""
    environment = {"PATH": "/nowhere", **environment}
    with (
        chdir(ROOT),
        mock.patch.dict(os.environ, environment, clear=True),
        mock.patch.object(sys, "executable", "python"),
        mock.patch.object(os, "sched_getaffinity", return_value=range(8)),
        redirect_stdout(StringIO()) as output,
    ):
        try:
            code: object = main(["launch", *arguments, "--dry-run"])
        except SystemExit as stop:
            code = stop.code
    assert code == 0, arguments
    return output.getvalue()


def files() -> dict[Path, str]:
    """Content by file."""
    schemas = {ROOT / f"configs/schema/{what}.schema.json": json_schema(what) for what in SCHEMAS}
    return {
        GOLDEN: json.dumps(resolved(), indent=1) + "\n",
        COMMANDS: json.dumps(launch_commands(), indent=1) + "\n",
        **{path: json.dumps(schema, indent=1) + "\n" for path, schema in schemas.items()},
        ROOT / "docs/reference/run-file.md": run_file_page(),
        ROOT / "docs/reference/sources-file.md": sources_file_page(),
    }


if __name__ == "__main__":
    for path, content in files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
