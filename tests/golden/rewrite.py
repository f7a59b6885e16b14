"""Rewrites what the tests compare with: resolved presets, exported schemas, the run-file page. Review the diff."""

import json
from pathlib import Path
from typing import Any

from mypt_dist.config import load_mapping
from mypt_dist.config.presets import names
from mypt_dist.run.config import RunConfig
from mypt_dist.run.reference import run_file_page
from mypt_dist.run.schema import What, json_schema

ROOT = Path(__file__).parents[2]
SCHEMAS: tuple[What, ...] = ("run", "preset", "mixture")
GOLDEN = Path(__file__).parent / "presets.json"


def resolved() -> dict[str, Any]:
    """Every shipped preset and run file, as a run would see it, with what a preset leaves open filled in."""
    found = {}
    for name in names("configs"):
        mapping = load_mapping(name)
        mapping.setdefault("data", {"path": "DATA"})
        mapping["train"] = {"steps": 1, **mapping.get("train", {})}
        found[name] = RunConfig.model_validate(mapping).model_dump(mode="json")
    return found


def files() -> dict[Path, str]:
    """Content by file."""
    schemas = {ROOT / f"configs/schema/{what}.schema.json": json_schema(what) for what in SCHEMAS}
    return {
        GOLDEN: json.dumps(resolved(), indent=1) + "\n",
        **{path: json.dumps(schema, indent=1) + "\n" for path, schema in schemas.items()},
        ROOT / "docs/reference/run-file.md": run_file_page(),
    }


if __name__ == "__main__":
    for path, content in files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
