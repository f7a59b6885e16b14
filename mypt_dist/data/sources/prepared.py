"""``prepared.json`` and ``mixture.json``: which sources are datasets, and in which shares a run reads them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from mypt_dist.config import Config, SafeName, Sha256, read_json, validate
from mypt_dist.data import durable
from mypt_dist.data.manifest import FILE, DatasetManifest
from mypt_dist.data.mixture import FILE as MIXTURE
from mypt_dist.data.mixture import MixtureFile, MixtureSource
from mypt_dist.data.prepare.writer import writing

PREPARED = "prepared.json"


class PreparedSource(Config):
    """A dataset that was made of a source."""

    identity: Sha256
    """Of the files and settings that it was made of."""
    fingerprint: Sha256
    """Of what came of them."""


class PreparedFile(Config):
    """``prepared.json``."""

    format: Literal[1] = 1
    sources: dict[SafeName, PreparedSource] = {}
    """By key. A dataset that is not there was about to be."""


class Record:
    """What is known of the datasets in a folder."""

    def __init__(self, out: Path, sources: dict[str, PreparedSource]) -> None:
        self._out, self.sources = out, sources

    @classmethod
    def read(cls, out: Path) -> "Record":
        """That of ``out``: an empty one where there is none. Raises `ConfigError` where it cannot be read."""
        path = out / PREPARED
        if not path.exists():
            return cls(out, {})
        return cls(out, dict(validate(PreparedFile, read_json(path), str(path)).sources))

    def add(self, key: str, source: PreparedSource) -> None:
        """Note what is about to be a dataset. Raises `DataError`."""
        self.sources[key] = source
        content = PreparedFile(sources=dict(sorted(self.sources.items())))
        with writing(self._out / PREPARED):
            durable.replace(self._out / PREPARED, content.model_dump_json(indent=2).encode() + b"\n")

    def write_mixture(self, weights: Mapping[str, float]) -> None:
        """The file that a run reads, of all sources in ``weights`` that are finished. Raises `DataError`."""
        found = tuple(
            MixtureSource(name=key.lower(), path=Path(key), weight=weight, fingerprint=self.sources[key].fingerprint)
            for key, weight in weights.items()
            if self._is_finished(key)
        )
        mixture = MixtureFile(format="mypt-mixture", version=1, sources=found)
        with writing(self._out / MIXTURE):
            durable.replace(self._out / MIXTURE, mixture.model_dump_json(indent=2).encode() + b"\n")

    def _is_finished(self, key: str) -> bool:
        folder = self._out / key
        is_there = key in self.sources and (folder / FILE).exists()
        return is_there and DatasetManifest.read(folder).fingerprint == self.sources[key].fingerprint
