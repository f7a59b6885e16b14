"""What does a file of tokens look like, and is it the one the manifest speaks of?

A shard is a header of 64 bytes and then its tokens, all little-endian. Opening one reads the header only, so it costs
the same for 10^3 and 10^12 tokens; `mypt_dist.data.verify` reads everything.
"""

import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mypt_dist.data.companions import COMPANIONS, Companion
from mypt_dist.data.manifest import HEADER_BYTES, Dtype, ShardEntry
from mypt_dist.errors import DataError

MAGIC = b"MYPTSHRD"
VERSION = 1

TOKENIZER_DIGITS = 32
"""How much of the tokenizer's fingerprint a header holds."""

_HEADER = struct.Struct("<8sIIQI16s16xI")
_CHECKED = HEADER_BYTES - 4


@dataclass(frozen=True, slots=True)
class ShardHeader:
    """What a shard says of itself."""

    dtype: Dtype
    tokens: int
    vocab_size: int
    tokenizer: str
    """The first 32 hexadecimal digits of the tokenizer's fingerprint."""

    def pack(self) -> bytes:
        """The 64 bytes: magic, version, token size, tokens, vocabulary, tokenizer, 16 zeros, CRC-32 of all before."""
        head = _HEADER.pack(
            MAGIC,
            VERSION,
            np.dtype(self.dtype).itemsize,
            self.tokens,
            self.vocab_size,
            bytes.fromhex(self.tokenizer),
            0,
        )[:_CHECKED]
        return head + struct.pack("<I", zlib.crc32(head))

    @classmethod
    def unpack(cls, data: bytes, where: str) -> "ShardHeader":
        """The header in ``data``. Raises `DataError` naming ``where`` and what is wrong."""
        if len(data) < HEADER_BYTES:
            raise DataError(f"{where} ends inside its header: {len(data)} of {HEADER_BYTES} bytes")
        magic, version, itemsize, tokens, vocab_size, tokenizer, crc = _HEADER.unpack(data[:HEADER_BYTES])
        if magic != MAGIC:
            raise DataError(f"{where} is not a token shard: it begins with {magic!r}, expected {MAGIC!r}")
        if crc != zlib.crc32(data[:_CHECKED]):
            raise DataError(f"{where}: the header is damaged, its checksum does not match")
        if version != VERSION:
            raise DataError(f"{where} has shard format {version}, this version of mypt-dist reads {VERSION}")
        if itemsize not in (2, 4):
            raise DataError(f"{where}: tokens of {itemsize} bytes, expected 2 or 4")
        return cls("uint16" if itemsize == 2 else "uint32", tokens, vocab_size, tokenizer.hex())


def little_endian(dtype: Dtype) -> "np.dtype[Any]":
    """The type of tokens on disk."""
    return np.dtype(dtype).newbyteorder("<")


def open_companion(folder: Path, entry: ShardEntry, kind: Companion) -> NDArray[Any]:
    """What stands beside the tokens of a shard, see `companion_shards`, as `open_shard`. Raises `DataError`."""
    return _opened(folder, entry, COMPANIONS[kind], {})


def open_shard(folder: Path, entry: ShardEntry, dtype: Dtype, fingerprint: str | None = None) -> NDArray[Any]:
    """The tokens of a shard as a read-only `numpy.memmap`, shape (entry.tokens,).

    Size and header, if it is a shard of ours, are compared with the manifest's ``entry`` and ``dtype`` and, where
    given, with the ``fingerprint`` of its tokenizer; the tokens are not read. Raises `DataError` naming the file and
    both values.
    """
    expected: dict[str, object] = {"dtype": dtype, "tokens": entry.tokens}
    if fingerprint is not None:
        expected["tokenizer"] = fingerprint[:TOKENIZER_DIGITS]
    return _opened(folder, entry, little_endian(dtype), expected)


def _opened(folder: Path, entry: ShardEntry, dtype: "np.dtype[Any]", expected: Mapping[str, object]) -> NDArray[Any]:
    path = folder / entry.file
    try:
        with path.open("rb") as file:
            _check_size(file, path, entry)
            if entry.offset is None:
                check_header(file.read(HEADER_BYTES), path, expected)
            return np.memmap(file, dtype, "r", entry.begin, (entry.tokens,))
    except FileNotFoundError:
        raise DataError(f"{path} is missing; dataset.json lists it with {entry.tokens:,} tokens") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def read_tokens(folder: Path, entry: ShardEntry, dtype: Dtype, block_bytes: int = 1 << 20) -> Iterator[NDArray[Any]]:
    """The tokens of a shard in bounded pieces; read, not mapped, so that they never count as our memory.

    Raises `DataError` where the file cannot be read.
    """
    path = folder / entry.file
    try:
        with path.open("rb") as file:
            file.seek(entry.begin)
            while block := file.read(block_bytes):
                yield np.frombuffer(block, little_endian(dtype))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def check_header(data: bytes, path: Path | str, expected: Mapping[str, object]) -> None:
    """Compare fields of the header in ``data`` with ``expected``. Raises `DataError` naming ``path`` and both."""
    header = ShardHeader.unpack(data, str(path))
    for name, right in expected.items():
        found = getattr(header, name)
        if found != right:
            raise DataError(f"{path}: its header says {name} {found}, dataset.json says {right}")


def _check_size(file: IO[bytes], path: Path, entry: ShardEntry) -> None:
    size = os.fstat(file.fileno()).st_size
    if size != entry.bytes:
        raise DataError(f"{path} has {size:,} bytes, dataset.json says {entry.bytes:,}")
