"""Run files: JSON or YAML, ``extends`` another file or a preset, and ``key.path=value`` overrides.

Precedence, lowest first: what a file extends, in order; the file; the overrides, in order. Nothing else:
no environment variable changes the mathematics of a run.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from mypt_dist.config.base import Config
from mypt_dist.config.presets import find
from mypt_dist.config.problems import problems
from mypt_dist.config.strict_json import parse_json, read_text
from mypt_dist.config.strict_yaml import parse_yaml
from mypt_dist.errors import ConfigError

NOT_INHERITED = ("$schema", "about", "extends", "name", "out")
"""Keys that speak of one file alone."""

C = TypeVar("C", bound=Config)


def load_mapping(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a run file or preset, fill in what it extends, then apply the overrides in order.

    Raises `ConfigError`: no such file, not JSON or YAML, a circle of ``extends``, a malformed override.
    """
    mapping = _read(find("configs", name), seen=())
    mapping.pop("$schema", None)
    return with_overrides(mapping, overrides)


def with_overrides(mapping: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of ``mapping`` with ``key.path=value`` texts applied in order. Raises `ConfigError`."""
    changed = copy.deepcopy(dict(mapping))
    for text in overrides:
        keys, value = parse_override(text)
        _assign(changed, keys, value)
    return changed


def parse_override(text: str) -> tuple[list[str], Any]:
    """``train.steps=100`` -> ``(["train", "steps"], 100)``. The value is JSON, or else a string."""
    dotted, sep, value = text.partition("=")
    if not sep or not all(dotted.split(".")):
        raise ConfigError(f"an override is written key.path=value, got {text!r}")
    try:
        return dotted.split("."), parse_json(value, f"the value of {dotted}")
    except ConfigError:
        if value[:1] in ("{", "[") or value in ("NaN", "Infinity", "-Infinity"):
            raise
        return dotted.split("."), value


def validate(schema: type[C], mapping: Mapping[str, Any], where: str) -> C:
    """``mapping`` as a ``schema``. Raises one `ConfigError` that lists every problem with its dotted key."""
    try:
        return schema.model_validate(mapping)
    except ValidationError as error:
        raise ConfigError("\n".join([f"{where} is not valid:", *problems(schema, error)])) from None


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve()
    if path in seen:
        raise ConfigError(f"run files extend each other: {' -> '.join(p.name for p in (*seen, path))}")
    parse = parse_yaml if path.suffix in (".yaml", ".yml") else parse_json
    loaded = parse(read_text(path), str(path))
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path} must hold a mapping, got {type(loaded).__name__}")
    parents = loaded["extends"] = _names(loaded.get("extends", []), path)
    merged: dict[str, Any] = {}
    for parent in parents:
        inherited = _read(find("configs", parent, beside=path.parent), (*seen, path))
        merged = _merge(merged, {key: value for key, value in inherited.items() if key not in NOT_INHERITED})
    return _merge(merged, loaded)


def _names(extends: Any, path: Path) -> list[str]:
    names = [extends] if isinstance(extends, str) else extends
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{path}: extends must be a file or preset name, or a list of them, got {extends!r}")
    return names


def _merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        # Naming another type replaces the part: its parent's fields would not fit it.
        if isinstance(value, dict) and isinstance(below, dict) and value.get("type") in (None, below.get("type")):
            value = _merge(below, value)
        merged[key] = value
    return merged


def _assign(mapping: dict[str, Any], keys: list[str], value: Any) -> None:
    *parents, last = keys
    for key in parents:
        below = mapping.setdefault(key, {})
        if not isinstance(below, dict):
            raise ConfigError(f"cannot override {'.'.join(keys)}: {key!r} is a value, not a section")
        mapping = below
    mapping[last] = value
