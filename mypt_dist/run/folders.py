"""What is known of runs by their folders besides checkpoints: state, tags, evaluations; and how one is removed."""

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mypt_dist.checkpoint import RunLock
from mypt_dist.config import inside, read_json
from mypt_dist.config.strict_json import parse_json
from mypt_dist.data import durable
from mypt_dist.errors import ConfigError
from mypt_dist.tracking.journal import is_being_written, read_events

CHECKPOINTS = "checkpoints"
TAGS = "tags.json"
EVALUATIONS = "evaluations"
TRASH = ".removed-"
"""A run's folder is called so, and by its name, while it is being removed."""
MAX_TAG = 5000
"""Characters of a tag's value."""


def run_folders(root: Path) -> Iterator[Path]:
    """Every folder at or below ``root`` that holds checkpoints, sorted; hidden ones left out, links not followed."""
    for folder, below, _ in os.walk(root):
        if CHECKPOINTS in below:
            yield Path(folder)
            below.clear()
        below[:] = sorted(name for name in below if not name.startswith("."))


def find_run(name: str | Path, root: Path = Path("runs")) -> Path:
    """The run that a user means: its folder, or its name below ``root``. Raises `ConfigError`."""
    for path in (Path(name), root / name):
        if (path / CHECKPOINTS).is_dir():
            return path.resolve()
    raise ConfigError(f"{name} is no run: neither it nor {root / name} is a folder with {CHECKPOINTS} in it")


def state_of(run: Path) -> str:
    """``training``, or how the run ended last: ``finished``, ``stopped``, ``failed``, ``preempted``, ``killed``.

    ``unknown`` where the disk cannot tell, ``-`` where the folder has no journal.
    """
    alive = is_being_written(run)
    if alive:
        return "training"
    last = [event for event in read_events(run) if event.get("kind") in ("start", "finish")][-1:]
    if not last:
        return "-"
    if last[0]["kind"] == "finish":
        return str(last[0].get("status"))
    # Who began and left no word was killed, unless the disk cannot tell whether it lives.
    return "unknown" if alive is None else "killed"


def tags_of(run: Path) -> dict[str, str]:
    """The tags of a run by name. Raises `ConfigError` where the file is none of ours."""
    path = run / TAGS
    if not path.exists():
        return {}
    tags = read_json(path)
    if not isinstance(tags, dict) or not all(isinstance(value, str) for value in tags.values()):
        raise ConfigError(f"{path} must hold an object of texts; remove or repair it")
    return tags


def tag(run: Path, changes: Mapping[str, str]) -> dict[str, str]:
    """Set tags, or take those away whose value is empty; all tags afterwards. Raises `ConfigError`."""
    for name, value in changes.items():
        if not name or not name.isprintable() or len(name) > 250 or len(value) > MAX_TAG:
            raise ConfigError(f"tag {name!r}: a name is printable, of at most 250 characters, a value of {MAX_TAG:,}")
    tags = {name: value for name, value in {**tags_of(run), **changes}.items() if value}
    text = json.dumps(dict(sorted(tags.items())), indent=1, ensure_ascii=False)
    durable.write_file(run / TAGS, f"{text}\n".encode())
    return tags


def evaluations_of(run: Path) -> list[dict[str, Any]]:
    """What `mypt eval` has found of a run, by step and name; files that cannot be read are passed over."""
    found = []
    for path in sorted((run / EVALUATIONS).glob("step-*/*.json")):
        try:
            result = parse_json(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError, ConfigError):
            continue
        if isinstance(result, dict) and isinstance(result.get("metrics"), dict):
            found.append({**result, "file": str(path.relative_to(run))})
    return found


def keep_evaluation(run: Path, step: int, name: str, result: Mapping[str, Any]) -> Path:
    """Write a result beside the checkpoints, in place of an earlier one of this name. Raises `ConfigError`.

    Not into the checkpoint: its manifest is sealed by a hash, and copies of it are compared byte by byte.
    """
    path = inside(run / EVALUATIONS / f"step-{step:08}", f"{name}.json")
    durable.write_file(path, (json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
    return path


def size_of(run: Path) -> int:
    """Bytes of everything in a folder."""
    return sum(path.lstat().st_size for path in run.rglob("*") if not path.is_dir())


def remove(run: Path) -> None:
    """Remove a run with all its checkpoints. What a kill leaves of it counts as no run any more.

    Raises `LockError` while it trains, `ConfigError` where the folder cannot be changed.
    """
    away = run.with_name(f"{TRASH}{run.name}-{secrets.token_hex(4)}")
    with RunLock(run):
        try:
            run.rename(away)
            durable.sync_folder(run.parent)
        except OSError as error:
            raise ConfigError(f"{run} cannot be removed: {error.strerror}") from None
    try:
        shutil.rmtree(away)
    except OSError as error:
        raise ConfigError(f"{run} is removed, but its files are still in {away}: {error.strerror}") from None
