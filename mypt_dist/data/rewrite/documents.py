"""Where do the documents of a dataset end, and which of them are alike?"""

from collections.abc import Iterable, Iterator
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from mypt_dist.data.rewrite.blocks import Block

HASH_KEY = b"mypt-dist token documents 1"


Span = tuple[int, int, bool]
"""A part of a block that is of one document: begin, end, and whether the document ends there. Never empty, but where a
document ends exactly between two blocks."""


class Documents:
    """Finds what belongs to one document, over any number of blocks."""

    def __init__(self, eot_id: int) -> None:
        self._eot_id = eot_id
        self._last, self._is_begun = 0, False

    def spans(self, block: Block) -> Iterator[Span]:
        """The parts of ``block``, in order.

        A document ends with its end of text; where there are segments, before the next one begins, so that padding
        stays with what it follows.
        """
        begin = 0
        for end in self.ends(block).tolist():
            yield begin, end, True
            begin = end
        if begin < len(block):
            yield begin, len(block), False

    def ends(self, block: Block) -> NDArray[np.int64]:
        """Offsets in ``block`` before which a document ends; the last one may go on."""
        segments = block.companions.get("segments")
        if segments is None:
            return np.flatnonzero(block.tokens == self._eot_id) + 1
        is_other = np.diff(segments.astype(np.int16), prepend=np.int16(self._last)) != 0
        self._last = int(segments[-1])
        begins = np.flatnonzero(is_other & (segments != 0))
        if len(begins) and not self._is_begun:
            # Nothing ends where the first begins.
            self._is_begun, begins = True, begins[1:]
        return begins


def document_hashes(blocks: Iterable[Block], eot_id: int) -> Iterator[int]:
    """Of each document, the first 64 bits of the hash of its tokens. The last counts without an end, too."""
    documents, content, is_begun = Documents(eot_id), _new_hash(), False
    for block in blocks:
        data = block.tokens.astype("<u4").data.cast("B")
        for begin, end, is_end in documents.spans(block):
            content.update(data[4 * begin : 4 * end])
            is_begun = is_begun or begin < end
            if is_end and is_begun:
                yield _first_bits(content)
                content, is_begun = _new_hash(), False
    if is_begun:
        yield _first_bits(content)


def routed(blocks: Iterable[Block], eot_id: int, fates: Iterator[str]) -> Iterator[tuple[str, Block]]:
    """All tokens of ``blocks``, each with the fate of its document; neighbours of one fate together.

    ``fates``: one for each document, asked for when it begins, so that memory does not depend on documents' lengths.
    """
    documents = Documents(eot_id)
    fate: str | None = None
    for block in blocks:
        run, run_fate = 0, fate
        for begin, end, is_end in documents.spans(block):
            if begin < end and fate is None:
                fate = next(fates)
                if run_fate is not None and run_fate != fate:
                    yield run_fate, block[run:begin]
                    run = begin
                run_fate = fate
            if is_end:
                fate = None
        if run_fate is not None and run < len(block):
            yield run_fate, block[run:]


def _new_hash() -> blake2b:
    return blake2b(digest_size=16, key=HASH_KEY)


def _first_bits(content: blake2b) -> int:
    return int.from_bytes(content.digest()[:8], "big")
