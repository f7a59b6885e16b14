"""What was a dataset before something was appended to it? A folder for each earlier version, made of links.

``versions/<fingerprint>/`` holds the manifest of then and links to the shards of then, which never change. So it is a
dataset like any other: ``data.path`` may name it, and it can be verified and copied.
"""

from collections.abc import Iterator
from pathlib import Path

from mypt_dist.data.manifest import FILE, DatasetManifest
from mypt_dist.data.place import DatasetPlace
from mypt_dist.errors import MyptError

VERSIONS = "versions"
DIGITS = 16
"""Of a fingerprint, in the name of a version's folder."""


def version_folder(folder: Path, fingerprint: str) -> Path:
    """Where the version with this ``fingerprint`` of the dataset in ``folder`` is, if it is kept."""
    return folder / VERSIONS / fingerprint[:DIGITS]


def kept_version(folder: DatasetPlace, fingerprint: str) -> Path | None:
    """The folder of an earlier version of the dataset in ``folder``. Links are not copied to stores behind URLs."""
    if not isinstance(folder, Path):
        return None
    kept = version_folder(folder, fingerprint)
    try:
        return kept if DatasetManifest.read(kept).fingerprint == fingerprint else None
    except MyptError:
        return None


def write_version(into: Path, manifest: DatasetManifest) -> None:
    """Make ``into``, which will be a folder in ``versions/``, the version that ``manifest`` describes."""
    for name in ("train", "val"):
        (into / name).mkdir(parents=True)
    for entry in manifest.files():
        (into / entry.file).symlink_to(f"../../../{entry.file}")
    (into / FILE).write_bytes(manifest.to_bytes())


def version_files(folder: Path) -> Iterator[str]:
    """Every file of the earlier versions of the dataset in ``folder``, relative to it."""
    for path in sorted((folder / VERSIONS).glob(f"*/{FILE}")):
        name = path.parent.relative_to(folder).as_posix()
        try:
            files = [entry.file for entry in DatasetManifest.read(path.parent).files()]
        except MyptError:
            continue
        yield from (f"{name}/{file}" for file in (FILE, *files))
