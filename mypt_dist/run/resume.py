"""May a run go on with changed settings? Rules, a diff, and a record of what was allowed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from pydantic import ValidationError

from mypt_dist.checkpoint import Manifest
from mypt_dist.data.course import Past, remembered
from mypt_dist.data.interleave import quotas
from mypt_dist.errors import CheckpointError, ConfigError
from mypt_dist.run.config import RunConfig

FIXED = ("model", "start_from", "data", "optimizer.type", "train.freeze", "train.seed", "train.batch_size")
"""A change of these makes another run: it needs --allow-change, and is recorded in the next manifests."""

STARTED = ("start_from", "train.freeze")
"""Of these, what even permission does not change in a run that has saved: weights came from there, moments are missing
or left over."""

FREE = (
    "about",
    "data.cache",
    "data.coverage",
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


def changed_content(saved: Mapping[str, Any], now: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Datasets of a manifest's ``data`` section whose content is another ``now``: both fingerprints, by key.

    Sources that have come or gone differ in their weight, too, and are told by that.
    """
    before = {name: str(entry["fingerprint"]) for name, entry in saved.get("sources", {}).items()}
    key = "data" if [*before] == [*now] == ["main"] else "data.sources.{}"
    return {key.format(n): (before[n], now[n]) for n in now if n in before and before[n] != now[n]}


def past_of(manifest: Manifest) -> Past:
    """The stretches of the data's order that a checkpoint has behind it.

    Raises `CheckpointError` where they do not lead to the positions of its sources.
    """
    known = "stretches" in manifest.data
    recorded = cast("list[Any]", manifest.data["stretches"] if known else [_always(manifest.run)])
    past = Past(manifest.samples, tuple((stretch["first"], stretch["quota"]) for stretch in recorded))
    found = remembered(past).consumed(manifest.samples)
    said = {name: cast("dict[str, Any]", entry)["samples"] for name, entry in manifest.sources.items()}
    if any(found.get(name, 0) != samples for name, samples in said.items()):
        raise CheckpointError(
            f"the checkpoint of step {manifest.step} says that its sources gave {said} samples, by the order of the "
            f"data they gave {found}: use the version that wrote it ({manifest.code.get('version')})"
        )
    return past


def _always(run: Mapping[str, Any]) -> dict[str, Any]:
    """The stretch of a run from before there were curricula: one mixture held from the first sample to the last."""
    sources = completed(run)["data"].get("sources", {})
    weights = {name: source["weight"] for name, source in sources.items()} or {"main": 1.0}
    return {"first": 0, "quota": dict(zip(weights, quotas(list(weights.values())), strict=True))}


def is_fixed(key: str) -> bool:
    """Whether a change of ``key`` must be allowed explicitly."""
    if key.startswith("data.sources.") and key.endswith((".path", ".fingerprint")):
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
    started = [key for key in changes if _within(key, STARTED) and is_allowed(key, allowed)]
    if started:
        raise ConfigError(
            f"--allow-change {started[0]}: a run that has saved keeps it; begin another with start_from.path=THIS_RUN"
        )
    if refused:
        raise ConfigError(
            "\n".join(
                [
                    "the run's folder holds checkpoints of a run with other settings:",
                    *(f"  {key}: {old!r} there, {new!r} here" for key, (old, new) in refused.items()),
                    *(f"  the data of then is kept: {remedy}" for remedy in remedies if _is_about_data(refused)),
                    "choose another folder (out=…), restore the settings, or accept each with --allow-change KEY",
                ]
            )
        )


def _is_about_data(keys: Iterable[str]) -> bool:
    return any(_within(key, ("data",)) for key in keys)


def _within(key: str, sections: Sequence[str]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)
