"""Where does a document end in a file of lines, and what is its text?"""

import re
from collections.abc import Iterable, Iterator

import numpy as np

from mypt_dist.data.formats import JsonLines, LineFile, TabSeparated, TextFormat
from mypt_dist.data.prepare.documents import Document, LeftOutError, OnBadUtf8, document_from_bytes, document_from_line

LINES_BYTES = 3 << 20
"""A document of several lines is ended where it has grown so long."""


def is_several_lines(format_: TextFormat) -> bool:
    """Whether a document may be more than a line."""
    return isinstance(format_, LineFile) and (format_.lines_per_document > 1 or format_.end_line is not None)


def whole_records(runs: Iterable[bytes | None], format_: TextFormat) -> Iterator[bytes | None]:
    """Runs of whole documents from runs of whole lines. None stands for a line too long, which ends a document."""
    if not is_several_lines(format_):
        yield from runs
        return
    assert isinstance(format_, LineFile), "no other has documents of several lines"
    held = b""
    for run in runs:
        held += run or b""
        end = len(held) if run is None or len(held) > LINES_BYTES else _last_end(held, format_)
        if end:
            yield held[:end]
            held = held[end:]
        if run is None:
            yield None
    if held:
        yield held


def records(data: bytes, first: int, format_: TextFormat) -> Iterator[tuple[int, bytes]]:
    """The documents of `whole_records`, each with the number of its first line. Without blank ones.

    ``first``: number of the first line of ``data``; 1 is that of a table's header, if it has one.
    """
    lines = enumerate(data.removesuffix(b"\n").split(b"\n"), first)
    if not is_several_lines(format_):
        has_header = isinstance(format_, TabSeparated) and format_.header
        yield from ((number, line) for number, line in lines if line.strip() and not (has_header and number == 1))
        return
    assert isinstance(format_, LineFile), "no other has documents of several lines"
    for number, group in _grouped(lines, format_):
        text = b"\n".join(group)
        if text.strip():
            yield number, text


def document_from_record(record: bytes, format_: TextFormat, on_bad: OnBadUtf8) -> Document:
    """The text of one of `records`. Raises `LeftOutError`."""
    if isinstance(format_, JsonLines):
        return document_from_line(record, format_.field, on_bad)
    if isinstance(format_, TabSeparated):
        columns = record.rstrip(b"\r").split(b"\t", format_.column)
        if len(columns) < format_.column:
            raise LeftOutError("no_text", f"{len(columns)} columns")
        return document_from_bytes(columns[format_.column - 1], on_bad)
    return document_from_bytes(record.removesuffix(b"\r"), on_bad)


def _grouped(lines: Iterable[tuple[int, bytes]], format_: LineFile) -> Iterator[tuple[int, list[bytes]]]:
    end = None if format_.end_line is None else format_.end_line.encode()
    group: list[bytes] = []
    begin = 0
    for number, line in lines:
        begin = begin if group else number
        if line.removesuffix(b"\r") == end:
            yield begin, group
            group = []
            continue
        group.append(line)
        if end is None and len(group) == format_.lines_per_document:
            yield begin, group
            group = []
    if group:
        yield begin, group


def _last_end(data: bytes, format_: LineFile) -> int:
    """Where the last document that is complete in ``data``, whole lines, ends; 0 where none is."""
    if format_.end_line is None:
        breaks = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
        whole = len(breaks) // format_.lines_per_document * format_.lines_per_document
        return int(breaks[whole - 1]) + 1 if whole else 0
    last = 0
    for match in re.finditer(rb"^%b\r?\n" % re.escape(format_.end_line.encode()), data, re.MULTILINE):
        last = match.end()
    return last
