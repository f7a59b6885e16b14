"""How do files become pieces of work of bounded size, in an order that depends on the files alone?"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from mypt_dist.data.prepare.documents import (
    Digest,
    Document,
    LeftOutError,
    OnBadUtf8,
    ProblemKind,
    decoded,
    document_from_line,
)
from mypt_dist.data.prepare.inputs import InputFile
from mypt_dist.data.prepare.streams import TextBytes, UnreadableError
from mypt_dist.data.prepare.work import WHOLE_BYTES, Chunk, Lines, Nothing, Origin, Reading, Whole, WholeFile, Work
from mypt_dist.errors import DataError
from mypt_dist.tokenizers.chunks import Chunker, SafeCut, chunks_of

MAX_LINE_BYTES = 12 << 20
"""A longer line of JSON is left out. So is one half as long if a character of it is stored in two bytes, and one a
quarter as long for four bytes: Python stores all characters of a text as widely as the widest."""
_WIDE = re.compile(rb"[\xf0-\xff]|\\u[dD]")

_STRICT_FIRST: tuple[Literal["strict", "replace"], ...] = ("strict", "replace")


@dataclass(frozen=True, slots=True)
class _Scan:
    """What one pass over a large document finds out."""

    digest: bytes
    errors: Literal["strict", "replace"]


class Reader:
    """Files to work. What a reader holds in memory does not depend on the size of a file."""

    def __init__(self, safe_cut: SafeCut, reading: Reading) -> None:
        """``safe_cut``: where large documents may be cut."""
        self._safe_cut = safe_cut
        self._reading = reading

    def work(self, files: Iterable[InputFile]) -> Iterator[Work]:
        """The work of ``files``, in order. Raises `DataError` where a file changes while it is read."""
        for file in files:
            if file.shape == "document" and not file.packing and file.size <= WHOLE_BYTES:
                # Read by the thread that encodes it, so that slow disks are read in parallel.
                yield WholeFile(Origin(file.path, file.argument, file.size))
                continue
            read = 0
            for work in self._streamed(file):
                read += work.origin.read
                yield work
            # So that progress ends at the total even where reading stopped early.
            yield Nothing(Origin(file.path, file.argument, file.size - read))

    def _streamed(self, file: InputFile) -> Iterator[Work]:
        try:
            with TextBytes(file.path, file.packing) as stream:
                yield from self._lines(file, stream) if file.shape == "lines" else self._document(file, stream)
        except UnreadableError as error:
            yield _nothing(file, "unreadable_files", f"{file.path}: {error}")

    def _document(self, file: InputFile, stream: TextBytes) -> Iterator[Work]:
        data = stream.read_up_to(WHOLE_BYTES + 1)
        if len(data) <= WHOLE_BYTES:
            yield Whole(_origin(file, stream), data)
            return
        del data
        try:
            scan = _scan(file, self._reading.on_bad)
        except LeftOutError as left_out:
            yield _nothing(file, left_out.kind, str(file.path))
            return
        if scan.errors == "replace":
            yield _nothing(file, "bad_utf8", str(file.path))
        try:
            with TextBytes(file.path, file.packing) as again:
                yield from self._chunks(file, again, scan)
        except (UnreadableError, UnicodeDecodeError) as error:
            raise DataError(f"{file.path} could be read once but not again: {error}") from None

    def _chunks(self, file: InputFile, stream: TextBytes, scan: _Scan) -> Iterator[Chunk]:
        chunker, digest = Chunker(self._safe_cut), Digest()
        for text in decoded(_blocks(stream), scan.errors):
            digest.update(text)
            for chunk in chunker.feed(text):
                yield Chunk(_origin(file, stream), chunk, scan.digest, is_last=False)
        if digest.digest() != scan.digest:
            raise DataError(f"{file.path} changed while it was being read; prepare again when it is complete")
        yield Chunk(_origin(file, stream), chunker.rest(), scan.digest, is_last=True)

    def _lines(self, file: InputFile, stream: TextBytes) -> Iterator[Work]:
        number = 1
        for data in _whole_lines(stream):
            origin = _origin(file, stream)
            if data is None:
                yield Nothing(origin, ("oversized", f"{file.path}:{number}"))
            elif data.count(b"\n") <= 1 and len(data) > WHOLE_BYTES:
                yield from self._large_line(origin, data, number)
            else:
                yield Lines(origin, data, number)
            number += 1 if data is None else data.count(b"\n")
        if number == 1 and not stream.has_text:
            yield _nothing(file, "empty", str(file.path))

    def _large_line(self, origin: Origin, line: bytes, number: int) -> Iterator[Work]:
        """Parsed here and not in a thread, so that only one such line is in memory."""
        where = f"{origin.path}:{number}"
        try:
            document = document_from_line(line, self._reading.text_field, self._reading.on_bad)
        except LeftOutError as left_out:
            yield Nothing(origin, (left_out.kind, where))
            return
        yield Nothing(origin, ("bad_utf8", where) if document.repaired else None)
        yield from self._chunks_of(document, Origin(origin.path, origin.argument, 0))

    def _chunks_of(self, document: Document, origin: Origin) -> Iterator[Chunk]:
        held: str | None = None
        for chunk in chunks_of(document.text, self._safe_cut):
            if held is not None:
                yield Chunk(origin, held, document.digest, is_last=False)
            held = chunk
        assert held is not None, "a document is not empty"
        yield Chunk(origin, held, document.digest, is_last=True)


def _scan(file: InputFile, on_bad: OnBadUtf8) -> _Scan:
    """Hash a large document without keeping it. Raises `LeftOutError`, `UnreadableError`."""
    for errors in _STRICT_FIRST:
        digest, is_blank = Digest(), True
        try:
            with TextBytes(file.path, file.packing) as stream:
                for text in decoded(_blocks(stream), errors):
                    digest.update(text)
                    is_blank = is_blank and (not text or text.isspace())
        except UnicodeDecodeError:
            if on_bad == "skip":
                raise LeftOutError("bad_utf8") from None
            continue
        if is_blank:
            raise LeftOutError("empty")
        return _Scan(digest.digest(), errors)
    raise AssertionError("replacing errors does not fail")


def _blocks(stream: TextBytes) -> Iterator[bytes]:
    while block := stream.read():
        yield block


class _Line:
    """The line that is not complete yet."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.size = 0

    def add(self, data: bytes) -> None:
        self.size += len(data) - data.endswith(b"\n")
        if self.size > MAX_LINE_BYTES:
            self._parts.clear()
        else:
            self._parts.append(data)

    def take(self) -> bytes | None:
        """The line and a new start; None for a line over `MAX_LINE_BYTES`."""
        line = b"".join(self._parts)
        is_too_long = self.size > MAX_LINE_BYTES // 4 and self.size * _stored_bytes(line) > MAX_LINE_BYTES
        self._parts, self.size = [], 0
        return None if is_too_long else line


def _stored_bytes(line: bytes) -> int:
    """At most how many bytes Python needs for a character of ``line`` and of what its escapes stand for."""
    if _WIDE.search(line):
        return 4
    return 1 if line.isascii() and b"\\u" not in line else 2


def _whole_lines(stream: TextBytes) -> Iterator[bytes | None]:
    """Runs of lines, never much longer than `WHOLE_BYTES`; a longer line comes alone, a far too long one as None."""
    line = _Line()
    for block in _blocks(stream):
        first, last = block.find(b"\n") + 1, block.rfind(b"\n") + 1
        line.add(block[:first] if first else block)
        if not first:
            continue
        complete, others = line.take(), block[first:last]
        if complete is not None and len(complete) <= WHOLE_BYTES:
            yield complete + others
        else:
            yield complete
            if others:
                yield others
        line.add(block[last:])
    if line.size:
        yield line.take()


def _origin(file: InputFile, stream: TextBytes) -> Origin:
    return Origin(file.path, file.argument, stream.advanced())


def _nothing(file: InputFile, kind: ProblemKind, where: str) -> Nothing:
    return Nothing(Origin(file.path, file.argument, 0), (kind, where))
