"""Which split does a document go to, and what is counted?"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from mypt_dist.data.prepare.documents import is_held_out
from mypt_dist.data.prepare.settings import PrepareSettings
from mypt_dist.data.prepare.work import Outcome, Piece, Problems
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

    def __init__(self, writers: Mapping[str, SplitWriter], settings: PrepareSettings) -> None:
        self._writers, self._settings = writers, settings
        self.taken: defaultdict[int, Taken] = defaultdict(Taken)
        """By index of the input."""
        self.problems = Problems()
        self._seen: set[bytes] = set()
        self._is_inside_document = False
        self._is_kept = True

    def take(self, outcome: Outcome) -> None:
        """Write the tokens of ``outcome``. Raises `DataError` where the disk refuses."""
        self.problems.merge(outcome.problems)
        if not outcome.pieces:
            return
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
            self._is_kept = not self._settings.dedup or self._is_new(piece, outcome)
        self._is_inside_document = not piece.is_last
        if not self._is_kept:
            return None
        return "val" if is_held_out(piece.digest, self._settings.val_fraction) else "train"

    def _is_new(self, piece: Piece, outcome: Outcome) -> bool:
        if piece.digest in self._seen:
            self.problems.add("duplicates", outcome.origin.path)
            return False
        self._seen.add(piece.digest)
        return True

    def _write(self, split: str, tokens: NDArray[np.uint32], pieces: list[Piece], taken: Taken) -> None:
        text_bytes, documents = sum(piece.text_bytes for piece in pieces), sum(piece.is_last for piece in pieces)
        self._writers[split].write(tokens, text_bytes=text_bytes, documents=documents)
        taken.documents += documents
        taken.text_bytes += text_bytes
        taken.content.update(b"".join(piece.digest for piece in pieces if piece.is_last))
