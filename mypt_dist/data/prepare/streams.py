"""How is a plain or compressed file read in small pieces, with damage always noticed?"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol, cast

import zstandard

BLOCK_BYTES = 1 << 17
"""How much is read at a time."""
_XZ_MEMORY = 192 << 20
"""What ``xz -9`` needs, and some more. The format allows 4 GiB."""


class UnreadableError(Exception):
    """A file cannot be read, or not to its end. The message is the reason alone."""


class _Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...


class TextBytes:
    """The unpacked bytes of a file. Raises `UnreadableError` when opened or read."""

    def __init__(self, path: Path, packing: str) -> None:
        """``packing``: ``.gz``, ``.bz2``, ``.xz``, ``.zst`` or nothing."""
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
        except (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
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


class _StreamsReader:
    """Streams of bzip2 or xz, one after another.

    The library's own readers take garbage behind a stream for the end, and give xz whatever memory a file asks for.
    """

    def __init__(self, file: io.FileIO, stream: "Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor]") -> None:
        self._file, self._new_stream = file, stream
        self._stream: bz2.BZ2Decompressor | lzma.LZMADecompressor | None = None

    def read(self, size: int, /) -> bytes:
        while True:
            packed = b""
            if self._stream is None or self._stream.eof:
                # Zeros between streams are padding.
                behind = self._stream.unused_data if self._stream else b""
                packed = behind.lstrip(b"\0") or self._behind_zeros()
                if not packed:
                    return b""
                self._stream = self._new_stream()
            elif self._stream.needs_input and not (packed := self._file.read(BLOCK_BYTES) or b""):
                raise EOFError("it ends in the middle of a stream")
            if data := self._stream.decompress(packed, size):
                return data

    def _behind_zeros(self) -> bytes:
        while packed := self._file.read(BLOCK_BYTES):
            if rest := packed.lstrip(b"\0"):
                return rest
        return b""


def _gzip(file: io.FileIO) -> _Reader:
    return gzip.GzipFile(fileobj=file, mode="rb")


def _bzip2(file: io.FileIO) -> _Reader:
    return _StreamsReader(file, bz2.BZ2Decompressor)


def _xz(file: io.FileIO) -> _Reader:
    return _StreamsReader(file, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY))


_UNPACK: dict[str, Callable[[io.FileIO], _Reader]] = {
    "": lambda file: file,
    ".gz": _gzip,
    ".bz2": _bzip2,
    ".xz": _xz,
    ".zst": _ZstdReader,
}
PACKINGS = tuple(suffix for suffix in _UNPACK if suffix)
"""Endings of the names of compressed files."""
