"""What is one piece of work for a thread, and what comes back?"""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mypt_dist.data.prepare.documents import (
    Document,
    LeftOutError,
    OnBadUtf8,
    ProblemKind,
    document_from_bytes,
    document_from_line,
)
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
    """Whole lines of JSON Lines."""

    origin: Origin
    data: bytes
    first: int
    """Number of the first line, from 1."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of one large document."""

    origin: Origin
    text: str
    digest: bytes
    """Of the whole document."""
    is_last: bool


@dataclass(frozen=True, slots=True)
class Nothing:
    """Bytes that were read without giving a document, and why."""

    origin: Origin
    problem: tuple[ProblemKind, str] | None = None


Work = WholeFile | Whole | Lines | Chunk | Nothing


@dataclass(frozen=True, slots=True)
class Piece:
    """A document, or a part of a large one, among the tokens of an `Outcome`."""

    digest: bytes
    """Of the whole document."""
    tokens: int
    """How many, with the end of text where ``is_last``."""
    text_bytes: int
    is_last: bool


@dataclass(slots=True)
class Outcome:
    """What became of one piece of work."""

    origin: Origin
    pieces: list[Piece] = field(default_factory=list)
    ids: list[NDArray[np.uint32]] = field(default_factory=list)
    """The tokens of the pieces, one after another."""
    characters: set[str] = field(default_factory=set)
    problems: Problems = field(default_factory=Problems)


class Task(Protocol):
    """What is done with each text, in a thread."""

    def document(self, document: Document, into: Outcome) -> None: ...

    def chunk(self, chunk: Chunk, into: Outcome) -> None: ...


@dataclass(frozen=True, slots=True)
class Reading:
    """How documents are taken from bytes."""

    text_field: str
    on_bad: OnBadUtf8


def perform(work: Work, reading: Reading, task: Task) -> Outcome:
    """Do one piece of work. Runs in any thread."""
    match work:
        case WholeFile(origin):
            return _whole_file(origin, reading, task)
        case Whole(origin, data):
            return _whole(origin, data, reading, task)
        case Lines():
            return _lines(work, reading, task)
        case Chunk():
            outcome = Outcome(work.origin)
            task.chunk(work, outcome)
            return outcome
        case Nothing(origin, problem):
            outcome = Outcome(origin)
            if problem:
                outcome.problems.add(*problem)
            return outcome


def _whole_file(origin: Origin, reading: Reading, task: Task) -> Outcome:
    try:
        with TextBytes(origin.path, "") as file:
            data = file.read_up_to(2 * WHOLE_BYTES)
    except UnreadableError as error:
        outcome = Outcome(origin)
        outcome.problems.add("unreadable_files", f"{origin.path}: {error}")
        return outcome
    if len(data) == 2 * WHOLE_BYTES:
        raise DataError(f"{origin.path} grew while it was being read; prepare again when it is complete")
    return _whole(origin, data, reading, task)


def _whole(origin: Origin, data: bytes, reading: Reading, task: Task) -> Outcome:
    outcome = Outcome(origin)
    try:
        document = document_from_bytes(data, reading.on_bad)
    except LeftOutError as left_out:
        outcome.problems.add(left_out.kind, origin.path)
        return outcome
    if document.repaired:
        outcome.problems.add("bad_utf8", origin.path)
    task.document(document, outcome)
    return outcome


def _lines(work: Lines, reading: Reading, task: Task) -> Outcome:
    outcome = Outcome(work.origin)
    for number, line in enumerate(work.data.split(b"\n"), work.first):
        if not line.strip():
            continue
        try:
            document = document_from_line(line, reading.text_field, reading.on_bad)
        except LeftOutError as left_out:
            outcome.problems.add(left_out.kind, f"{work.origin.path}:{number}")
            continue
        if document.repaired:
            outcome.problems.add("bad_utf8", f"{work.origin.path}:{number}")
        task.document(document, outcome)
    return outcome


@dataclass(frozen=True, slots=True)
class CollectCharacters:
    """Which characters are there? The first pass of a ``char`` dataset."""

    def document(self, document: Document, into: Outcome) -> None:
        into.characters.update(document.text)

    def chunk(self, chunk: Chunk, into: Outcome) -> None:
        into.characters.update(chunk.text)


class Encode:
    """Text to tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._eot = np.array([tokenizer.eot_id], np.uint32)

    def document(self, document: Document, into: Outcome) -> None:
        ids = self._tokenizer.encode(document.text)
        into.ids += (ids, self._eot)
        into.pieces.append(Piece(document.digest, len(ids) + 1, document.text_bytes, is_last=True))

    def chunk(self, chunk: Chunk, into: Outcome) -> None:
        ids = self._tokenizer.encode(chunk.text)
        into.ids += (ids, self._eot) if chunk.is_last else (ids,)
        into.pieces.append(Piece(chunk.digest, len(ids) + chunk.is_last, len(chunk.text.encode()), chunk.is_last))
