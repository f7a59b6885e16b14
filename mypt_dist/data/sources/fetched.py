"""``fetched.json``: what there is in a folder of fetched sources, where it came from, and under which terms."""

from pathlib import Path
from typing import Literal

from mypt_dist.config import Config, read_json, validate
from mypt_dist.data.sources.pins import Pin
from mypt_dist.errors import ConfigError

FETCHED = "fetched.json"


class FetchedSource(Config):
    """One source."""

    weight: float
    licence: str
    folder: str
    """Within the folder of ``fetched.json``."""
    downloads: dict[str, Pin]
    """What was downloaded, by file."""
    texts: int | None
    """Files of text; null where nothing was unpacked."""
    text_bytes: int | None
    """Bytes of these files on the disk."""


class Fetched(Config):
    """The content of the file."""

    format: Literal[1] = 1
    sources_file: str
    """The name of the last that was fetched from."""
    sources: dict[str, FetchedSource]
    """By key."""


def read_fetched(out: Path) -> dict[str, FetchedSource]:
    """What earlier calls brought; nothing where there is no such file, or none that can be read."""
    try:
        return validate(Fetched, read_json(out / FETCHED), str(out / FETCHED)).sources
    except ConfigError:
        return {}
