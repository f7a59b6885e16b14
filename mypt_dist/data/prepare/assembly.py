"""Which split does a document go to, and what is counted?"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from mypt_dist.data.filters import Chain
from mypt_dist.data.filters.duplicates import SketchTable
from mypt_dist.data.prepare.documents import is_held_out
from mypt_dist.data.prepare.journal import Journal, Position
from mypt_dist.data.prepare.work import LeftOut, Outcome, Piece, Problems, place_of
from mypt_dist.data.prepare.writer import SplitWriter


@dataclass(slots=True)
class Taken:
    """What came of one input."""

    documents: int = 0
    text_bytes: int = 0
    content: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    """Of the hashes of its documents, in order."""


class Assembly:
    """Takes outcomes in order and writes their tokens. One thread, so that the result does not depend on timing."""

    def __init__(
        self, writers: Mapping[str, SplitWriter], val_fraction: float, chain: Chain, journal: Journal | None = None
    ) -> None:
        """``journal``: of a preparation of a single input that may be gone on with."""
        self._writers, self._val_fraction, self._chain, self._journal = writers, val_fraction, chain, journal
        self.taken: defaultdict[int, Taken] = defaultdict(Taken)
        """By index of the input."""
        self.problems = Problems()
        self.works = self.read = 0
        """Pieces of work that were taken, and bytes on disk that they were."""
        self._seen: set[bytes] = set()
        self._sketches = SketchTable(chain.near.memory_mb) if chain.near else None
        self._is_inside_document = False
        self._is_kept = True

    def take(self, outcome: Outcome) -> None:
        """Write the tokens of ``outcome``. Raises `DataError` where the disk refuses."""
        if outcome.pieces:
            self._take_pieces(outcome)
        self.problems.merge(outcome.problems)
        self.works += 1
        self.read += outcome.origin.read
        if self._journal:
            self._journal.reject(outcome.left_out)
            if self._journal.is_due(self.read) and not self._is_inside_document:
                self._journal.save(self._position(self._journal))

    def go_on(self, after: Position, journal: Journal) -> None:
        """Take up what another assembly has left at a position. Raises `DataError` where its files are not there."""
        self.works, self.read = after.works, after.read
        self.problems.counts.update(after.counts)
        self.problems.examples = {kind: list(names) for kind, names in after.examples.items()}
        taken = self.taken[0]
        taken.documents, taken.text_bytes = after.documents, after.text_bytes
        for digest, sketch in journal.kept(after.kept):
            taken.content.update(digest)
            self._remember(digest, sketch)
        for split, writer in self._writers.items():
            writer.go_on(after.splits[split])

    def _position(self, journal: Journal) -> Position:
        kept, rejects = journal.sizes()
        return Position(
            identity=journal.identity,
            works=self.works,
            read=self.read,
            splits={split: writer.pause() for split, writer in self._writers.items()},
            documents=self.taken[0].documents,
            text_bytes=self.taken[0].text_bytes,
            counts=dict(self.problems.counts),
            examples={kind: tuple(names) for kind, names in self.problems.examples.items()},
            kept=kept,
            rejects=rejects,
        )

    def _take_pieces(self, outcome: Outcome) -> None:
        tokens = np.concatenate(outcome.ids)
        begin = 0
        # Neighbours of the same fate are written at once: documents may be tiny.
        for fate, group in groupby(outcome.pieces, key=lambda piece: self._fate(piece, outcome)):
            pieces = list(group)
            end = begin + sum(piece.tokens for piece in pieces)
            if fate is not None:
                self._write(fate, tokens[begin:end], pieces, self.taken[outcome.origin.argument])
            begin = end

    def _fate(self, piece: Piece, outcome: Outcome) -> str | None:
        """The split a piece belongs to, or None where it is a duplicate."""
        if not self._is_inside_document:
            self._is_kept = self._is_new(piece, outcome)
        self._is_inside_document = not piece.is_last
        if not self._is_kept:
            return None
        return "val" if is_held_out(piece.digest, self._val_fraction) else "train"

    def _is_new(self, piece: Piece, outcome: Outcome) -> bool:
        if reason := self._likeness(piece):
            outcome.leave_out(LeftOut(reason, place_of(outcome.origin.path, piece.number)))
            return False
        self._remember(piece.digest, piece.sketch)
        if self._journal:
            self._journal.keep(piece)
        return True

    def _likeness(self, piece: Piece) -> str | None:
        """How a document is like one that was kept, if it is."""
        if self._chain.exact and piece.digest in self._seen:
            return "duplicates"
        if self._sketches and piece.sketch and self._sketches.has_like(piece.sketch):
            return "near_duplicates"
        return None

    def _remember(self, digest: bytes, sketch: bytes) -> None:
        if self._chain.exact:
            self._seen.add(digest)
        if self._sketches and sketch:
            self._sketches.add(sketch)

    def _write(self, split: str, tokens: NDArray[np.uint32], pieces: list[Piece], taken: Taken) -> None:
        text_bytes, documents = sum(piece.text_bytes for piece in pieces), sum(piece.is_last for piece in pieces)
        self._writers[split].write(tokens, text_bytes=text_bytes, documents=documents)
        taken.documents += documents
        taken.text_bytes += text_bytes
        taken.content.update(b"".join(piece.digest for piece in pieces if piece.is_last))
