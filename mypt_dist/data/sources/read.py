"""A sources file, read: from a path, or one of those that are shipped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mypt_dist.config import read_json, validate
from mypt_dist.config.presets import Kind, find, folder
from mypt_dist.config.problems import near_miss
from mypt_dist.data.sources.config import SourcesFile
from mypt_dist.errors import ConfigError

SHIPPED: Kind = "configs/sources"


@dataclass(frozen=True, slots=True)
class Sources:
    """A sources file and where it is."""

    path: Path
    file: SourcesFile

    def lock_path(self, out: Path) -> Path:
        """The lock file: beside the sources file, or in ``out`` where that is one of ours."""
        is_shipped = self.path.resolve().is_relative_to(folder(SHIPPED).resolve())
        return (out if is_shipped else self.path.parent) / f"{self.path.stem}.lock.json"

    def chosen(self, only: Sequence[str] = (), weights: Mapping[str, float] | None = None) -> dict[str, float]:
        """The keys that are meant and their weights: ``only`` those, or all whose weight is not 0.

        Raises `ConfigError` for a key that is not there, and where nothing is left.
        """
        changes = weights or {}
        for key in (*only, *changes):
            if key not in self.file.sources:
                known = ", ".join(sorted(self.file.sources))
                hint = near_miss(key, self.file.sources) or f" (known: {known})"
                raise ConfigError(f"{self.path} has no source {key!r}{hint}")
        all_weights = {**self.file.weights(), **changes}
        chosen = {key: weight for key, weight in all_weights.items() if (key in only if only else weight)}
        if not chosen:
            raise ConfigError(f"every source of {self.path} has weight 0: name those you want with --only KEY")
        return chosen


def read_sources(name: str) -> Sources:
    """The sources file at a path, or the shipped one of that name. Raises `ConfigError`."""
    path = find(SHIPPED, name)
    content = read_json(path)
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a JSON object, got {type(content).__name__}")
    content.pop("$schema", None)
    return Sources(path, validate(SourcesFile, content, str(path)))
