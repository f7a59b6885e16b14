"""``mixture.json``: prepared datasets that belong together, with the shares they are meant to have."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from mypt_dist.config import Config, Sha256, read_json, validate
from mypt_dist.data.config import DataConfig, SourceConfig, SourceName, Weight
from mypt_dist.data.manifest import FILE as DATASET
from mypt_dist.data.manifest import DatasetManifest
from mypt_dist.data.place import DatasetPlace
from mypt_dist.data.remote.folder import read_manifest
from mypt_dist.errors import ConfigError

FILE = "mixture.json"


class MixtureSource(Config):
    """One of the datasets."""

    name: SourceName
    path: DatasetPlace
    """Its folder, seen from that of the mixture file; or its URL."""
    weight: Weight = 1.0
    """Share of the samples, relative to the others, where a run file does not say otherwise."""
    fingerprint: Sha256 | None = None
    """Of its content, as its ``dataset.json`` tells it: another is refused. Null: any."""


class MixtureFile(Config):
    """What a run reads instead of a list of sources."""

    format: Literal["mypt-mixture"]
    version: Literal[1]
    sources: Annotated[tuple[MixtureSource, ...], Field(min_length=1)]
    """In the order in which the run lists them."""

    @classmethod
    def read(cls, path: Path) -> "MixtureFile":
        """Raises `ConfigError` naming what is wrong with it."""
        raw = read_json(path)
        if isinstance(raw, dict):
            raw.pop("$schema", None)
        mixture = validate(cls, raw, str(path))
        names = [source.name for source in mixture.sources]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise ConfigError(f"{path} lists two sources called {twice!r}: give each a name of its own")
        return mixture

    def named_sources(self, folder: Path) -> dict[str, SourceConfig]:
        """As a run file has them, if this file lies in ``folder``."""
        return {
            source.name: SourceConfig(
                path=folder / source.path if isinstance(source.path, Path) else source.path,
                weight=source.weight,
                fingerprint=source.fingerprint,
            )
            for source in self.sources
        }


def with_mixture(config: DataConfig) -> DataConfig:
    """``config`` with the sources of the mixture file that its path leads to, if it does. Raises `ConfigError`."""
    if config.path is None:
        return config
    file = _mixture_file(config.path)
    if file is None:
        try:
            config.check_weights()
        except ValueError as error:
            raise ConfigError(f"data.{error}") from None
        return config
    sources = MixtureFile.read(file).named_sources(file.parent)
    found = {**config.model_dump(exclude={"path"}), "sources": {n: s.model_dump() for n, s in sources.items()}}
    return validate(DataConfig, found, f"data.path={config.path}")


def read_source(name: str, source: SourceConfig) -> DatasetManifest:
    """The manifest of a source. Raises `ConfigError` where it is not the content that was asked for."""
    manifest = read_manifest(source.path)
    if source.fingerprint not in (None, manifest.fingerprint):
        raise ConfigError(
            f"data.sources.{name}: {source.path} has fingerprint {manifest.fingerprint}, {source.fingerprint} is asked "
            "for: it was prepared again, or it is another dataset"
        )
    return manifest


def _mixture_file(path: DatasetPlace) -> Path | None:
    if not isinstance(path, Path):
        return None
    try:
        if path.is_dir():
            return path / FILE if not (path / DATASET).exists() and (path / FILE).exists() else None
        return path if path.is_file() else None
    except OSError:
        # Whoever opens the dataset says what is wrong.
        return None
