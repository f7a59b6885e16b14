"""Several files, read as if they were one after another in a single one."""

import io
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from mypt_dist.data.prepare.streams import UnreadableError


class JoinedFile:
    """The bytes of ``paths``, in this order. For one thread at a time. Raises `UnreadableError`."""

    def __init__(self, paths: Sequence[Path], max_read: int) -> None:
        """``max_read``: more than that at once is refused with ValueError, so that memory stays small."""
        self._max_read = max_read
        try:
            self._files = [path.open("rb") for path in paths]
        except OSError as error:
            raise UnreadableError(f"{error.filename}: {error.strerror}") from None
        sizes = [file.seek(0, io.SEEK_END) for file in self._files]
        self.starts = list(accumulate(sizes, initial=0))
        """Where each file begins, and the end of the last."""
        self._at = 0

    def close(self) -> None:
        """Give the descriptors back."""
        for file in self._files:
            file.close()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return self.starts[-1]

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to ``offset``. Raises OSError before the first byte."""
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        if at < 0:
            raise OSError("there is nothing before the first byte")
        self._at = at
        return at

    def read(self, size: int = -1) -> bytes:
        """``size`` bytes, fewer at the end only; all that follow for -1."""
        end = self.size if size < 0 else min(self._at + size, self.size)
        if end - self._at > self._max_read:
            raise ValueError(f"{end - self._at:,} bytes are too many to be read at once")
        parts = []
        while self._at < end:
            parts.append(self._read_from_one(end))
        return b"".join(parts)

    def _read_from_one(self, end: int) -> bytes:
        index = next(i for i, start in enumerate(self.starts[1:]) if self._at < start)
        try:
            self._files[index].seek(self._at - self.starts[index])
            data = self._files[index].read(min(end, self.starts[index + 1]) - self._at)
        except OSError as error:
            raise UnreadableError(str(error.strerror)) from None
        if not data:
            raise UnreadableError("it was cut short while it was read")
        self._at += len(data)
        return data
