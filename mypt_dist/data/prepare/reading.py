"""How do files become pieces of work of bounded size, in an order that depends on the files alone?"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from mypt_dist.data.filters import HEAD_CHARACTERS, Sample
from mypt_dist.data.formats import Parquet, TextFormat
from mypt_dist.data.formats import WholeFile as TextFile
from mypt_dist.data.prepare.documents import (
    Digest,
    Document,
    LeftOutError,
    ProblemKind,
    decoded,
    document_from_value,
)
from mypt_dist.data.prepare.inputs import InputFile
from mypt_dist.data.prepare.records import document_from_record, is_several_lines, records, whole_records
from mypt_dist.data.prepare.streams import TextBytes, UnreadableError
from mypt_dist.data.prepare.tables import row_groups_of_text
from mypt_dist.data.prepare.work import (
    WHOLE_BYTES,
    Chunk,
    LeftOut,
    Lines,
    Nothing,
    Origin,
    Reading,
    Rows,
    Whole,
    WholeFile,
    Work,
    place_of,
    printable,
)
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
    sketch: bytes


class Reader:
    """Files to work. What a reader holds in memory does not depend on the size of a file."""

    def __init__(self, safe_cut: SafeCut, reading: Reading) -> None:
        """``safe_cut``: where large documents may be cut."""
        self._safe_cut = safe_cut
        self._reading = reading

    def work(self, files: Iterable[InputFile]) -> Iterator[Work]:
        """The work of ``files``, in order. Raises `DataError` where a file changes while it is read."""
        for file in files:
            if isinstance(file.format, TextFile) and not file.packing and file.size <= WHOLE_BYTES:
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
            if isinstance(file.format, Parquet):
                yield from self._rows(file, file.format)
                return
            with TextBytes(file.path, file.packing) as stream:
                is_one = isinstance(file.format, TextFile)
                yield from self._document(file, stream) if is_one else self._lines(file, stream)
        except UnreadableError as error:
            yield _nothing(file, "unreadable_files", f"{file.path}: {error}")

    def _document(self, file: InputFile, stream: TextBytes) -> Iterator[Work]:
        data = stream.read_up_to(WHOLE_BYTES + 1)
        if len(data) <= WHOLE_BYTES:
            yield Whole(_origin(file, stream), data)
            return
        del data
        try:
            scan = _scan(file, self._reading)
        except LeftOutError as error:
            yield Nothing(Origin(file.path, file.argument, 0), LeftOut.because(error, file.path))
            return
        if scan.errors == "replace":
            yield Nothing(Origin(file.path, file.argument, 0), repaired=str(file.path))
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
                yield Chunk(_origin(file, stream), chunk, scan.digest, False, scan.sketch)
        if digest.digest() != scan.digest:
            raise DataError(f"{file.path} changed while it was being read; prepare again when it is complete")
        yield Chunk(_origin(file, stream), chunker.rest(), scan.digest, True, scan.sketch)

    def _lines(self, file: InputFile, stream: TextBytes) -> Iterator[Work]:
        number = 1
        for data in whole_records(whole_lines(stream), file.format):
            origin = _origin(file, stream)
            if data is None:
                yield Nothing(origin, LeftOut("oversized", place_of(file.path, number)))
            elif len(data) > WHOLE_BYTES and data.count(b"\n") <= 1:
                yield from self._large_record(origin, data, number, file.format)
            elif len(data) > 2 * WHOLE_BYTES and is_several_lines(file.format):
                yield from self._records(origin, data, number, file.format)
            else:
                yield Lines(origin, data, number, file.format)
            number += 1 if data is None else data.count(b"\n")
        if number == 1 and not stream.has_text:
            yield _nothing(file, "empty", str(file.path))

    def _records(self, origin: Origin, data: bytes, first: int, format_: TextFormat) -> Iterator[Work]:
        for number, record in records(data, first, format_):
            if len(record) > WHOLE_BYTES:
                yield from self._large_record(Origin(origin.path, origin.argument, 0), record, number, format_)
            else:
                yield Lines(Origin(origin.path, origin.argument, 0), record, number, format_)
        yield Nothing(origin)

    def _large_record(self, origin: Origin, data: bytes, first: int, format_: TextFormat) -> Iterator[Work]:
        for number, record in records(data, first, format_):
            read = partial(document_from_record, record, format_, self._reading.on_bad)
            yield from self._large(read, origin, number)

    def _rows(self, file: InputFile, table: Parquet) -> Iterator[Work]:
        number = 1
        for values, share in row_groups_of_text(file.path, table.column, WHOLE_BYTES):
            origin = Origin(file.path, file.argument, int(share * file.size))
            if sum(map(len, filter(None, values))) <= 2 * WHOLE_BYTES:
                yield Rows(origin, values, number)
            else:
                for row, value in enumerate(values, number):
                    read = partial(document_from_value, value, self._reading.on_bad)
                    yield from self._large(read, Origin(file.path, file.argument, 0), row)
                yield Nothing(origin)
            number += len(values)

    def _large(self, read: Callable[[], Document], origin: Origin, number: int) -> Iterator[Work]:
        """Read here and not in a thread, so that only one such document is in memory."""
        where = place_of(origin.path, number)
        try:
            document = self._reading.wanted(read())
        except LeftOutError as error:
            yield Nothing(origin, LeftOut.because(error, where))
            return
        yield Nothing(origin, repaired=where if document.repaired else None)
        yield from self._chunks_of(document, Origin(origin.path, origin.argument, 0), number)

    def _chunks_of(self, document: Document, origin: Origin, number: int) -> Iterator[Chunk]:
        held: str | None = None
        for chunk in chunks_of(document.text, self._safe_cut):
            if held is not None:
                yield Chunk(origin, held, document.digest, False, document.sketch, number)
            held = chunk
        assert held is not None, "a document is not empty"
        yield Chunk(origin, held, document.digest, True, document.sketch, number)


def _scan(file: InputFile, reading: Reading) -> _Scan:
    """Hash a large document without keeping it. Raises `LeftOutError`, `UnreadableError`."""
    for errors in _STRICT_FIRST:
        digest, head, characters, is_blank = Digest(), "", 0, True
        try:
            with TextBytes(file.path, file.packing) as stream:
                for text in decoded(_blocks(stream), errors):
                    digest.update(text)
                    characters += len(text)
                    head += text[: HEAD_CHARACTERS - len(head)]
                    is_blank = is_blank and (not text or text.isspace())
        except UnicodeDecodeError:
            if reading.on_bad == "skip":
                raise LeftOutError("bad_utf8") from None
            continue
        if is_blank:
            raise LeftOutError("empty")
        return _Scan(digest.digest(), errors, reading.sketch(Sample(head, characters)))
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


def whole_lines(stream: TextBytes) -> Iterator[bytes | None]:
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
    return Nothing(Origin(file.path, file.argument, 0), LeftOut(kind, printable(where)))
