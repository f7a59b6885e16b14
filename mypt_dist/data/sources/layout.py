"""Where is what, in the folder that everything is fetched into?

::

    OUT/SOURCE/download/NAME        as it came; NAME.part while it is on its way
    OUT/SOURCE/extracted/files/…    what was in the archives
    OUT/SOURCE/extracted/manifest.json
    OUT/fetched.json                what there is, with weights and licences
"""

from dataclasses import dataclass
from pathlib import Path

from mypt_dist.config import inside

LOCK = ".fetching.lock"
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class SourceFolder:
    """The folder of one source."""

    path: Path

    @property
    def download(self) -> Path:
        """For what was downloaded."""
        return self.path / "download"

    @property
    def extracted(self) -> Path:
        """For what was unpacked: there as a whole, or not at all."""
        return self.path / "extracted"

    @property
    def files(self) -> Path:
        """What came out of archives."""
        return self.extracted / "files"

    @property
    def manifest(self) -> Path:
        """What came out of which archives."""
        return self.extracted / MANIFEST

    @property
    def staging(self) -> Path:
        """What is being unpacked."""
        return self.path / ".extracting"

    @property
    def replaced(self) -> Path:
        """What was unpacked before, on its way out."""
        return self.path / ".replaced"


def folder_of(out: Path, name: str) -> SourceFolder:
    """The folder of the source whose folder is called ``name``."""
    return SourceFolder(inside(out, name))
