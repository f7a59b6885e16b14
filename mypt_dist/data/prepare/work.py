"""What is one piece of work for a thread, and what comes back?"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mypt_dist.data.filters import Chain, Sample
from mypt_dist.data.formats import TextFormat
from mypt_dist.data.prepare.documents import (
    Document,
    LeftOutError,
    OnBadUtf8,
    ProblemKind,
    document_from_bytes,
    document_from_value,
)
from mypt_dist.data.prepare.records import document_from_record, records
from mypt_dist.data.prepare.streams import TextBytes, UnreadableError
from mypt_dist.errors import DataError
from mypt_dist.tokenizers import Tokenizer

WHOLE_BYTES = 1 << 18
"""A document up to this size is one piece of work; a larger one is read twice, to hash it and in chunks."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a piece of work comes from."""

    path: Path
    argument: int
    """Index of the input it was found through."""
    read: int
    """Bytes on disk that are done with it."""


def printable(path: object) -> str:
    """A path as text that can be printed and kept as JSON, whatever bytes it is made of."""
    return os.fsencode(str(path)).decode(errors="replace")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A document that is not taken."""

    kind: ProblemKind
    where: str
    """Its file, and behind a colon the number of its first line or of its row, from 1."""
    detail: str = ""
    """More of why."""
    start: str = ""
    """Of its text, where that is known."""

    @classmethod
    def because(cls, error: LeftOutError, where: object) -> "LeftOut":
        """What an error says of the document at ``where``."""
        return cls(error.kind, printable(where), error.detail, error.start)


def place_of(path: Path, number: int | None) -> str:
    """Where a document is: ``path``, or ``path:number`` of its first line or its row."""
    return printable(path if number is None else f"{path}:{number}")


class Problems:
    """What was left out or repaired: how often, and the names of the first few."""

    EXAMPLES = 5

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, kind: ProblemKind, where: object) -> None:
        """One more."""
        self.counts[kind] += 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < self.EXAMPLES:
            examples.append(printable(where))

    def merge(self, later: "Problems") -> None:
        """Add those of what was read next."""
        self.counts.update(later.counts)
        for kind, names in later.examples.items():
            examples = self.examples.setdefault(kind, [])
            examples.extend(names[: self.EXAMPLES - len(examples)])


@dataclass(frozen=True, slots=True)
class WholeFile:
    """A plain file that is one small document, still to be read."""

    origin: Origin


@dataclass(frozen=True, slots=True)
class Whole:
    """One small document, read already."""

    origin: Origin
    data: bytes


@dataclass(frozen=True, slots=True)
class Lines:
    """Whole documents of a file of lines."""

    origin: Origin
    data: bytes
    first: int
    """Number of the first line, from 1."""
    format: TextFormat


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a table."""

    origin: Origin
    values: Sequence[bytes | None]
    """What stands in the column of the text."""
    first: int
    """Number of the first row, from 1."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of one large document."""

    origin: Origin
    text: str
    digest: bytes
    """Of the whole document."""
    is_last: bool
    sketch: bytes = b""
    """The same."""
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Nothing:
    """Bytes that were read without giving a document, and why."""

    origin: Origin
    left_out: LeftOut | None = None
    repaired: str | None = None
    """Where a document was that follows, and is not all UTF-8."""


Work = WholeFile | Whole | Lines | Rows | Chunk | Nothing


@dataclass(frozen=True, slots=True)
class Piece:
    """A document, or a part of a large one, among the tokens of an `Outcome`."""

    digest: bytes
    """Of the whole document."""
    tokens: int
    """How many, with the end of text where ``is_last``."""
    text_bytes: int
    is_last: bool
    sketch: bytes = b""
    """Of the whole document, too."""
    number: int | None = None
    """Of the line or row the document begins with; none where the file is one document."""


@dataclass(slots=True)
class Outcome:
    """What became of one piece of work."""

    origin: Origin
    pieces: list[Piece] = field(default_factory=list)
    ids: list[NDArray[np.uint32]] = field(default_factory=list)
    """The tokens of the pieces, one after another."""
    characters: set[str] = field(default_factory=set)
    problems: Problems = field(default_factory=Problems)
    left_out: list[LeftOut] = field(default_factory=list)

    def leave_out(self, left_out: LeftOut) -> None:
        """Count a document that is not taken."""
        self.problems.add(left_out.kind, left_out.where)
        self.left_out.append(left_out)


class Task(Protocol):
    """What is done with each text, in a thread."""

    def document(self, document: Document, number: int | None, into: Outcome) -> None: ...

    def chunk(self, chunk: Chunk, into: Outcome) -> None: ...


