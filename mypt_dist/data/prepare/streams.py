"""How is a plain, gzipped or Zstandard file read in small pieces, with damage always noticed?"""

import gzip
import io
import zlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol, cast

import zstandard

BLOCK_BYTES = 1 << 17
"""How much is read at a time."""


class UnreadableError(Exception):
    """A file cannot be read, or not to its end. The message is the reason alone."""


class _Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...


class TextBytes:
    """The unpacked bytes of a file. Raises `UnreadableError` when opened or read."""

    def __init__(self, path: Path, packing: str) -> None:
        """``packing``: ``.gz``, ``.zst`` or nothing."""
        try:
            # Closed by __exit__: the object is the context manager.
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise UnreadableError(error.strerror or str(error)) from None
        self._open = _UNPACK[packing]
        self._reader: _Reader = self._open(self._file)
        self._reported = 0
        self.has_text = False
        """Whether anything was read yet."""

    def __enter__(self) -> "TextBytes":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def read(self, size: int = BLOCK_BYTES) -> bytes:
        """At most ``size`` bytes; none at the end."""
        try:
            data = self._reader.read(size)
        except OSError as error:
            raise UnreadableError(error.strerror or str(error)) from None
        except (EOFError, zlib.error, zstandard.ZstdError) as error:
            raise UnreadableError(f"the compressed data is damaged: {error}") from None
        self.has_text = self.has_text or bool(data)
        return data

    def read_up_to(self, size: int) -> bytes:
        """``size`` bytes, fewer only where the file ends."""
        parts = []
        while size > 0 and (part := self.read(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def advanced(self) -> int:
        """Bytes of the file on disk that were read since the last call: the unit of progress."""
        position = self._file.tell()
        news, self._reported = position - self._reported, position
        return news


class _WithEnd:
    """A packed file, followed by a frame that unpacks to `_ZstdReader.END`."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        frame = zstandard.ZstdCompressor().compress(_ZstdReader.END)
        # In two parts: given a whole frame at once, the library forgets the part of a header that came before.
        self._end = [frame[:1], frame[1:]]

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        return data if data or not self._end else self._end.pop(0)


class _ZstdReader:
    """Frames of Zstandard, one after another.

    The library ends quietly where a frame is cut short. So a last frame of our own is appended: it comes out whole,
    at the very end, only if the frames before it were whole.
    """

    END = b"\x17" * 64

    def __init__(self, file: io.FileIO) -> None:
        source = cast("IO[bytes]", _WithEnd(file))
        self._reader = zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True)
        self._held = b""

    def read(self, size: int, /) -> bytes:
        while data := self._reader.read(size):
            data = self._held + data
            cut = max(0, len(data) - len(self.END))
            self._held = data[cut:]
            if cut:
                return data[:cut]
        if self._held != self.END:
            raise EOFError("it ends in the middle of a frame")
        return b""


def _gzip(file: io.FileIO) -> _Reader:
    return gzip.GzipFile(fileobj=file, mode="rb")


_UNPACK: dict[str, Callable[[io.FileIO], _Reader]] = {"": lambda file: file, ".gz": _gzip, ".zst": _ZstdReader}
