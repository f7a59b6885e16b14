"""Corpora from the web or from this machine: described by a sources file, downloaded, unpacked, prepared."""

from mypt_dist.data.sources.config import SourcesFile
from mypt_dist.data.sources.fetched import Fetched
from mypt_dist.data.sources.fetching import FetchOptions, fetch, fetched_texts
from mypt_dist.data.sources.preparing import PrepareOptions, prepare_sources
from mypt_dist.data.sources.read import Sources, read_sources
from mypt_dist.data.sources.texts import TextInput

__all__ = [
    "FetchOptions",
    "Fetched",
    "PrepareOptions",
    "Sources",
    "SourcesFile",
    "TextInput",
    "fetch",
    "fetched_texts",
    "prepare_sources",
    "read_sources",
]
