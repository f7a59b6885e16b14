"""Files by which guards tell each other, and anyone, what their ranks are at. A file that exists is complete."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Final

from mypt_dist.watch.verdict import GONE, RankStatus

FOLDER: Final = "watch"
"""In the run's folder: one file for each rank."""
HANGS: Final = "hangs"
"""In the run's folder: one report for each rank that hung."""
HEARTBEAT: Final = "heartbeat.json"
ELSEWHERE: Final = "MYPT_WATCH_DIR"
"""Variable that names another folder for the ranks' files, such as one on a node's own disk."""


def watch_folder(run_dir: Path) -> Path:
    """Where the ranks of a run tell what they are at."""
    elsewhere = os.environ.get(ELSEWHERE)
    return Path(elsewhere) if elsewhere else run_dir / FOLDER


def publish(folder: Path, status: RankStatus) -> None:
    """Replace the rank's file. Raises OSError."""
    write_whole(folder / f"rank-{status.rank:05}.json", json.dumps(asdict(status)) + "\n")


def read_all(folder: Path, size: int) -> list[RankStatus]:
    """What the ranks below ``size`` told last; files that cannot be read are left out."""
    found = []
    for path in sorted(folder.glob("rank-*.json")):
        status = _status(read_object(path))
        if status is not None and status.rank < size:
            found.append(status)
    return found


def forget(folder: Path) -> None:
    """Remove what ranks of an earlier start have told."""
    for path in folder.glob("rank-*.json"):
        path.unlink(missing_ok=True)


def with_the_dead(statuses: list[RankStatus], host: str, is_alive: Callable[[int], bool]) -> list[RankStatus]:
    """The same, with those marked whose process on ``host`` has ended. Others' processes cannot be seen."""
    return [
        replace(status, state=GONE) if status.host == host and not is_alive(status.pid) else status
        for status in statuses
    ]


def write_whole(path: Path, text: str) -> None:
    """Write aside, then rename into place. Not forced to the disk: nobody reads this after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, or None where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _status(value: dict[str, Any] | None) -> RankStatus | None:
    """Of a dict of the right names and types alone: another version may have written it."""
    if value is None or value.keys() != {field.name for field in fields(RankStatus)}:
        return None
    kinds = {field.name: type(value[field.name]).__name__ for field in fields(RankStatus)}
    expected = {field.name: getattr(field.type, "__name__", field.type) for field in fields(RankStatus)}
    if any(kinds[name] != expected[name] and (kinds[name], expected[name]) != ("int", "float") for name in kinds):
        return None
    return RankStatus(**value)
