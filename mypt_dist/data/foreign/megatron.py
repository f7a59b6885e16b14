"""Megatron's indexed datasets: ``.bin`` with tokens, ``.idx`` with where sequences and documents are.

An index is: ``MMIDIDX\\0\\0``, version (uint64), type of the tokens (uint8), sequences S and document borders D (uint64
each), then lengths (S int32), byte offsets (S int64), borders (D int64: numbers of sequences, from 0 to S), and in
multimodal datasets S int8 that are not used here. Documents become documents of ours: an end of text follows each that
does not bring its own.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mypt_dist.data.files import PatientFiles
from mypt_dist.data.foreign.dataset import Blocks, ForeignDataset, RawFile, as_ids, by_split, files_in, first_bytes
from mypt_dist.data.rewrite.blocks import BLOCK_TOKENS, Block
from mypt_dist.errors import DataError
from mypt_dist.tokenizers import Tokenizer

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")
TYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
"""Codes of integers. 6 and 7 are floating point numbers, which are no tokens."""
INDEX_BLOCK = 1 << 16
"""Entries of an index that are looked at together."""


class Megatron:
    name = "megatron"
    title = "indexed datasets of Megatron, .bin and .idx"

    def recognises(self, path: Path) -> bool:
        return any(first_bytes(file, len(MAGIC)) == MAGIC for file in _indexes(path))

    def open(self, path: Path) -> ForeignDataset:
        indexes = {index.bin.path: index for index in map(Index.open, _indexes(path))}
        splits = {s: files for s, files in by_split(tuple(index.bin for index in indexes.values())).items() if files}
        return ForeignDataset(
            self.name,
            files=tuple(path for index in indexes.values() for path in (index.path, index.bin.path)),
            tokens=sum(index.bin.count for index in indexes.values()),
            splits={split: _blocks(tuple(indexes[file.path] for file in files)) for split, files in splits.items()},
            facts={"documents_there": sum(index.documents for index in indexes.values())},
        )


@dataclass(frozen=True, slots=True)
class Index:
    """An ``.idx`` file: where the sequences of its ``.bin`` are, and which of them are one document."""

    path: Path
    bin: RawFile
    lengths: RawFile
    """(S,) tokens."""
    pointers: RawFile
    """(S,) bytes."""
    borders: RawFile
    """(D,) sequences."""

    @classmethod
    def open(cls, path: Path) -> "Index":
        """Look at its header and size. Raises `DataError`, or `ConfigError` where there is no ``.bin``."""
        header = first_bytes(path, HEADER.size)
        if len(header) < HEADER.size or not header.startswith(MAGIC):
            raise DataError(f"{path} is no index of Megatron: it does not begin with {MAGIC!r} and a header")
        _, version, code, sequences, borders = HEADER.unpack(header)
        if version != 1:
            raise DataError(f"{path} has version {version}, only 1 is known")
        if code not in TYPES:
            raise DataError(f"{path} says that tokens are of type {code}; integers are {', '.join(map(str, TYPES))}")
        size = RawFile.rest_of(path, "u1").count
        plain, multimodal = (HEADER.size + sequences * width + borders * 8 for width in (12, 13))
        if size not in (plain, multimodal):
            raise DataError(
                f"{path} has {size:,} bytes; {sequences:,} sequences and {borders:,} borders of documents need "
                f"{plain:,}: it was cut short, or is damaged"
            )
        at = HEADER.size
        return cls(
            path,
            RawFile.rest_of(path.with_suffix(".bin"), TYPES[code]),
            RawFile(path, at, sequences, np.dtype("<i4")),
            RawFile(path, at + 4 * sequences, sequences, np.dtype("<i8")),
            RawFile(path, at + 12 * sequences, borders, np.dtype("<i8")),
        )

    @property
    def documents(self) -> int:
        return max(0, self.borders.count - 1)

    def document_ends(self) -> Iterator[int]:
        """Behind which sequence each document ends. Raises `DataError` where borders do not go from 0 to S."""
        last: int | None = None
        for block in self.borders.blocks(INDEX_BLOCK):
            for border in block.tolist():
                if last is None and border != 0:
                    raise DataError(f"{self.path}: the first document begins at sequence {border}, not at 0")
                if last is not None:
                    if not last <= border <= self.lengths.count:
                        raise DataError(
                            f"{self.path}: a document goes from sequence {last} to {border}, of {self.lengths.count}"
                        )
                    yield border
                last = border
        if (last or 0) != self.lengths.count:
            raise DataError(f"{self.path}: documents end at sequence {last or 0}, there are {self.lengths.count:,}")

    def sequences(self) -> Iterator[tuple[int, int]]:
        """(first token, tokens) of each in the ``.bin``. Raises `DataError` where it points outside or between."""
        width = self.bin.dtype.itemsize
        for lengths, pointers in zip(self.lengths.blocks(INDEX_BLOCK), self.pointers.blocks(INDEX_BLOCK), strict=True):
            begins, rest = np.divmod(pointers, width)
            # Compared without a sum, which could pass the largest integer and come out negative.
            is_wrong = (
                (lengths < 0) | (pointers < 0) | (rest != 0) | (begins > self.bin.count - lengths.astype(np.int64))
            )
            if is_wrong.any():
                first = int(np.flatnonzero(is_wrong)[0])
                raise DataError(
                    f"{self.path}: a sequence of {lengths[first]:,} tokens at byte {pointers[first]:,} is not in "
                    f"{self.bin.path.name}, which has {self.bin.count:,} tokens of {width} bytes"
                )
            yield from zip(begins.tolist(), lengths.tolist(), strict=True)


def _indexes(path: Path) -> tuple[Path, ...]:
    """``path`` may be a folder, one of both files, or what their names have in common."""
    if path.suffix == ".bin" and path.with_suffix(".idx").is_file():
        return (path.with_suffix(".idx"),)
    prefix = path.with_name(f"{path.name}.idx")
    return files_in(path, ".idx") or ((prefix,) if not path.exists() and prefix.is_file() else ())


def _blocks(indexes: tuple[Index, ...]) -> Blocks:
    def blocks(tokenizer: Tokenizer) -> Iterator[Block]:
        files = PatientFiles()
        try:
            for index in indexes:
                for rows in _gathered(index, files, tokenizer.eot_id):
                    yield Block(as_ids(np.concatenate(rows), index.bin.path))
        finally:
            files.close()

    return blocks


def _gathered(index: Index, files: PatientFiles, eot_id: int) -> Iterator[list[NDArray[Any]]]:
    """Rows of ids that fill a block; an end of text after each document that has none."""
    end, last = np.array([eot_id], np.uint32), -1
    waiting, size = list[NDArray[Any]](), 0
    for row in _rows(index, files):
        if row is None and last == eot_id:
            continue
        waiting.append(end if row is None else row)
        last = int(waiting[-1][-1])
        size += len(waiting[-1])
        if size >= BLOCK_TOKENS:
            yield waiting
            waiting, size = [], 0
    if waiting:
        yield waiting


def _rows(index: Index, files: PatientFiles) -> Iterator[NDArray[Any] | None]:
    """The tokens of each document in rows, none empty; after a document that has any, None."""
    sequences, done = index.sequences(), 0
    for document_end in index.document_ends():
        is_empty = True
        while done < document_end:
            begin, length = next(sequences)
            done += 1
            for part in range(begin, begin + length, BLOCK_TOKENS):
                yield index.bin.read(files, part, min(BLOCK_TOKENS, begin + length - part))
                is_empty = False
        if not is_empty:
            yield None
