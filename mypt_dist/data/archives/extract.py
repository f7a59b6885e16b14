"""From archives to a folder of files."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from mypt_dist.data.archives.joined import JoinedFile
from mypt_dist.data.archives.kinds import PACKING, Kind, without_suffix
from mypt_dist.data.archives.limits import Budget, ExtractionLimits, RefusedError
from mypt_dist.data.archives.tar_members import tar_members
from mypt_dist.data.archives.tree import ExtractedFile, Member, Tree
from mypt_dist.data.archives.zip_members import index_bytes, zip_members
from mypt_dist.data.prepare.streams import TextBytes, UnreadableError
from mypt_dist.data.prepare.writer import writing
from mypt_dist.errors import DataError

READ_BYTES = 1 << 17

Advance = Callable[[int], None]
"""Told how many more bytes of the archives were read."""


@dataclass(frozen=True, slots=True)
class Archive:
    """One archive, in one file or several."""

    paths: tuple[Path, ...]
    kind: Kind
    name: str
    """Of its file, or of the file that its parts would be together."""


def extract(
    archives: Sequence[Archive], into: Path, limits: ExtractionLimits, advance: Advance = lambda _bytes: None
) -> list[ExtractedFile]:
    """Unpack ``archives`` into the empty folder ``into``, and wait until everything is on the disk.

    The members of a zip or tar archive go into a folder called as the archive, without its suffix. Archives within
    archives stay files. Nothing is written outside of ``into``, and no more than ``limits`` allow.

    Raises `DataError` naming the archive, with what was extracted until then left in ``into``.
    """
    packed = sum(path.stat().st_size for archive in archives for path in archive.paths if path.exists())
    tree = Tree(into, Budget(limits, packed))
    with writing(into):
        for archive in archives:
            try:
                _extract_one(archive, tree, advance)
            except RefusedError as refused:
                raise DataError(f"{archive.paths[0]} is refused: {refused}") from None
            except UnreadableError as error:
                raise DataError(f"{archive.paths[0]} cannot be unpacked: {error}") from None
        tree.sync()
    return tree.files


def _extract_one(archive: Archive, tree: Tree, advance: Advance) -> None:
    name = without_suffix(archive.name)
    if archive.kind in ("zip", "split_zip"):
        with closing(JoinedFile(archive.paths, index_bytes(tree.budget))) as joined:
            for member in zip_members(joined, tree.budget, advance):
                tree.add(member, below=name)
        return
    with TextBytes(archive.paths[0], PACKING[archive.kind]) as file:

        def read(size: int) -> bytes:
            data = file.read(size)
            advance(file.advanced())
            return data

        if archive.kind.startswith("tar"):
            for member in tar_members(read, tree.budget):
                tree.add(member, below=name)
        else:
            tree.add(Member(name, _all(read)))


def _all(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while block := read(READ_BYTES):
        yield block
