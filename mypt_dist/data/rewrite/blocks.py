"""The tokens of a dataset in pieces, with what stands beside them; compared with their hashes on the way."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mypt_dist.data.companions import COMPANIONS, Companion
from mypt_dist.data.entries import CompanionEntry
from mypt_dist.data.manifest import FILE, DatasetManifest, ShardEntry
from mypt_dist.data.progress import BytesDone
from mypt_dist.data.scan import FileScan
from mypt_dist.data.shards import little_endian, open_shard
from mypt_dist.errors import DataError

BLOCK_TOKENS = 1 << 19
"""In a piece, at most: a few megabytes."""


@dataclass(frozen=True, slots=True)
class Block:
    """Some neighbouring tokens, and what stands beside each."""

    tokens: NDArray[Any]
    """(n,) unsigned integers."""
    companions: Mapping[Companion, NDArray[Any]] = field(default_factory=dict)
    """(n,) each."""

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, part: slice) -> "Block":
        return Block(self.tokens[part], {kind: values[part] for kind, values in self.companions.items()})


def without_padding(block: Block) -> Block:
    """What is text of ``block``: all of it, unless segments say otherwise."""
    segments = block.companions.get("segments")
    if segments is None or segments.all():
        return block
    is_text = segments != 0
    return Block(block.tokens[is_text], {kind: values[is_text] for kind, values in block.companions.items()})


def dataset_blocks(folder: Path, manifest: DatasetManifest, split: str, done: BytesDone) -> Iterator[Block]:
    """All tokens of ``split``, in order. Raises `DataError` for a file that is not what the manifest says."""
    for entry in manifest.split(split).shards:
        open_shard(folder, entry, manifest.dtype, manifest.tokenizer.fingerprint)
        yield from _shard_blocks(folder, entry, manifest, done)


def _shard_blocks(folder: Path, entry: ShardEntry, manifest: DatasetManifest, done: BytesDone) -> Iterator[Block]:
    companions = entry.companions or {}
    with ExitStack() as stack:
        tokens = _Column(stack, folder, entry, little_endian(manifest.dtype))
        beside = {kind: _Column(stack, folder, item, COMPANIONS[kind]) for kind, item in companions.items()}
        done.add(tokens.skip(entry.begin))
        while len(ids := tokens.read(BLOCK_TOKENS)):
            if int(ids.max(initial=0)) >= manifest.vocab_size:
                raise DataError(
                    f"{folder / entry.file} is damaged: it holds token {ids.max():,}, the vocabulary has "
                    f"{manifest.vocab_size:,}; see: mypt data verify"
                )
            block = Block(ids, {kind: column.read(BLOCK_TOKENS) for kind, column in beside.items()})
            done.add(ids.nbytes + sum(values.nbytes for values in block.companions.values()))
            yield block
        for column in (tokens, *beside.values()):
            column.check()


class _Column:
    """A file of values that is read from its first byte to its last."""

    def __init__(
        self, stack: ExitStack, folder: Path, entry: ShardEntry | CompanionEntry, dtype: "np.dtype[Any]"
    ) -> None:
        self._path, self._entry, self._dtype = folder / entry.file, entry, dtype
        self._scan = FileScan()
        try:
            self._file: IO[bytes] = stack.enter_context(self._path.open("rb"))
        except OSError as error:
            raise DataError(f"{self._path} cannot be read: {error.strerror}") from None

    def skip(self, size: int) -> int:
        return len(self._bytes(size))

    def read(self, count: int) -> NDArray[Any]:
        data = self._bytes(count * self._dtype.itemsize)
        return np.frombuffer(data, self._dtype, len(data) // self._dtype.itemsize)

    def check(self) -> None:
        if self._scan.sha256 != self._entry.sha256:
            raise DataError(
                f"{self._path} is damaged: it has sha256 {self._scan.sha256}, {FILE} says {self._entry.sha256}; "
                "see: mypt data verify"
            )

    def _bytes(self, size: int) -> bytes:
        try:
            data = self._file.read(size)
        except OSError as error:
            raise DataError(f"{self._path} cannot be read: {error.strerror}") from None
        self._scan.add(data)
        return data
