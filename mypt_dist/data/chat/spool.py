"""Conversations on the disk between the two passes: all are laid out before it is known which share a row."""

from array import array
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mypt_dist.chat import Rendered
from mypt_dist.data.prepare.writer import writing

TOKEN = np.dtype([("id", "<u4"), ("mask", "u1"), ("kind", "u1")])
"""Of the spool."""


class Spool:
    """The conversations of one split. Memory is some tens of bytes for each, however long they are."""

    def __init__(self, folder: Path, name: str) -> None:
        """Raises `DataError` where the disk refuses."""
        self._path, self._records = folder / f"{name}.tokens", folder / f"{name}.records"
        with writing(folder):
            # Closed by seal or close.
            self._tokens_file: IO[bytes] = self._path.open("wb")
            self._records_file: IO[bytes] = self._records.open("w+b")
        self._lengths, self._record_ends = array("q"), array("q")

    def add(self, rendered: Rendered, record: bytes) -> None:
        """``record``: what is to be remembered of it. Raises `DataError` where the disk refuses."""
        rows = np.empty(len(rendered), TOKEN)
        rows["id"], rows["mask"], rows["kind"] = rendered.ids, rendered.mask, rendered.kinds
        with writing(self._path):
            self._tokens_file.write(rows.tobytes())
            self._records_file.write(record)
        self._lengths.append(len(rendered))
        self._record_ends.append(len(record) + (self._record_ends[-1] if self._record_ends else 0))

    def __len__(self) -> int:
        return len(self._lengths)

    def seal(self) -> NDArray[Any]:
        """All tokens, (n,) of `TOKEN`; nothing can be added any more."""
        with writing(self._path):
            self._tokens_file.close()
        return np.memmap(self._path, TOKEN, "r") if self._path.stat().st_size else np.empty(0, TOKEN)

    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each, (n,)."""
        return np.array(self._lengths, np.int64)

    def record(self, number: int) -> bytes:
        """What was to be remembered of a conversation."""
        begin = self._record_ends[number - 1] if number else 0
        self._records_file.seek(begin)
        return self._records_file.read(self._record_ends[number] - begin)

    def close(self) -> None:
        """Let go of the files."""
        self._tokens_file.close()
        self._records_file.close()
