"""Which archives are there, and what do their names end in?"""

from typing import Literal, TypeAlias

Kind: TypeAlias = Literal[
    "plain", "zip", "split_zip", "gzip", "bz2", "xz", "zst", "tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst"
]
"""``plain`` is no archive. ``split_zip`` is a zip archive in several files. gzip, bz2, xz and zst hold one file."""

PACKING: dict[Kind, str] = {
    "gzip": ".gz",
    "bz2": ".bz2",
    "xz": ".xz",
    "zst": ".zst",
    "tar": "",
    "tar.gz": ".gz",
    "tar.bz2": ".bz2",
    "tar.xz": ".xz",
    "tar.zst": ".zst",
}
"""How `mypt_dist.data.prepare.streams` calls what the bytes are compressed by. In a zip archive each member is."""

_SUFFIXES: dict[str, Kind] = {
    ".tar.gz": "tar.gz",
    ".tgz": "tar.gz",
    ".tar.bz2": "tar.bz2",
    ".tbz2": "tar.bz2",
    ".tar.xz": "tar.xz",
    ".txz": "tar.xz",
    ".tar.zst": "tar.zst",
    ".tzst": "tar.zst",
    ".tar": "tar",
    ".zip": "zip",
    ".gz": "gzip",
    ".bz2": "bz2",
    ".xz": "xz",
    ".zst": "zst",
}


def kind_of(name: str) -> Kind:
    """What a file of this name is."""
    suffix = _suffix(name)
    return _SUFFIXES[suffix] if suffix else "plain"


def without_suffix(name: str) -> str:
    """``name`` without what says that it is an archive."""
    return name[: -len(_suffix(name))] if _suffix(name) else name


def _suffix(name: str) -> str:
    """The longest come first in the table. A name that is nothing else has none."""
    return next((suffix for suffix in _SUFFIXES if name.lower().endswith(suffix) and len(name) > len(suffix)), "")
