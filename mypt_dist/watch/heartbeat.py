"""Is a run alive? What a container's health check asks of the file that rank 0's guard writes."""

from dataclasses import dataclass
from pathlib import Path

from mypt_dist.errors import ConfigError
from mypt_dist.watch.statuses import HEARTBEAT, read_object


@dataclass(frozen=True, slots=True)
class Health:
    """A verdict, and the sentence that gives its reason."""

    alive: bool
    reason: str


def last_heard(folder: Path) -> Path:
    """The run's folder at or up to two levels below ``folder`` whose heartbeat is the newest; ``folder`` if none is."""
    found = [path for depth in ("", "*/", "*/*/") for path in folder.glob(f"{depth}{HEARTBEAT}")]
    return max(found, key=lambda path: path.stat().st_mtime).parent if found else folder


def health(run_dir: Path, max_age_s: float, now: float) -> Health:
    """Whether the run in ``run_dir`` told within ``max_age_s`` that it trains. ``now``: seconds since 1970.

    Raises `ConfigError` where ``run_dir`` is a file, or the heartbeat is none of ours.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise ConfigError(f"{run_dir} is not the folder of a run")
    path = run_dir / HEARTBEAT
    if not path.exists():
        return Health(alive=False, reason=f"{path} does not exist: the run has not begun, or runs without a watchdog")
    beat = read_object(path)
    if beat is None or not isinstance(beat.get("time"), int | float):
        raise ConfigError(f"{path} cannot be read: remove it, a living run writes it anew")
    # A clock that was set back must not make a dead run look young.
    age = abs(now - beat["time"])
    told = f"{beat.get('phase')}, step {beat.get('step')}, {age:.0f} s ago"
    if beat.get("ended"):
        return Health(alive=False, reason=f"ended: {told}")
    if beat.get("hung"):
        return Health(alive=False, reason=f"hung: {told}")
    if age > max_age_s:
        return Health(alive=False, reason=f"silent for more than {max_age_s:g} s: {told}")
    return Health(alive=True, reason=f"alive: {told}")
