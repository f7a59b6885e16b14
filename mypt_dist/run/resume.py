"""May a run go on with changed settings? Rules, a diff, and a record of what was allowed."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from mypt_dist.errors import ConfigError
from mypt_dist.run.config import RunConfig

FIXED = ("model", "data", "optimizer.type", "train.seed", "train.batch_size")
"""A change of these makes another run: it needs --allow-change, and is recorded in the next manifests."""

FREE = (
    "about",
    "data.cache",
    "data.path",
    "data.max_damaged",
    "data.prefetch",
    "data.read_timeout_s",
    "data.reader",
    "extends",
    "model.activation_checkpointing",
    "model.dropout",
    "name",
    "out",
)
"""Exceptions within `FIXED`, and keys that change nothing a run learns. Data is compared by content, not by path."""


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` -> ``{"a.b": 1}``. Lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def completed(saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """A saved run with the defaults of settings that did not exist when it was saved: they are what it ran with."""
    try:
        return RunConfig.model_validate(saved).model_dump(mode="json")
    except ValidationError:
        return saved


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with both values."""
    old, new = flatten(before), flatten(now)
    keys = sorted(old.keys() | new.keys())
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def is_fixed(key: str) -> bool:
    """Whether a change of ``key`` must be allowed explicitly."""
    if key.startswith("data.sources.") and key.endswith(".path"):
        return False
    return _within(key, FIXED) and not _within(key, FREE)


def is_allowed(key: str, allowed: Sequence[str]) -> bool:
    """Whether ``key``, or a section that it belongs to, is among those ``allowed``."""
    return _within(key, allowed)


def check_changes(changes: Mapping[str, tuple[Any, Any]], allowed: Sequence[str], remedies: Sequence[str] = ()) -> None:
    """Raise one `ConfigError` with a diff of every change that needs to be allowed and is not.

    ``remedies``: settings that would undo a change of the data, if they are known.
    """
    refused = {key: both for key, both in changes.items() if is_fixed(key) and not is_allowed(key, allowed)}
    if refused:
        raise ConfigError(
            "\n".join(
                [
                    "the run's folder holds checkpoints of a run with other settings:",
                    *(f"  {key}: {old!r} there, {new!r} here" for key, (old, new) in refused.items()),
                    *(f"  the data of then is kept: {remedy}" for remedy in remedies if "data" in refused),
                    "choose another folder (out=…), restore the settings, or accept each with --allow-change KEY",
                ]
            )
        )


def _within(key: str, sections: Sequence[str]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)
