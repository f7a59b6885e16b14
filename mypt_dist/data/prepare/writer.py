"""How do tokens reach the disk, hashed on the way?"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mypt_dist.data.blocks import BlockChecksums
from mypt_dist.data.manifest import HEADER_BYTES, SPLITS, ShardEntry, SplitEntry, dtype_for, shard_name
from mypt_dist.data.shards import TOKENIZER_DIGITS, ShardHeader, little_endian
from mypt_dist.errors import DataError
from mypt_dist.tokenizers import Tokenizer

BUFFER_BYTES = 1 << 20
"""What is gathered before it is hashed and written."""


class SplitWriter:
    """Writes the stream of tokens of one split as shards of equal size, but for the last."""

    def __init__(self, folder: Path, split: str, tokenizer: Tokenizer, shard_tokens: int) -> None:
        """``folder`` is the dataset's; the split's own is made in it. Raises `DataError`."""
        self._folder, self._split, self._tokenizer, self._shard_tokens = folder, split, tokenizer, shard_tokens
        self._dtype = little_endian(dtype_for(tokenizer.vocab_size))
        self._buffer: list[NDArray[Any]] = []
        self._buffered = 0
        self._shard: _Shard | None = None
        self._entries: list[ShardEntry] = []
        self.tokens = self.documents = self.text_bytes = 0
        with writing(folder / split):
            (folder / split).mkdir()

    def write(self, tokens: NDArray[np.uint32], *, text_bytes: int, documents: int) -> None:
        """Append tokens, shape (n,). Raises `DataError` where the disk refuses."""
        # Before the cast, which would wrap a wrong id into a right-looking one.
        if tokens.max(initial=0) >= self._tokenizer.vocab_size:
            raise DataError(f"token {tokens.max()} is not one of the {self._tokenizer.vocab_size:,} of the vocabulary")
        self._buffer.append(tokens.astype(self._dtype))
        self._buffered += self._buffer[-1].nbytes
        self.tokens += len(tokens)
        self.text_bytes += text_bytes
        self.documents += documents
        if self._buffered >= BUFFER_BYTES:
            self._flush()

    def close(self) -> SplitEntry:
        """Finish the last shard. Everything is on the disk when this returns."""
        self._flush()
        if self._shard:
            self._finish_shard(self._shard)
        return SplitEntry(
            tokens=self.tokens, documents=self.documents, bytes=self.text_bytes, shards=tuple(self._entries)
        )

    def abandon(self) -> None:
        """Close the open file, if any."""
        if self._shard:
            self._shard.file.close()

    def _flush(self) -> None:
        tokens = np.concatenate(self._buffer) if self._buffer else np.empty(0, self._dtype)
        self._buffer, self._buffered = [], 0
        while len(tokens):
            if self._shard is None:
                name = shard_name(self._split, len(self._entries))
                self._shard = _Shard(self._folder, name)
                self._shard.begin(self._header(self._shard_tokens))
            room = self._shard_tokens - self._shard.tokens
            self._shard.write(tokens[:room])
            tokens = tokens[room:]
            if self._shard.tokens == self._shard_tokens:
                self._finish_shard(self._shard)

    def _finish_shard(self, shard: "_Shard") -> None:
        self._entries.append(shard.finish(self._header(shard.tokens)))
        self._shard = None

    def _header(self, tokens: int) -> bytes:
        fingerprint, size = self._tokenizer.fingerprint, self._tokenizer.vocab_size
        return ShardHeader(dtype_for(size), tokens, size, fingerprint[:TOKENIZER_DIGITS]).pack()


class _Shard:
    """A shard that is being written."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path, self._name = folder / name, name
        self._header = b""
        self._hash = hashlib.sha256()
        self._blocks = BlockChecksums()
        self.tokens = 0
        with writing(self._path):
            # Closed by finish or by the writer; unbuffered, because what arrives is large.
            self.file: IO[bytes] = self._path.open("x+b", buffering=0)

    def begin(self, header: bytes) -> None:
        """``header``: of the full shard, which all but the last will be."""
        self._header = header
        self._count(header)
        self._append(header)

    def write(self, tokens: NDArray[Any]) -> None:
        data = tokens.data.cast("B")
        self._count(data)
        self._append(data)
        self.tokens += len(tokens)

    def finish(self, header: bytes) -> ShardEntry:
        with writing(self._path):
            if header != self._header:
                self._rewrite(header)
            os.fsync(self.file.fileno())
            size = self.file.seek(0, os.SEEK_END)
            self.file.close()
        return ShardEntry(
            file=self._name,
            bytes=size,
            tokens=self.tokens,
            sha256=self._hash.hexdigest(),
            crc32=self._blocks.hexdigest(),
        )

    def _rewrite(self, header: bytes) -> None:
        """The hash of the last, shorter shard begins with another header, so it is taken again."""
        assert len(header) == HEADER_BYTES
        self.file.seek(0)
        self._append(header)
        self.file.seek(0)
        self._hash, self._blocks = hashlib.sha256(), BlockChecksums()
        while block := self.file.read(BUFFER_BYTES):
            self._count(block)

    def _count(self, data: "bytes | memoryview[Any]") -> None:
        self._hash.update(data)
        self._blocks.update(data)

    def _append(self, data: "bytes | memoryview[Any]") -> None:
        view = memoryview(data)
        with writing(self._path):
            while view:
                view = view[self.file.write(view) :]


@contextmanager
def split_writers(folder: Path, tokenizer: Tokenizer, shard_tokens: int) -> Iterator[dict[str, SplitWriter]]:
    """A writer for each split of the dataset in ``folder``, whose files do not stay open whatever happens."""
    writers: dict[str, SplitWriter] = {}
    try:
        for name in SPLITS:
            writers[name] = SplitWriter(folder, name, tokenizer, shard_tokens)
        yield writers
    finally:
        for writer in writers.values():
            writer.abandon()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the system says about writing ``path`` into a `DataError`."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}; nothing was kept") from None
