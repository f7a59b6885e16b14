"""Is every byte of a dataset still as it was written?"""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from mypt_dist.data.blocks import BLOCK_BYTES, BlockChecksums, checksums
from mypt_dist.data.manifest import FILE, HEADER_BYTES, SPLITS, DatasetManifest, ShardEntry
from mypt_dist.data.shards import TOKENIZER_DIGITS, check_header, little_endian
from mypt_dist.errors import DataError

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


def verify_dataset(folder: Path, progress: Progress | None = None) -> list[str]:
    """Everything that is wrong with the dataset in ``folder``, one sentence each; empty if it is whole.

    Reads every byte: the manifest must be the exact text that was written, every listed file must be there with its
    size, sha256 and header and with ids of the vocabulary only, and there must be no other file.

    Raises `ConfigError` where there is no dataset.
    """
    try:
        manifest = DatasetManifest.read(folder)
        manifest.load_tokenizer()
        is_original = (folder / FILE).read_bytes() == manifest.to_bytes()
    except DataError as error:
        return [str(error)]
    problems = [] if is_original else [f"{folder / FILE} was edited: it says the same in another spelling"]
    meter = _Meter(manifest, progress or (lambda _done, _total: None))
    for name in SPLITS:
        split = manifest.split(name)
        documents = 0
        for entry in split.shards:
            shard = _Shard(folder / entry.file, entry, manifest)
            problems += shard.problems(meter)
            documents += shard.documents
        if documents != split.documents and not problems:
            problems.append(f"{name} holds {documents:,} documents, {FILE} says {split.documents:,}")
    return problems + _unlisted(folder, manifest)


class _Meter:
    def __init__(self, manifest: DatasetManifest, progress: Progress) -> None:
        self._total = sum(entry.bytes for name in SPLITS for entry in manifest.split(name).shards)
        self._done = 0
        self._progress = progress

    def add(self, size: int) -> None:
        self._done += size
        self._progress(self._done, self._total)


class _Shard:
    """One shard, read from its first byte to its last."""

    def __init__(self, path: Path, entry: ShardEntry, manifest: DatasetManifest) -> None:
        self._path, self._entry, self._manifest = path, entry, manifest
        self._hash = hashlib.sha256()
        self._blocks = BlockChecksums()
        self._dtype = little_endian(manifest.dtype)
        self._highest = 0
        self.documents = 0

    def problems(self, meter: _Meter) -> list[str]:
        try:
            with self._path.open("rb") as file:
                return list(self._check(file, meter))
        except FileNotFoundError:
            return [f"{self._path} is missing"]
        except OSError as error:
            return [f"{self._path} cannot be read: {error.strerror}"]

    def _check(self, file: IO[bytes], meter: _Meter) -> Iterator[str]:
        size = os.fstat(file.fileno()).st_size
        if size != self._entry.bytes:
            yield f"{self._path} has {size:,} bytes, {FILE} says {self._entry.bytes:,}"
            meter.add(self._entry.bytes)
            return
        header = file.read(HEADER_BYTES)
        self._hash.update(header)
        self._blocks.update(header)
        meter.add(len(header))
        while block := file.read(BLOCK_BYTES):
            self._read(block)
            meter.add(len(block))
        if not self._is_whole():
            where = self._damaged_blocks()
            yield f"{self._path} has sha256 {self._hash.hexdigest()}, {FILE} says {self._entry.sha256}{where}"
        yield from self._meaning(header)

    def _is_whole(self) -> bool:
        return self._hash.hexdigest() == self._entry.sha256

    def _damaged_blocks(self) -> str:
        """Where the damage is: what a run that skips it would leave out."""
        pairs = zip(checksums(self._entry.crc32 or ""), checksums(self._blocks.hexdigest()), strict=False)
        damaged = [str(number) for number, (right, found) in enumerate(pairs) if right != found]
        return f" (damaged blocks of 1 MiB: {', '.join(damaged)})" if damaged else ""

    def _read(self, block: bytes) -> None:
        self._hash.update(block)
        self._blocks.update(block)
        tokens = np.frombuffer(block, self._dtype, len(block) // self._dtype.itemsize)
        self._highest = max(self._highest, int(tokens.max(initial=0)))
        self.documents += int((tokens == self._manifest.eot_id).sum())

    def _meaning(self, header: bytes) -> Iterator[str]:
        """What a hash cannot tell: whether the right bytes were hashed in the first place."""
        if self._entry.crc32 not in (None, self._blocks.hexdigest()) and self._is_whole():
            yield f"{FILE} has wrong checksums of the blocks of {self._path}"
        expected = {
            "dtype": self._manifest.dtype,
            "tokens": self._entry.tokens,
            "vocab_size": self._manifest.vocab_size,
            "tokenizer": self._manifest.tokenizer.fingerprint[:TOKENIZER_DIGITS],
        }
        try:
            check_header(header, self._path, expected)
        except DataError as error:
            yield str(error)
        if self._highest >= self._manifest.vocab_size:
            yield f"{self._path} holds token {self._highest:,}, the vocabulary has {self._manifest.vocab_size:,}"


def _unlisted(folder: Path, manifest: DatasetManifest) -> list[str]:
    listed = {FILE, *(entry.file for name in SPLITS for entry in manifest.split(name).shards)}
    found = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if not path.is_dir())
    return [f"{folder / name} does not belong to the dataset" for name in found if name not in listed]
