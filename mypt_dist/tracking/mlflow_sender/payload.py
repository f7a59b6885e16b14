"""How must names and values look so that MLflow takes them? Pure functions of MLflow's limits."""

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

MAX_NAME: Final = 250
MAX_PARAM: Final = 6000
MAX_TAG: Final = 8000
MAX_DIGEST: Final = 36
MAX_DATASET_NAME: Final = 500
MAX_POINTS: Final = 1000
"""Metrics in one ``log_batch``."""
MAX_ENTRIES: Final = 100
"""Params or tags in one ``log_batch``."""
MAX_BATCH_BYTES: Final = 500_000
"""A request may have 1 MB; JSON writes a non-ASCII character with more bytes than UTF-8."""

_NOT_IN_NAMES = re.compile(r"[^/\w.\- :]")
_OWN_KEYS = frozenset({"step", "time"})
_DATASET_KEYS = frozenset({"name", "fingerprint", "path", "context"})


@dataclass(frozen=True, slots=True)
class Point:
    """One value of one metric: what a SQL store recognises it by when it is sent twice."""

    key: str
    value: float
    time: int
    """Milliseconds since 1970."""
    step: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """One dataset of a run."""

    name: str
    digest: str
    source: str
    context: str
    """What it is used for, such as ``train, val``."""
    profile: str
    """What else is known about it, as JSON."""


def points(row: Mapping[str, Any]) -> list[Point]:
    """The finite numbers of a row of ``metrics.jsonl``."""
    return [
        Point(safe_name(name), float(value), row["time"], row["step"])
        for name, value in row.items()
        if name not in _OWN_KEYS and is_number(value)
    ]


def is_number(value: object) -> bool:
    """Whether MLflow can store it: JSON's null and what Python's reader takes for NaN are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def safe_name(name: str) -> str:
    """``name`` if MLflow takes it, or else the nearest it takes, with a hash, so that no two names become one."""
    kept = _NOT_IN_NAMES.sub("_", name)
    # MLflow refuses what a file system would read as another path.
    kept = "/".join(part for part in kept.split("/") if part not in ("", ".", ".."))
    kept = f"_{kept[1:]}" if kept.startswith("..") else kept
    if kept == name and 0 < len(name) <= MAX_NAME:
        return name
    return f"{kept[: MAX_NAME - 9]}-{_hash(name)}"


def clip(text: str, limit: int) -> str:
    """``text`` in at most ``limit`` characters; a cut one ends in a hash of the whole, so that changes show."""
    return text if len(text) <= limit else f"{text[: limit - 10]}… {_hash(text)}"


def as_text(value: Any) -> str:
    """A JSON value as people write it: a string as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def params(tree: Mapping[str, Any]) -> dict[str, str]:
    """The leaves of a configuration as MLflow params: dotted names, values of at most 6000 characters."""
    return {safe_name(name): clip(as_text(value), MAX_PARAM) for name, value in _leaves(tree, "")}


def tags(entries: Mapping[str, Any]) -> dict[str, str]:
    """Tags within MLflow's limits."""
    return {safe_name(name): clip(as_text(value), MAX_TAG) for name, value in entries.items()}


def datasets(entries: Iterable[Mapping[str, Any]]) -> list[Dataset]:
    """The datasets of a ``start`` event; one used twice is named once, with both uses.

    MLflow keeps one input for each name and digest, and a digest has at most 36 characters there.
    """
    found: dict[tuple[str, str], Dataset] = {}
    for entry in entries:
        name, digest = clip(str(entry["name"]), MAX_DATASET_NAME), str(entry["fingerprint"])
        digest = digest if len(digest) <= MAX_DIGEST else digest[:32]
        context = str(entry.get("context", ""))
        if (known := found.get((name, digest))) is not None:
            context = ", ".join(dict.fromkeys(filter(None, (known.context, context))))
        profile = {key: value for key, value in entry.items() if key not in _DATASET_KEYS}
        found[name, digest] = Dataset(name, digest, str(entry.get("path", name)), context, json.dumps(profile))
    return list(found.values())


def batches(entries: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Params or tags in as few requests as MLflow's limits allow."""
    batch: dict[str, str] = {}
    size = 0
    for name, value in entries.items():
        grows = len(json.dumps([name, value]))
        if batch and (len(batch) == MAX_ENTRIES or size + grows > MAX_BATCH_BYTES):
            yield batch
            batch, size = {}, 0
        batch[name] = value
        size += grows
    if batch:
        yield batch


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
