"""How do tokens reach the disk, hashed on the way?"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mypt_dist.config import Config
from mypt_dist.data.companions import COMPANIONS, Companion
from mypt_dist.data.entries import CompanionEntry, Count
from mypt_dist.data.manifest import SPLITS, ShardEntry, SplitEntry, companion_name, dtype_for, shard_name
from mypt_dist.data.scan import FileScan
from mypt_dist.data.shards import TOKENIZER_DIGITS, ShardHeader, little_endian
from mypt_dist.errors import DataError
from mypt_dist.tokenizers import Tokenizer

BUFFER_BYTES = 1 << 20
"""What is gathered before it is hashed and written."""


class OpenSplit(Config):
    """How far a split is written: enough to go on with it in another process."""

    tokens: Count
    documents: Count
    bytes: Count
    """UTF-8 text the tokens stand for."""
    shards: tuple[ShardEntry, ...]
    """Those that are finished."""
    open_tokens: Count
    """In the shard after them."""
    open_bytes: Count
    """Of that shard. Its file may be longer: what is behind was not meant to stay."""

    def files(self, split: str) -> dict[str, int]:
        """What must be there, with its least size."""
        open_shard = {shard_name(split, len(self.shards)): self.open_bytes} if self.open_tokens else {}
        return {shard.file: shard.bytes for shard in self.shards} | open_shard


class SplitWriter:
    """Writes the stream of tokens of one split as shards of equal size, but for the last."""

    def __init__(
        self,
        folder: Path,
        split: str,
        tokenizer: Tokenizer,
        shard_tokens: int,
        companions: Sequence[Companion] = (),
    ) -> None:
        """``folder`` is the dataset's; the split's own is made in it. Raises `DataError`."""
        self._folder, self._split, self._tokenizer, self._shard_tokens = folder, split, tokenizer, shard_tokens
        self._dtype = little_endian(dtype_for(tokenizer.vocab_size))
        self._kinds = tuple(companions)
        self._buffer: list[tuple[NDArray[Any], ...]] = []
        self._buffered = 0
        self._shard: _Shard | None = None
        self._entries: list[ShardEntry] = []
        self.tokens = self.documents = self.text_bytes = 0
        with writing(folder / split):
            (folder / split).mkdir(exist_ok=True)

    def write(
        self,
        tokens: NDArray[np.uint32],
        *,
        text_bytes: int,
        documents: int,
        companions: Mapping[Companion, NDArray[Any]] | None = None,
    ) -> None:
        """Append tokens (n,), and as many values of each companion. Raises `DataError` where the disk refuses."""
        # Before the cast, which would wrap a wrong id into a right-looking one.
        if tokens.max(initial=0) >= self._tokenizer.vocab_size:
            raise DataError(f"token {tokens.max()} is not one of the {self._tokenizer.vocab_size:,} of the vocabulary")
        beside = [(companions or {})[kind].astype(COMPANIONS[kind], copy=False) for kind in self._kinds]
        assert all(len(values) == len(tokens) for values in beside), "one value for each token"
        self._buffer.append((tokens.astype(self._dtype), *beside))
        self._buffered += sum(column.nbytes for column in self._buffer[-1])
        self.tokens += len(tokens)
        self.text_bytes += text_bytes
        self.documents += documents
        if self._buffered >= BUFFER_BYTES:
            self._flush()

    def go_on(self, from_: OpenSplit) -> None:
        """Take up what another writer, without companions, has left: all `OpenSplit.files`. Raises `DataError`."""
        self.tokens, self.documents, self.text_bytes = from_.tokens, from_.documents, from_.bytes
        self._entries = list(from_.shards)
        if from_.open_tokens:
            self._shard = _Shard(self._folder, self._split, len(self._entries), (), from_.open_bytes)
            self._shard.go_on(self._header(self._shard_tokens), from_.open_tokens)
        kept = {self._folder / name for name in from_.files(self._split)}
        with writing(self._folder / self._split):
            for path in set((self._folder / self._split).iterdir()) - kept:
                path.unlink()

    def pause(self) -> OpenSplit:
        """How far the split is; all of that is on the disk."""
        self._flush()
        if self._shard:
            self._shard.sync()
        return OpenSplit(
            tokens=self.tokens,
            documents=self.documents,
            bytes=self.text_bytes,
            shards=tuple(self._entries),
            open_tokens=self._shard.tokens if self._shard else 0,
            open_bytes=self._shard.size if self._shard else 0,
        )

    def close(self) -> SplitEntry:
        """Finish the last shard. Everything is on the disk when this returns."""
        self._flush()
        if self._shard:
            self._finish_shard(self._shard)
        return SplitEntry(
            tokens=self.tokens, documents=self.documents, bytes=self.text_bytes, shards=tuple(self._entries)
        )

    def abandon(self) -> None:
        """Close the open files, if any."""
        if self._shard:
            self._shard.close()

    def _flush(self) -> None:
        columns = [np.concatenate(parts) for parts in zip(*self._buffer, strict=True)]
        self._buffer, self._buffered = [], 0
        while columns and len(columns[0]):
            if self._shard is None:
                self._shard = _Shard(self._folder, self._split, len(self._entries), self._kinds)
                self._shard.begin(self._header(self._shard_tokens))
            room = self._shard_tokens - self._shard.tokens
            self._shard.write([column[:room] for column in columns])
            columns = [column[room:] for column in columns]
            if self._shard.tokens == self._shard_tokens:
                self._finish_shard(self._shard)

    def _finish_shard(self, shard: "_Shard") -> None:
        self._entries.append(shard.finish(self._header(shard.tokens)))
        self._shard = None

    def _header(self, tokens: int) -> bytes:
        fingerprint, size = self._tokenizer.fingerprint, self._tokenizer.vocab_size
        return ShardHeader(dtype_for(size), tokens, size, fingerprint[:TOKENIZER_DIGITS]).pack()


class _Shard:
    """A shard that is being written, and what stands beside its tokens."""

    def __init__(
        self, folder: Path, split: str, index: int, kinds: Sequence[Companion], kept_bytes: int | None = None
    ) -> None:
        """``kept_bytes``: how much stays of the file of tokens; None where it is new."""
        self._header = b""
        self._names = {kind: companion_name(split, index, kind) for kind in kinds}
        self._name = shard_name(split, index)
        self._files = [_HashedFile(folder / name, kept_bytes) for name in (self._name, *self._names.values())]
        self.tokens = 0

    def begin(self, header: bytes) -> None:
        """``header``: of the full shard, which all but the last will be."""
        self._header = header
        self._files[0].append(header)

    def go_on(self, header: bytes, tokens: int) -> None:
        """``tokens`` were kept. ``header``: see `begin`."""
        self._header, self.tokens = header, tokens

    @property
    def size(self) -> int:
        """Bytes of tokens and header."""
        return self._files[0].size

    def sync(self) -> None:
        for file in self._files:
            file.sync()

    def write(self, columns: Sequence[NDArray[Any]]) -> None:
        for file, column in zip(self._files, columns, strict=True):
            file.append(column.data.cast("B"))
        self.tokens += len(columns[0])

    def finish(self, header: bytes) -> ShardEntry:
        if header != self._header:
            self._files[0].overwrite_start(header)
        found, *beside = (file.finish() for file in self._files)
        companions = {
            kind: CompanionEntry(file=name, bytes=scan.bytes, sha256=scan.sha256, crc32=scan.crc32)
            for (kind, name), scan in zip(self._names.items(), beside, strict=True)
        }
        return ShardEntry(
            file=self._name,
            bytes=found.bytes,
            tokens=self.tokens,
            sha256=found.sha256,
            crc32=found.crc32,
            companions=companions or None,
        )

    def close(self) -> None:
        for file in self._files:
            file.file.close()


class _HashedFile:
    """A file whose bytes are hashed on their way to the disk."""

    def __init__(self, path: Path, kept_bytes: int | None = None) -> None:
        """``kept_bytes``: how much stays of a file that is there; None: there is none."""
        self._path = path
        self._scan = FileScan()
        with writing(path):
            # Closed by finish or by the writer; unbuffered, because what arrives is large.
            self.file: IO[bytes] = path.open("x+b" if kept_bytes is None else "r+b", buffering=0)
            if kept_bytes is not None:
                self.file.truncate(kept_bytes)
                self._hash_again()

    def append(self, data: "bytes | memoryview[Any]") -> None:
        self._scan.add(data)
        self._write(data)

    def overwrite_start(self, data: bytes) -> None:
        """The hash of the last, shorter shard begins with another header, so it is taken again."""
        with writing(self._path):
            self.file.seek(0)
            self._write(data)
            self._hash_again()

    @property
    def size(self) -> int:
        return self._scan.bytes

    def _hash_again(self) -> None:
        self.file.seek(0)
        self._scan = FileScan()
        while block := self.file.read(BUFFER_BYTES):
            self._scan.add(block)

    def sync(self) -> None:
        with writing(self._path):
            os.fsync(self.file.fileno())

    def finish(self) -> FileScan:
        self.sync()
        with writing(self._path):
            self.file.close()
        return self._scan

    def _write(self, data: "bytes | memoryview[Any]") -> None:
        view = memoryview(data)
        with writing(self._path):
            while view:
                view = view[self.file.write(view) :]


@contextmanager
def split_writers(
    folder: Path, tokenizer: Tokenizer, shard_tokens: int, companions: Sequence[Companion] = ()
) -> Iterator[dict[str, SplitWriter]]:
    """A writer for each split of the dataset in ``folder``, whose files do not stay open whatever happens."""
    writers: dict[str, SplitWriter] = {}
    try:
        for name in SPLITS:
            writers[name] = SplitWriter(folder, name, tokenizer, shard_tokens, companions)
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
