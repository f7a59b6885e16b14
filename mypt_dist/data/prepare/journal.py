"""How does a preparation that was killed go on where it was, and not from its beginning?

Every so many bytes that were read, everything that was taken is put on the disk, and then a small file that says how
far that is. What a killed run has written behind that is cut off again. The pieces of work that were done are read once
more but not tokenized: their order depends on the files alone.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Literal

from mypt_dist.config import Config, Sha256, read_json, validate
from mypt_dist.data.durable import replace
from mypt_dist.data.entries import Count
from mypt_dist.data.filters.duplicates import SKETCH_BYTES
from mypt_dist.data.prepare.documents import DIGEST_BYTES
from mypt_dist.data.prepare.inputs import size_of
from mypt_dist.data.prepare.work import LeftOut, Piece
from mypt_dist.data.prepare.writer import OpenSplit, writing
from mypt_dist.errors import ConfigError

POSITION, KEPT, REJECTS = "position.json", "kept.bin", "rejects.jsonl"
SAVE_EVERY_BYTES = 64 << 20
"""Of what is read from the disk: some ten seconds of one core."""


class Position(Config):
    """``position.json``."""

    format: Literal[1] = 1
    identity: Sha256
    """Of the files and settings."""
    works: Count
    """Pieces of work that are done."""
    read: Count
    """Bytes on disk that they were."""
    splits: dict[str, OpenSplit]
    documents: Count
    text_bytes: Count
    counts: dict[str, Count]
    """Of problems, by kind."""
    examples: dict[str, tuple[str, ...]]
    kept: Count
    """Bytes of ``kept.bin``."""
    rejects: Count | None
    """Bytes of ``rejects.jsonl``; null where it is not wanted."""


class Journal:
    """What a preparation writes down besides its tokens, in the folder where they are staged."""

    def __init__(self, folder: Path, identity: str, *, with_rejects: bool, with_sketches: bool) -> None:
        """``identity``: of the files and settings: what others have left is not gone on with."""
        self._folder, self.identity, self._with_rejects = folder, identity, with_rejects
        self._sketch_bytes = SKETCH_BYTES if with_sketches else 0
        self._files: dict[str, IO[bytes]] = {}
        self._due = SAVE_EVERY_BYTES

    def position(self) -> Position | None:
        """How far an earlier run came; None where there is none that can be gone on with."""
        path = self._folder / POSITION
        try:
            found = validate(Position, read_json(path), str(path))
        except ConfigError:
            return None
        if found.identity != self.identity or (found.rejects is not None) != self._with_rejects:
            return None
        sizes = {KEPT: found.kept, REJECTS: found.rejects or 0}
        for split, written in found.splits.items():
            sizes |= written.files(split)
        is_there = all(size_of(self._folder / name) >= size for name, size in sizes.items())
        return found if is_there else None

    def open(self, after: Position | None) -> None:
        """Begin to write, behind what was there at a position. Raises `DataError`."""
        sizes = {KEPT: after.kept if after else 0, REJECTS: (after and after.rejects) or 0}
        for name in (KEPT, REJECTS) if self._with_rejects else (KEPT,):
            with writing(self._folder / name):
                self._files[name] = (self._folder / name).open("ab")
                self._files[name].truncate(sizes[name])
        self._due = (after.read if after else 0) + SAVE_EVERY_BYTES

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()

    def keep(self, piece: Piece) -> None:
        """Remember the document that a piece is the first of."""
        with writing(self._folder / KEPT):
            self._files[KEPT].write(piece.digest + piece.sketch.ljust(self._sketch_bytes, b"\0"))

    def reject(self, left_out: Sequence[LeftOut]) -> None:
        """Write down what is not taken, a JSON object on each line, if that is wanted."""
        if self._with_rejects and left_out:
            rows = [
                {"reason": each.kind, "origin": each.where, "detail": each.detail, "start": each.start}
                for each in left_out
            ]
            lines = "".join(json.dumps({key: value for key, value in row.items() if value}) + "\n" for row in rows)
            with writing(self._folder / REJECTS):
                self._files[REJECTS].write(lines.encode("ascii"))

    def kept(self, size: int) -> Iterator[tuple[bytes, bytes]]:
        """Digest and sketch of the documents in the first ``size`` bytes of what was kept."""
        record = DIGEST_BYTES + self._sketch_bytes
        with writing(self._folder / KEPT), (self._folder / KEPT).open("rb") as file:
            for _ in range(size // record):
                data = file.read(record)
                sketch = data[DIGEST_BYTES:]
                # Zeros stand for a text that is too short to have one.
                yield data[:DIGEST_BYTES], sketch if any(sketch) else b""

    def is_due(self, read: int) -> bool:
        """Whether it is time to put down a position. ``read``: bytes on disk that are done."""
        return read >= self._due

    def sizes(self) -> tuple[int, int | None]:
        """Bytes of the files of documents kept and rejected; all of them are on the disk."""
        for name, file in self._files.items():
            with writing(self._folder / name):
                file.flush()
                os.fsync(file.fileno())
        return self._files[KEPT].tell(), self._files[REJECTS].tell() if self._with_rejects else None

    def save(self, position: Position) -> None:
        """A later run may go on from here."""
        with writing(self._folder / POSITION):
            replace(self._folder / POSITION, position.model_dump_json().encode())
        self._due = position.read + SAVE_EVERY_BYTES

    def forget(self) -> None:
        """Nothing may be gone on with from now on: what was written is about to move."""
        with writing(self._folder / POSITION):
            (self._folder / POSITION).unlink(missing_ok=True)
