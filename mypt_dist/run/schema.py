"""JSON Schemas for editors and scripts, made from the classes that read the files."""

from typing import Any, Literal, TypeAlias

from mypt_dist.checkpoint import Manifest
from mypt_dist.config import Config
from mypt_dist.data.manifest import DatasetManifest
from mypt_dist.data.mixture import MixtureFile
from mypt_dist.data.sources import SourcesFile
from mypt_dist.run.config import RunConfig

What: TypeAlias = Literal["run", "preset", "manifest", "dataset", "mixture", "sources"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_PAIR = {"type": "array", "prefixItems": [{"type": "string"}, {"type": "string"}], "minItems": 2, "maxItems": 2}


def json_schema(what: What) -> dict[str, Any]:
    """The schema of a run file, a preset (a run file that may leave anything out), a manifest, or a mixture."""
    sources: dict[What, type[Config]] = {
        "run": RunConfig,
        "preset": RunConfig,
        "manifest": Manifest,
        "dataset": DatasetManifest,
        "mixture": MixtureFile,
        "sources": SourcesFile,
    }
    schema = {"$schema": DIALECT, **sources[what].model_json_schema(), "title": f"mypt {what}"}
    if what in ("run", "preset"):
        _describe_file(schema)
    if what == "sources":
        _describe_sources(schema)
    return _without_required(schema) if what == "preset" else schema


def _describe_file(schema: dict[str, Any]) -> None:
    """What a file may say that a finished configuration does not: its schema, and one parent as a plain string."""
    names = {"type": "array", "items": {"type": "string"}}
    extends = schema["properties"]["extends"]
    schema["properties"]["extends"] = {**extends, "anyOf": [{"type": "string"}, names]}
    schema["properties"]["extends"].pop("type", None)
    schema["properties"]["extends"].pop("items", None)
    schema["properties"]["$schema"] = {"type": "string"}
    # A file that extends another gets from it what it leaves out.
    schema["if"] = {"required": ["extends"]}
    required = schema.pop("required", [])
    started = {"required": [key for key in required if key != "model"]}
    # So does the model of a run that starts from another.
    schema["else"] = {"if": {"required": ["start_from"]}, "then": started, "else": {"required": required}}
    for part in schema["$defs"].values():
        part.pop("required", None)


def _describe_sources(schema: dict[str, Any]) -> None:
    """What a sources file may say shorter than its classes: a download as a pair, one pattern or path as a string."""
    schema["properties"]["$schema"] = {"type": "string"}
    source = schema["$defs"]["Source"]["properties"]
    source["urls"]["items"] = {"anyOf": [source["urls"]["items"], _PAIR]}
    for key in ("paths", "final_pattern"):
        listed = {name: source[key].pop(name) for name in ("type", "items")}
        source[key]["anyOf"] = [listed, {"type": "string"}]


def _without_required(schema: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in ("if", "else")}
