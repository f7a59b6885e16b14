"""The archives of a source, unpacked as a whole or not at all."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from mypt_dist.config import Config, Sha256, read_json, validate
from mypt_dist.data import durable
from mypt_dist.data.archives import Archive, ExtractionLimits, extract
from mypt_dist.data.prepare.writer import writing
from mypt_dist.data.sources.layout import MANIFEST, SourceFolder
from mypt_dist.errors import ConfigError


class UnpackedFile(Config):
    """A file that came out of an archive."""

    path: str
    bytes: Annotated[int, Field(ge=0)]
    sha256: Sha256


class UnpackedManifest(Config):
    """``extracted/manifest.json``."""

    format: Literal[1] = 1
    archives: dict[str, Sha256]
    """The files that were unpacked, by name."""
    files: tuple[UnpackedFile, ...]
    """In the order in which they came out."""


def is_unpacked(folder: SourceFolder, hashes: Mapping[str, str]) -> bool:
    """Whether all of the archives with these hashes, and nothing else, was unpacked, and still has its sizes."""
    try:
        manifest = validate(UnpackedManifest, read_json(folder.manifest), str(folder.manifest))
        sizes = [(folder.files / file.path).lstat().st_size for file in manifest.files]
    except (ConfigError, OSError):
        return False
    return manifest.archives == dict(hashes) and sizes == [file.bytes for file in manifest.files]


def unpack(
    archives: Sequence[Archive],
    hashes: Mapping[str, str],
    folder: SourceFolder,
    limits: ExtractionLimits,
    advance: Callable[[int], None],
) -> None:
    """Unpack into ``folder``, in place of what was unpacked there before.

    ``hashes``: of the files of the archives, for the manifest. Raises `DataError`; then nothing has changed.
    """
    with writing(folder.staging):
        for leftover in (folder.staging, folder.replaced):
            shutil.rmtree(leftover, ignore_errors=True)
        (folder.staging / folder.files.name).mkdir(parents=True)
    try:
        files = extract(archives, folder.staging / folder.files.name, limits, advance)
        manifest = UnpackedManifest(
            archives=dict(hashes),
            files=tuple(UnpackedFile(path=file.path, bytes=file.bytes, sha256=file.sha256) for file in files),
        )
        with writing(folder.extracted):
            durable.write_new(folder.staging / MANIFEST, manifest.model_dump_json(indent=1).encode())
            durable.sync_folder(folder.staging)
            _put_in_place(folder)
    finally:
        shutil.rmtree(folder.staging, ignore_errors=True)


def _put_in_place(folder: SourceFolder) -> None:
    if folder.extracted.exists():
        folder.extracted.rename(folder.replaced)
    folder.staging.rename(folder.extracted)
    durable.sync_folder(folder.path)
    shutil.rmtree(folder.replaced, ignore_errors=True)