@dataclass(frozen=True, slots=True)
class Reading:
    """How documents are taken from bytes."""

    on_bad: OnBadUtf8
    chain: Chain = field(default_factory=Chain)

    def wanted(self, document: Document) -> Document:
        """The document, and what near duplicates of it are known by. Raises `LeftOutError` where it is filtered."""
        if not self.chain.sees_texts:
            return document
        return replace(document, sketch=self.sketch(Sample.of(document.text)))

    def sketch(self, sample: Sample) -> bytes:
        """See `Document.sketch`. Raises `LeftOutError` where the document is filtered."""
        if dropped := self.chain.judge(sample):
            raise LeftOutError(*dropped, sample.head)
        return self.chain.sketch(sample)


def perform(work: Work, reading: Reading, task: Task) -> Outcome:
    """Do one piece of work. Runs in any thread."""
    match work:
        case WholeFile(origin):
            return _whole_file(origin, reading, task)
        case Whole(origin, data):
            return _whole(origin, data, reading, task)
        case Lines():
            return _lines(work, reading, task)
        case Rows():
            return _rows(work, reading, task)
        case Chunk():
            outcome = Outcome(work.origin)
            task.chunk(work, outcome)
            return outcome
        case Nothing():
            return _nothing(work)


def _nothing(work: Nothing) -> Outcome:
    outcome = Outcome(work.origin)
    if work.left_out:
        outcome.leave_out(work.left_out)
    if work.repaired:
        outcome.problems.add("bad_utf8", work.repaired)
    return outcome


def _whole_file(origin: Origin, reading: Reading, task: Task) -> Outcome:
    try:
        with TextBytes(origin.path, "") as file:
            data = file.read_up_to(2 * WHOLE_BYTES)
    except UnreadableError as error:
        outcome = Outcome(origin)
        outcome.leave_out(LeftOut("unreadable_files", printable(f"{origin.path}: {error}")))
        return outcome
    if len(data) == 2 * WHOLE_BYTES:
        raise DataError(f"{origin.path} grew while it was being read; prepare again when it is complete")
    return _whole(origin, data, reading, task)


def _whole(origin: Origin, data: bytes, reading: Reading, task: Task) -> Outcome:
    outcome = Outcome(origin)
    _take(lambda: document_from_bytes(data, reading.on_bad), None, reading, task, outcome)
    return outcome


def _lines(work: Lines, reading: Reading, task: Task) -> Outcome:
    outcome = Outcome(work.origin)
    for number, record in records(work.data, work.first, work.format):
        read = partial(document_from_record, record, work.format, reading.on_bad)
        _take(read, number, reading, task, outcome)
    return outcome


def _rows(work: Rows, reading: Reading, task: Task) -> Outcome:
    outcome = Outcome(work.origin)
    for number, value in enumerate(work.values, work.first):
        _take(partial(document_from_value, value, reading.on_bad), number, reading, task, outcome)
    return outcome


def _take(read: Callable[[], Document], number: int | None, reading: Reading, task: Task, outcome: Outcome) -> None:
    """Do ``task`` with a document, or note why there is none."""
    try:
        document = reading.wanted(read())
    except LeftOutError as error:
        outcome.leave_out(LeftOut.because(error, place_of(outcome.origin.path, number)))
        return
    if document.repaired:
        outcome.problems.add("bad_utf8", place_of(outcome.origin.path, number))
    task.document(document, number, outcome)


@dataclass(frozen=True, slots=True)
class CollectCharacters:
    """Which characters are there? The first pass of a ``char`` dataset."""

    def document(self, document: Document, number: int | None, into: Outcome) -> None:
        into.characters.update(document.text)

    def chunk(self, chunk: Chunk, into: Outcome) -> None:
        into.characters.update(chunk.text)


class Encode:
    """Text to tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._eot = np.array([tokenizer.eot_id], np.uint32)

    def document(self, document: Document, number: int | None, into: Outcome) -> None:
        ids = self._tokenizer.encode(document.text)
        into.ids += (ids, self._eot)
        piece = Piece(document.digest, len(ids) + 1, document.text_bytes, True, document.sketch, number)
        into.pieces.append(piece)

    def chunk(self, chunk: Chunk, into: Outcome) -> None:
        ids = self._tokenizer.encode(chunk.text)
        into.ids += (ids, self._eot) if chunk.is_last else (ids,)
        tokens, text_bytes = len(ids) + chunk.is_last, len(chunk.text.encode())
        into.pieces.append(Piece(chunk.digest, tokens, text_bytes, chunk.is_last, chunk.sketch, chunk.number))
