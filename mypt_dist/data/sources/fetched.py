"""``fetched.json``: what there is in a folder of fetched sources, where it came from, and under which terms."""

from typing import Literal

from mypt_dist.config import Config
from mypt_dist.data.sources.pins import Pin


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
    """Its name."""
    sources: dict[str, FetchedSource]
    """By key."""
