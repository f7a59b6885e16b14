"""The sources file: which corpora there are, where they come from, how they are packed, what they weigh.

A file of the predecessor is read as it is: its keys are a part of these.
"""

import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from mypt_dist.config import Config, SafeName, Sha256
from mypt_dist.config.problems import near_miss
from mypt_dist.data.archives import Kind, kind_of
from mypt_dist.data.filters import Filter
from mypt_dist.data.formats import TextFormat

Weight = Annotated[float, Field(ge=0)]
_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?\Z|\[[0-9a-fA-F:.]{2,45}\](:[0-9]{1,5})?\Z")


def checked_url(url: str) -> str:
    """``url``. Raises ValueError unless it is one that `mypt_dist.data.sources.web` may ask for."""
    if not (url.isascii() and url.isprintable() and " " not in url and "\\" not in url and len(url) <= 2048):
        raise ValueError("a URL has at most 2,048 characters, ASCII alone, others spelled %C3%BC and the like")
    try:
        parts, port = urlsplit(url), urlsplit(url).port
    except ValueError as error:
        raise ValueError(f"{url[:80]!r} is no URL: {error}") from None
    if parts.scheme not in ("https", "http") or not parts.hostname or port == 0:
        raise ValueError(f"{url[:80]!r} is not the address of a file on the web: it begins with https://HOST/")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL with a user or password in it is refused: this file is shared")
    return url


def checked_host(host: str) -> str:
    """``host`` or ``host:port`` in small letters. Raises ValueError."""
    if not _HOST.match(host):
        raise ValueError(f"{host[:80]!r} is not a host: HOST or HOST:PORT, without https:// and without a path")
    return host.lower()


def _checked_pattern(pattern: str) -> str:
    path = PurePosixPath(pattern)
    if not pattern or not pattern.isprintable() or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{pattern!r} must be a pattern such as '*.txt' within the files of the source")
    return pattern


Url = Annotated[str, AfterValidator(checked_url)]
Host = Annotated[str, AfterValidator(checked_host)]
Pattern = Annotated[str, AfterValidator(_checked_pattern)]


class Download(Config):
    """One file to download. In a sources file also ``["corpus.zip", "https://…"]``."""

    file: SafeName
    """What it is called here. Its ending says what it is, unless ``type`` does."""
    url: Url
    """``https://``; ``http://`` only for a host that is allowed explicitly."""
    sha256: Sha256 | None = None
    """What its content must be. Without it, the content of the first download is recorded in the lock file."""
    bytes: int | None = Field(default=None, ge=0)
    """How long it must be."""


def _as_download(value: Any) -> Any:
    is_pair = isinstance(value, (list, tuple)) and len(value) == 2
    return {"file": value[0], "url": value[1]} if is_pair else value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Source(Config):
    """One corpus."""

    name: str = ""
    """For people."""
    description: str = ""
    licence: str = ""
    """Under which terms it may be used, and where they stand."""
    subdir: SafeName | None = None
    """Folder for its files. By default its key."""
    urls: tuple[Annotated[Download, BeforeValidator(_as_download)], ...] = ()
    """What to download."""
    paths: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_as_list)] = ()
    """Files of this machine instead: paths and globs, ``**`` included, relative to the sources file. Text is read in
    place; archives are unpacked."""
    type: Kind | None = None
    """How its files are packed. By default each as its name ends: .zip .tar .tar.gz .tgz .tar.bz2 .tar.xz .tar.zst .gz
    .bz2 .xz .zst, all else not at all. ``split_zip`` are the parts of one zip archive, in order."""
    combined_name: SafeName | None = None
    """What the parts of a ``split_zip`` would be called together."""
    final_pattern: Annotated[tuple[Pattern, ...], BeforeValidator(_as_list)] = ()
    """Which of the files, after unpacking, are the text: globs such as ``*.de`` or ``txt/**/*.md``, matched in every
    folder. By default all whose names end as text or code does."""
    format: TextFormat | None = None
    """What is a document in them. By default what a name's ending says; a whole file, where ``final_pattern`` names
    it and its ending says nothing."""
    filters: tuple[Filter, ...] | None = None
    """Which of its documents are not wanted, instead of the filters of the whole file. Null: those."""
    weight: Weight | None = None
    """Its share in a mixture, relative to the others. By default that of ``default_weights``, or else 1. A source of
    weight 0 is left out unless it is asked for by name."""
    est_size_mb: Weight | None = None
    """About how large its downloads are, in millions of bytes."""

    @model_validator(mode="after")
    def _from_one_place(self) -> Self:
        if bool(self.urls) == bool(self.paths):
            raise ValueError("needs either urls (what to download) or paths (files of this machine)")
        files = [download.file.lower() for download in self.urls]
        if twice := sorted({name for name in files if files.count(name) > 1}):
            raise ValueError(f"two of its downloads are called {twice[0]!r}")
        if self.type == "split_zip" and self.paths:
            raise ValueError("the parts of a split_zip are downloads: their order is that of urls")
        return self

    def kind_of(self, name: str) -> Kind:
        """How the file ``name`` of this source is packed."""
        return self.type or kind_of(name)


class SourcesFile(Config):
    """Named corpora: what ``mypt data fetch`` and ``mypt data prepare`` read."""

    about: dict[str, str] = {}
    """For people: ``description`` is what a listing shows."""
    name: str = ""
    description: str = ""
    version: str | int | float = ""
    plain_hosts: tuple[Host, ...] = ()
    """Hosts, or HOST:PORT, that may be asked over ``http://`` or at another port than 443. Their addresses must be
    public all the same: private ones are allowed on the command line alone."""
    filters: tuple[Filter, ...] = ()
    """Which documents are not wanted, in each source by itself: first those filters that look at one document, in this
    order, then duplicates. Without any, only what is empty is left out."""
    default_weights: dict[str, Weight] = {}
    """Weights by the keys of ``sources``."""
    sources: Annotated[dict[SafeName, Source], Field(min_length=1)]
    """The corpora by key."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for key in self.default_weights:
            if key not in self.sources:
                raise ValueError(f"default_weights.{key}: there is no such source{near_miss(key, self.sources)}")
            if self.sources[key].weight is not None:
                raise ValueError(f"the weight of {key} stands twice: in default_weights and in the source")
        folders = [self.folder_name(key).lower() for key in self.sources]
        if twice := sorted({name for name in folders if folders.count(name) > 1}):
            raise ValueError(f"two sources would share the folder {twice[0]!r}: give one another subdir")
        return self

    def folder_name(self, key: str) -> str:
        """Of the source ``key``, in the folder that everything is fetched into."""
        return self.sources[key].subdir or key

    def weights(self) -> dict[str, float]:
        """The weight of every source."""
        return {
            key: source.weight if source.weight is not None else self.default_weights.get(key, 1.0)
            for key, source in self.sources.items()
        }
